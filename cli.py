"""The command line: thin wrappers that parse, call the library, and print.

``commands/`` holds what they share, and the commands that are more than a page.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .artimuse_core.errors import UsageError
from .commands.annotate import annotate
from .commands.common import (
    FAILED,
    Group,
    Model,
    Place,
    existing_or_not,
    finish,
    model_options,
    needs,
)
from .commands.curate import curate
from .commands.evaluate import evaluate
from .commands.export import export
from .commands.judge import judge
from .commands.train import train

if TYPE_CHECKING:
    from .curation.records import Record


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="artimuse")
@click.option("-v", "--verbose", count=True, help="Say more on stderr; twice for everything.")
def main(verbose: int) -> None:
    """Image aesthetics: score, rank and curate."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")


@main.command()
@click.argument("images", nargs=-1, required=True, type=Place(), metavar="IMAGE|DIR...")
@model_options
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Subfolders too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def score(
    images: Sequence[Path | str],
    use: Model,
    recursive: bool,
    as_json: bool,
) -> None:
    """Score images, in the order of their paths."""
    import json

    from .curation.pipeline import LocalEngine, score_files
    from .curation.scan import scan

    files = scan(images, recursive=recursive)
    scorer = use.load()

    def show(record: Record) -> None:
        if as_json:
            row = record.as_dict()
            keys = ("path", "score", "std", "model", "error")
            click.echo(json.dumps({key: row[key] for key in keys}, ensure_ascii=False))
        elif record.error is None:
            click.echo(f"{record.score:6.2f} ± {record.std:5.2f}  {record.path}")

    records = score_files(LocalEngine(scorer, use.batch_size), files, on_record=show)
    finish(records, len(files))


@main.command()
@click.argument("images", nargs=-1, required=True, type=existing_or_not, metavar="IMAGE|DIR...")
@click.option("--attribute", "attributes", multiple=True, help="Only this one; may be repeated.")
@click.option("--max-new-tokens", default=512, show_default=True, type=click.IntRange(1))
@click.option(
    "--attribute-scores",
    is_flag=True,
    help="Experimental: a score for each attribute. No published weights were tuned for it.",
)
@model_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def critique(
    images: Sequence[Path],
    attributes: Sequence[str],
    max_new_tokens: int,
    attribute_scores: bool,
    use: Model,
    as_json: bool,
) -> None:
    """Say why: a score and a text on each of eight attributes.

    Needs a model that was trained to write, and the torch extra, or a bundle of such a model that
    was exported with --critique.
    """
    import json

    from .artimuse_core import attributes as known
    from .artimuse_core.errors import ImageError
    from .curation.report import live_critique
    from .curation.scan import scan

    asked = [known.attribute(name) for name in attributes] or known.ATTRIBUTES
    files = scan(images)
    critic = use.critic()
    click.echo(f"model {critic.name} on {critic.device}", err=True)
    failed = 0
    for file in files:
        row: dict[str, Any] = {"path": str(file), "model": critic.name, "error": None}
        try:
            with live_critique(not as_json) as on_text:
                answer = critic.critique(
                    file,
                    asked,
                    max_new_tokens=max_new_tokens,
                    on_text=on_text,
                    attribute_scores=attribute_scores,
                )
        except ImageError as error:
            failed += 1
            click.echo(f"failed: {file}: {error}", err=True)
            row |= {"score": None, "std": None, "critique": {}, "error": str(error)}
        else:
            result = answer.result
            row |= {"score": result.score, "std": result.std, "critique": answer.texts}
            if attribute_scores:
                row["attribute_scores_experimental"] = {
                    name: one.score for name, one in answer.attribute_scores.items()
                }
            if not as_json:
                click.echo(f"{result.score:6.2f} ± {result.std:5.2f}  {file}")
                for name, text in answer.texts.items():
                    scored = answer.attribute_scores.get(name)
                    mark = f" (experimental score {scored.score:.1f})" if scored else ""
                    click.echo(f"  {name}{mark}: {text}")
        if as_json:
            click.echo(json.dumps(row, ensure_ascii=False))
    if failed:
        sys.exit(FAILED)


@main.command()
@click.argument("source")
@click.argument("output", type=existing_or_not)
def convert(source: str, output: Path) -> None:
    """Write a checkpoint in transformers' native format.

    SOURCE is a name, hub id or directory, also an adapter, which is merged into its base.
    """
    from .artimuse_core.models import locate

    with needs("torch"):
        from .artimuse_core import checkpoint
    click.echo(str(checkpoint.convert(locate(source), output)))


@main.command()
@model_options
def selftest(use: Model) -> None:
    """Compare what decides a score with goldens: pixels, tokens, prompt, logits."""
    from .artimuse_core import selftest as goldens

    failed = False
    for check in goldens.run(use.model, use.device, use.dtype):
        click.echo(f"{'PASS' if check.ok else 'FAIL'}  {check.name}: {check.detail}")
        failed |= not check.ok
    if failed:
        sys.exit(FAILED)


@main.command()
@model_options
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
    use: Model,
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
    with needs("serve"):
        from .artimuse_core import server
        from .artimuse_core.gatekeeper import MIB, Limits
    from .artimuse_core.reward import Reward
    from .artimuse_core.reward_scales import parse_scale

    server.check_address(host, token)
    if engine != "ray" and replicas != 1:
        raise UsageError("--replicas needs --engine ray")
    limits = Limits(
        max_body_bytes=int(max_body_mb * MIB),
        max_bytes_in_flight=max(Limits.max_bytes_in_flight, int(max_body_mb * MIB)),
        max_images=max_images,
        max_queue=max_queue,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
    )
    factor = parse_scale(scale)
    address = f"[{host}]" if ":" in host else host
    if engine == "ray":
        with needs("ray"):
            from .artimuse_core import ray_serve
        recipe = ray_serve.Recipe(use.spec(), factor, limits, token, allow_pickle)
        said = f"listening on http://{address}:{port}, {replicas} replicas"
        ray_serve.run(recipe, replicas, host, port, lambda: click.echo(said, err=True))
        return
    scorer = use.load()
    reward = Reward(scorer, scale=factor, batch_size=use.batch_size, output="numpy")
    app = server.create_app(reward, limits=limits, token=token, allow_pickle=allow_pickle)
    listener = server.listen(host, port)
    click.echo(f"listening on http://{address}:{listener.getsockname()[1]}", err=True)
    server.serve(app, listener)


def curate_main() -> None:
    """``artimuse-curate`` is ``artimuse curate``."""
    curate(prog_name="artimuse-curate")


for command in (annotate, curate, evaluate, export, judge, train):
    main.add_command(command)

if __name__ == "__main__":
    main()
