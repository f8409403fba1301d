"""The command line: thin wrappers that parse, call the library, and print.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 some images failed, 2 wrong
usage. Commands import what they need when they run, so that ``--help`` is instant.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .artimuse_core.errors import ArtiMuseError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from .artimuse_core.scorer import Scorer
    from .curation.records import Record

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

_existing_or_not = click.Path(path_type=Path)


class _Command(click.Command):
    """Turns our errors into one line on stderr and the right exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        # Pillow warns about oddities of single files; what matters of them is in the results.
        warnings.filterwarnings("ignore", module="PIL")
        # Read when Pillow is first imported. Blocks this large go back to the system when freed;
        # smaller ones pile up in each thread's heap, gigabytes of them where pictures are large.
        os.environ.setdefault("PILLOW_BLOCK_SIZE", "64m")
        try:
            return super().invoke(ctx)
        except ArtiMuseError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(WRONG_USAGE if isinstance(error, UsageError) else FAILED)


class _Group(click.Group):
    command_class = _Command


_Group.group_class = _Group


def _model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option(
            "--model",
            default="nano",
            envvar="ARTIMUSE_MODEL",
            show_envvar=True,
            show_default=True,
            help="nano (embedded), or a directory with an ONNX bundle or an official checkpoint.",
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps."),
        click.option(
            "--dtype", default="auto", show_default=True, help="auto, fp32, bf16 or fp16."
        ),
        click.option(
            "--batch-size", default=8, show_default=True, type=click.IntRange(1), help="Images."
        ),
        click.option(
            "--max-pixels",
            default=89.0,
            show_default=True,
            type=click.FloatRange(0, 178, min_open=True),
            help="Larger images are reported, not decoded; in megapixels.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _load(model: str, device: str, dtype: str, max_pixels: float) -> Scorer:
    """Load a model and say on stderr which one scores."""
    from .artimuse_core.scorer import Scorer

    scorer = Scorer.load(model, device, dtype, max_pixels=int(max_pixels * 1e6))
    click.echo(f"model {scorer.name} on {scorer.engine.device}: {scorer.card}", err=True)
    return scorer


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="artimuse")
@click.option("-v", "--verbose", count=True, help="Say more on stderr; twice for everything.")
def main(verbose: int) -> None:
    """Image aesthetics: score, rank and curate."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")


@main.command()
@click.argument("images", nargs=-1, required=True, type=_existing_or_not, metavar="IMAGE|DIR...")
@_model_options
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Subfolders too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def score(
    images: Sequence[Path],
    model: str,
    device: str,
    dtype: str,
    batch_size: int,
    max_pixels: float,
    recursive: bool,
    as_json: bool,
) -> None:
    """Score images, in the order of their paths."""
    import json

    from .curation.pipeline import score_files
    from .curation.scan import scan

    files = scan(images, recursive=recursive)
    scorer = _load(model, device, dtype, max_pixels)

    def show(record: Record) -> None:
        if as_json:
            row = record.as_dict()
            keys = ("path", "score", "std", "model", "error")
            click.echo(json.dumps({key: row[key] for key in keys}, ensure_ascii=False))
        elif record.error is None:
            click.echo(f"{record.score:6.2f} ± {record.std:5.2f}  {record.path}")

    records = score_files(scorer, files, batch_size=batch_size, on_record=show)
    _finish(records, len(files))


@main.command()
@click.argument("folders", nargs=-1, required=True, type=_existing_or_not, metavar="DIR...")
@click.option("--top", help="Keep the best: a count (20) or a share (10%, at least one).")
@click.option(
    "--min-score", type=click.FloatRange(0, 100), help="Keep only scores from here up (0-100)."
)
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Subfolders too.")
@_model_options
@click.option("--json", "as_json", is_flag=True, help="Print all records, one JSON object a line.")
@click.option("--out", type=_existing_or_not, help="Write all records to FILE.jsonl or FILE.csv.")
@click.option("--copy-to", type=_existing_or_not, help="Copy the kept images to this folder.")
def curate(
    folders: Sequence[Path],
    top: str | None,
    min_score: float | None,
    recursive: bool,
    model: str,
    device: str,
    dtype: str,
    batch_size: int,
    max_pixels: float,
    as_json: bool,
    out: Path | None,
    copy_to: Path | None,
) -> None:
    """Rank the images of folders and keep the best.

    Only reports, unless --copy-to is given; the images themselves are never changed.
    """
    from .curation import actions, records, report
    from .curation.pipeline import rank_records, score_files
    from .curation.scan import scan
    from .curation.selection import Top

    # Everything that can be wrong with the call is found out before the first image is scored.
    share = Top.parse(top) if top is not None else None
    if out is not None:
        records.check_format(out)
    if copy_to is not None:
        if share is None and min_score is None:
            raise UsageError("--copy-to needs --top or --min-score to say which images to copy")
        actions.check_target(copy_to, folders)
    files = scan(folders, recursive=recursive)
    scorer = _load(model, device, dtype, max_pixels)
    with report.progress(len(files)) as advance:
        scored = score_files(scorer, files, batch_size=batch_size, on_record=advance)
    ranked = rank_records(scored, top=share, min_score=min_score)

    if as_json:
        records.write_json_lines(sys.stdout, ranked)
    else:
        report.print_table(ranked, selecting=share is not None or min_score is not None)
    click.echo(report.summary(ranked), err=True)
    if out is not None:
        records.write_records(out, ranked)
        click.echo(f"{len(ranked)} records written to {out}", err=True)
    failures: list[str] = []
    if copy_to is not None and len(scored) == len(files):
        chosen = [Path(record.path) for record in ranked if record.selected]
        copies, failures = actions.copy_files(chosen, copy_to)
        click.echo(f"{len(copies)} images copied to {copy_to}", err=True)
    _finish(ranked, len(files), failures)


@main.command()
@click.argument("images", nargs=-1, required=True, type=_existing_or_not, metavar="IMAGE|DIR...")
@click.option("--attribute", "attributes", multiple=True, help="Only this one; may be repeated.")
@click.option("--max-new-tokens", default=512, show_default=True, type=click.IntRange(1))
@_model_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def critique(
    images: Sequence[Path],
    attributes: Sequence[str],
    max_new_tokens: int,
    model: str,
    device: str,
    dtype: str,
    batch_size: int,
    max_pixels: float,
    as_json: bool,
) -> None:
    """Say why: a score and a text on each of eight attributes.

    Needs a model that was trained to write, and the torch extra.
    """
    import json

    from .artimuse_core import attributes as known
    from .artimuse_core.errors import ImageError
    from .artimuse_core.scorer import locate
    from .curation.report import live_critique
    from .curation.scan import scan

    asked = [known.attribute(name) for name in attributes] or known.ATTRIBUTES
    files, directory = scan(images), locate(model)
    with _needs("torch"):
        from .artimuse_core.critic import Critic
    critic = Critic.load(directory, device, dtype, max_pixels=int(max_pixels * 1e6))
    click.echo(f"model {critic.name} on {critic.runner.device}", err=True)
    failed = 0
    for file in files:
        row: dict[str, Any] = {"path": str(file), "model": critic.name, "error": None}
        try:
            with live_critique(not as_json) as on_text:
                answer = critic.critique(
                    file, asked, max_new_tokens=max_new_tokens, on_text=on_text
                )
        except ImageError as error:
            failed += 1
            click.echo(f"failed: {file}: {error}", err=True)
            row |= {"score": None, "std": None, "critique": {}, "error": str(error)}
        else:
            result = answer.result
            row |= {"score": result.score, "std": result.std, "critique": answer.texts}
            if not as_json:
                click.echo(f"{result.score:6.2f} ± {result.std:5.2f}  {file}")
                for name, text in answer.texts.items():
                    click.echo(f"  {name}: {text}")
        if as_json:
            click.echo(json.dumps(row, ensure_ascii=False))
    if failed:
        sys.exit(FAILED)


@main.command()
@click.option(
    "--data", required=True, type=_existing_or_not, help="Ratings: image,score in .csv or .jsonl."
)
@click.option(
    "--images", default=".", show_default=True, type=_existing_or_not, help="Where the images lie."
)
@_model_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    data: Path,
    images: Path,
    model: str,
    device: str,
    dtype: str,
    batch_size: int,
    max_pixels: float,
    as_json: bool,
) -> None:
    """Correlate a model's scores with people's: SRCC and PLCC."""
    import json

    with _needs("train"):
        from .training import evaluate as evaluation
    ratings = evaluation.read_ratings(data, images)
    scorer = _load(model, device, dtype, max_pixels)
    answer = evaluation.evaluate(scorer, ratings, batch_size=batch_size)
    if as_json:
        click.echo(json.dumps({"srcc": answer.srcc, "plcc": answer.plcc, "n": answer.n}))
    else:
        click.echo(f"SRCC {answer.srcc:.4f}  PLCC {answer.plcc:.4f}  n {answer.n}")
    for line in answer.failed:
        click.echo(f"failed: {line}", err=True)
    if answer.failed:
        sys.exit(FAILED)


@main.command()
@_model_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Others need --token.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: a free one."
)
@click.option(
    "--token", envvar="ARTIMUSE_TOKEN", show_envvar=True, help="Clients must send it as a bearer."
)
@click.option("--allow-pickle", is_flag=True, help="Speak flow_grpo's pickle protocol as well.")
@click.option(
    "--scale", default="raw", show_default=True, help="raw (0-100), unit (0-1), or a factor."
)
@click.option("--max-body-mb", default=64.0, show_default=True, help="One request's body.")
@click.option("--max-images", default=256, show_default=True, help="In one request.")
@click.option("--max-queue", default=1024, show_default=True, help="Images that may wait.")
@click.option("--max-batch", default=32, show_default=True, help="Images evaluated together.")
@click.option("--max-wait-ms", default=5.0, show_default=True, help="For a batch to fill.")
@click.option(
    "--engine", default="uvicorn", show_default=True, type=click.Choice(["uvicorn", "ray"])
)
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(1), help="With ray.")
def serve(
    model: str,
    device: str,
    dtype: str,
    batch_size: int,
    max_pixels: float,
    host: str,
    port: int,
    token: str | None,
    allow_pickle: bool,
    scale: str,
    max_body_mb: float,
    max_images: int,
    max_queue: int,
    max_batch: int,
    max_wait_ms: float,
    engine: str,
    replicas: int,
) -> None:
    """Serve the score as a reward over HTTP, to trainers in other environments.

    Speaks the protocols of Flow-Factory, UniRL and, with --allow-pickle, flow_grpo; the
    paths are listed at /docs. Stops on Ctrl-C or SIGTERM after finishing what runs.
    """
    with _needs("serve"):
        from .artimuse_core import server
    from .artimuse_core.reward import Reward
    from .artimuse_core.reward_scales import parse_scale

    server.check_address(host, token)
    if engine != "ray" and replicas != 1:
        raise UsageError("--replicas needs --engine ray")
    limits = server.Limits(
        max_body_bytes=int(max_body_mb * server.MIB),
        max_bytes_in_flight=max(server.Limits.max_bytes_in_flight, int(max_body_mb * server.MIB)),
        max_images=max_images,
        max_queue=max_queue,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
    )
    factor = parse_scale(scale)
    address = f"[{host}]" if ":" in host else host
    if engine == "ray":
        with _needs("ray"):
            from .artimuse_core import ray_serve
        recipe = ray_serve.Recipe(
            model, device, dtype, int(max_pixels * 1e6), batch_size, factor, limits, token,
            allow_pickle,
        )  # fmt: skip
        said = f"listening on http://{address}:{port}, {replicas} replicas"
        ray_serve.run(recipe, replicas, host, port, lambda: click.echo(said, err=True))
        return
    scorer = _load(model, device, dtype, max_pixels)
    reward = Reward(scorer, scale=factor, batch_size=batch_size, output="numpy")
    app = server.create_app(reward, limits=limits, token=token, allow_pickle=allow_pickle)
    listener = server.listen(host, port)
    click.echo(f"listening on http://{address}:{listener.getsockname()[1]}", err=True)
    server.serve(app, listener)


@main.group()
def export() -> None:
    """Turn a checkpoint into an artifact that scores without torch."""


@export.command("onnx")
@click.option("--model", required=True, type=_existing_or_not, help="An official checkpoint.")
@click.option("--output", required=True, type=_existing_or_not, help="The bundle; must not exist.")
@click.option("--name", default="", help="The model's name in results; the checkpoint's otherwise.")
def export_onnx(model: Path, output: Path, name: str) -> None:
    """Export the scoring graph as an ONNX bundle, verified against torch."""
    with _needs("torch,export"):
        from .export import to_onnx
    # The exporter warns of packages it would only need for other models.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    click.echo(str(to_onnx.export_onnx(model, output, name=name)))


@contextmanager
def _needs(extra: str) -> Iterator[None]:
    """Around imports: a missing dependency says which extra brings it."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(error.name or "a dependency", extra) from error


def _finish(records: Sequence[Record], wanted: int, failures: Sequence[str] = ()) -> None:
    """Report failures on stderr and leave with the exit code they ask for."""
    failed = [record for record in records if record.error is not None]
    for record in failed:
        click.echo(f"failed: {record.path}: {record.error}", err=True)
    for line in failures:
        click.echo(f"failed: {line}", err=True)
    if len(records) < wanted:
        click.echo(f"interrupted after {len(records)} of {wanted} images", err=True)
        sys.exit(INTERRUPTED)
    if failed or failures:
        sys.exit(FAILED)


def curate_main() -> None:
    """``artimuse-curate`` is ``artimuse curate``."""
    curate(prog_name="artimuse-curate")


if __name__ == "__main__":
    main()
