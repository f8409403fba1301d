"""The command line: thin wrappers that parse, call the library, and print.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 some images failed, 2 wrong
usage. Commands import what they need when they run, so that ``--help`` is instant.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .artimuse_core.errors import ArtiMuseError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from .artimuse_core.scorer import Scorer
    from .curation.actions import Action
    from .curation.decide import Wishes
    from .curation.records import Record
    from .curation.watch import Watcher

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


@dataclass(frozen=True)
class _Model:
    """What a command's options say of the model and of how to run it."""

    model: str
    device: str
    dtype: str
    batch_size: int
    max_pixels: float
    """Megapixels."""
    quantize: str
    compile: bool
    deterministic: bool

    @property
    def pixels(self) -> int:
        return int(self.max_pixels * 1e6)

    def load(self) -> Scorer:
        """Load the model and say on stderr which one scores."""
        from .artimuse_core.scorer import Scorer

        scorer = Scorer.load(
            self.model,
            self.device,
            self.dtype,
            max_pixels=self.pixels,
            quantize=self.quantize,
            deterministic=self.deterministic,
            compiled=self.compile,
        )
        click.echo(f"model {scorer.name} on {scorer.engine.device}: {scorer.card}", err=True)
        return scorer


def _with(
    command: Callable[..., Any], *options: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def _model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that make up a :class:`_Model`, which the command gets as ``use``."""

    @wraps(command)
    def gathered(**given: Any) -> Any:
        use = _Model(**{part.name: given.pop(part.name) for part in fields(_Model)})
        return command(use=use, **given)

    return _with(
        gathered,
        click.option(
            "--model",
            default="nano",
            envvar="ARTIMUSE_MODEL",
            show_envvar=True,
            show_default=True,
            help="nano (embedded), artimuse (the authors' 8B; also -ava, -para, -tad66k, "
            "-flickr-aes), a hub id, or a directory: checkpoint, adapter, ONNX bundle.",
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
        click.option(
            "--quantize",
            default="none",
            show_default=True,
            help="int8 or nf4 weights, for a checkpoint on a small card.",
        ),
        click.option(
            "--compile",
            is_flag=True,
            help="Compile a checkpoint's graph first; worth it for long runs on a GPU.",
        ),
        click.option(
            "--deterministic",
            is_flag=True,
            help="Compute each image alone: no score depends on its neighbours.",
        ),
    )


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
    use: _Model,
    recursive: bool,
    as_json: bool,
) -> None:
    """Score images, in the order of their paths."""
    import json

    from .curation.pipeline import score_files
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

    records = score_files(scorer, files, batch_size=use.batch_size, on_record=show)
    _finish(records, len(files))


def _selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    return _with(
        command,
        click.option("--top", help="Keep the best: a count (20) or a share (10%, at least one)."),
        click.option(
            "--min-score",
            type=click.FloatRange(0, 100),
            help="Keep only scores from here up (0-100).",
        ),
        click.option(
            "--max-score", type=click.FloatRange(0, 100), help="Keep only scores up to here."
        ),
        click.option(
            "--where",
            help="Keep only where this holds: 'std < 8 and width >= 1024 and \"cat\" in prompt'.",
        ),
        click.option(
            "--per",
            metavar="KEY:K",
            help="The best K of each prompt, seed, generator, workflow, checkpoint or folder.",
        ),
        click.option(
            "--fair-by",
            metavar="KEY",
            help="Rank by percentile within a group (prompt), so that easy ones cannot sweep.",
        ),
        click.option("--lower-bound", is_flag=True, help="Rank by score minus spread."),
        click.option(
            "--dedup",
            type=click.IntRange(0, 32),
            metavar="D",
            help="Of images that differ in at most D of 64 hash bits (try 6), keep the best.",
        ),
        click.option(
            "--buckets",
            metavar="NAMES",
            help="Sort into classes: great,good,rest or great:70,good:50,rest or great:10%,rest.",
        ),
    )


def _action_options(command: Callable[..., Any]) -> Callable[..., Any]:
    return _with(
        command,
        click.option("--copy-to", type=_existing_or_not, help="Copy the kept images there."),
        click.option("--move-to", type=_existing_or_not, help="Move the kept images there."),
        click.option("--link-to", type=_existing_or_not, help="Link to the kept images there."),
        click.option("--hard-links", is_flag=True, help="--link-to makes hard links."),
        click.option(
            "--trash",
            is_flag=False,
            flag_value="rest",
            type=click.Choice(["rest", "kept"]),
            help="Put the images that are not kept into the system's trash; or the kept ones.",
        ),
        click.option(
            "--write-xmp", is_flag=True, help="Rating and score into image.png.xmp sidecars."
        ),
        click.option(
            "--write-png",
            type=_existing_or_not,
            metavar="DIR",
            help="Copies of the kept PNGs there, the score in a text chunk.",
        ),
        click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
    )


@main.command()
@click.argument("folders", nargs=-1, type=_existing_or_not, metavar="DIR...")
@_selection_options
@_action_options
@click.option(
    "--watch", is_flag=True, help="Go on scoring what arrives; Ctrl-C ends it and decides."
)
@click.option("--stable", is_flag=True, help="Say how firm the cut is: score crops near it too.")
@click.option(
    "--ref",
    multiple=True,
    type=_existing_or_not,
    metavar="DIR",
    help="With --dedup: drop what nearly equals an image here; nothing here is touched.",
)
@click.option(
    "--report",
    "page",
    type=_existing_or_not,
    metavar="FILE.html",
    help="Write a page to look through, filter and pick by hand; it needs no network.",
)
@click.option("--no-cache", is_flag=True, help="Score anew, and remember nothing.")
@click.option(
    "--explain",
    type=_existing_or_not,
    help="Say what is known of a file and what each run decided.",
)
@click.option("--diff", nargs=2, metavar="RUN RUN", help="Say what changed between two runs.")
@click.option("--undo", metavar="RUN", help="Take back what a run did; 'last' for the last.")
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Subfolders too.")
@_model_options
@click.option("--json", "as_json", is_flag=True, help="Print all records, one JSON object a line.")
@click.option(
    "--out", type=_existing_or_not, help="Write all records to FILE.jsonl, .csv or .parquet."
)
def curate(
    folders: Sequence[Path],
    recursive: bool,
    use: _Model,
    as_json: bool,
    out: Path | None,
    page: Path | None,
    no_cache: bool,
    ref: Sequence[Path],
    stable: bool,
    watch: bool,
    undo: str | None,
    explain: Path | None,
    diff: tuple[str, str] | None,
    dry_run: bool,
    **asked: Any,
) -> None:
    """Rank the images of folders and keep the best.

    Only reports, unless an action is asked for; every action can be undone.
    """
    from .artimuse_core.scorer import locate
    from .curation import duplicates, html_report, records, report
    from .curation.decide import Looks, rank_records
    from .curation.fingerprint import model_fingerprint
    from .curation.journal import new_run
    from .curation.pipeline import Memory, reference_hashes, score_files
    from .curation.places import cache_folder
    from .curation.scan import scan
    from .curation.stability import firmness, with_stability
    from .curation.store import Store, Wanted
    from .curation.watch import Watcher

    # Everything that can be wrong with the call is found out before the first image is scored.
    action = _action(folders, **{name: asked.pop(name) for name in _ACTIONS})
    wishes = _wishes(**asked)
    _repair()
    if undo is not None:
        _undo(undo)
        return
    if explain is not None or diff is not None:
        _history(explain, diff)
        return
    if not folders:
        raise UsageError("expected at least one folder or image; see --help")
    if out is not None:
        records.check_format(out)
    if action is not None and action.kind != "xmp" and not (wishes.selecting or wishes.buckets):
        raise UsageError("an action needs --top or another rule to say which images to take")
    if ref and wishes.dedup is None:
        raise UsageError("--ref says what --dedup compares with; give --dedup D")
    if stable and not wishes.selecting:
        raise UsageError("--stable needs --top or another rule to say where the cut is")
    if page is not None:
        html_report.check(page)
    if wishes.dedup is not None:
        duplicates.check()
    reference_files = scan(ref, recursive=recursive) if ref else []
    watcher = Watcher(folders, recursive=recursive) if watch else None
    files = scan(folders, recursive=recursive, may_be_empty=watch)
    scorer = use.load()
    store = Store(None) if no_cache else Store.open_or_memory(cache_folder())
    click.get_current_context().call_on_close(store.close)
    precision = f"{use.dtype}, quantize {use.quantize}"
    fingerprint = model_fingerprint(scorer, locate(use.model), store, dtype=precision)
    memory = Memory(
        store, fingerprint, Wanted(hash=wishes.dedup is not None, thumbnail=page is not None)
    )
    with report.progress(len(files)) as advance:
        scored = score_files(
            scorer, files, batch_size=use.batch_size, on_record=advance, memory=memory
        )
    if watcher is not None and len(scored) == len(files):
        scored = _arrivals(watcher, scored, partial(score_files, scorer, memory=memory))
        files = [Path(record.path) for record in scored]
    looks, failures = None, list[str]()
    if wishes.dedup is not None:
        references, failures = reference_hashes(reference_files, store, scorer.max_pixels)
        pixels = (record.pixels for record in scored if record.pixels is not None)
        looks = Looks(store.hashes(pixels), references)
        unknown = sum(record.pixels not in looks.hashes for record in scored if record.pixels)
        if unknown:
            click.echo(f"{unknown} images were not compared: the cache failed", err=True)
    ranked = rank_records(scored, wishes, looks)
    if stable:
        ranked = with_stability(scorer, ranked, wishes)

    if as_json:
        records.write_json_lines(sys.stdout, ranked)
    else:
        report.print_table(ranked, selecting=wishes.selecting)
    run = new_run()
    click.echo(f"{report.summary(ranked)} (run {run})", err=True)
    if stable:
        click.echo(firmness(ranked), err=True)
    if not no_cache:
        store.keep_run(run, scorer.name, shlex.join(sys.argv[1:]), ranked)
    if out is not None:
        records.write_records(out, ranked)
        click.echo(f"{len(ranked)} records written to {out}", err=True)
    if page is not None:
        title = f"{', '.join(map(str, folders))} by {scorer.name}, run {run}"
        html_report.write_report(page, ranked, store, title=title)
        click.echo(f"report written to {page}", err=True)
    if action is not None and len(scored) == len(files):
        failures += _act(action, ranked, run, dry_run)
    _finish(ranked, len(files), failures)


def _arrivals(
    watcher: Watcher, scored: Sequence[Record], score: Callable[[Sequence[Path]], list[Record]]
) -> list[Record]:
    """Score what arrives until Ctrl-C; all records, a file's latest taking the place of others."""
    records = {record.path: record for record in scored}
    click.echo(f"{len(records)} images so far; watching, Ctrl-C ends", err=True)
    watcher.known = set(records)
    try:
        for files in watcher:
            answers = score(files)
            for record in answers:
                records[record.path] = record
                if record.error is None:
                    click.echo(f"{record.score:6.2f} ± {record.std:5.2f}  {record.path}", err=True)
                elif not watcher.wait_for_more(Path(record.path)):
                    click.echo(f"failed: {record.path}: {record.error}", err=True)
            if len(answers) < len(files):  # Ctrl-C came while they were scored
                break
    except KeyboardInterrupt:
        click.echo("", err=True)
    return list(records.values())


_ACTIONS = ("copy_to", "move_to", "link_to", "hard_links", "trash", "write_xmp", "write_png")


def _action(
    folders: Sequence[Path],
    copy_to: Path | None,
    move_to: Path | None,
    link_to: Path | None,
    hard_links: bool,
    trash: str | None,
    write_xmp: bool,
    write_png: Path | None,
) -> Action | None:
    from .curation import actions
    from .curation import trash as bin

    link = "hardlink" if hard_links else "symlink"
    targets = {
        "--copy-to": ("copy", copy_to),
        "--move-to": ("move", move_to),
        "--link-to": (link, link_to),
        "--write-png": ("png", write_png),
    }
    asked = [option for option, (_, target) in targets.items() if target is not None]
    asked += ["--trash"] * (trash is not None) + ["--write-xmp"] * write_xmp
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)}: expected one action a run; scores are kept")
    if hard_links and link_to is None:
        raise UsageError("--hard-links says how --link-to links; give --link-to DIR")
    if not asked:
        return None
    if asked == ["--write-xmp"]:
        return actions.Action("xmp")
    if trash is not None:
        bin.check()
        return actions.Action("trash", rest=trash == "rest")
    kind, target = targets[asked[0]]
    assert target is not None
    actions.check_target(asked[0], target, folders)
    return actions.Action(kind, target)


def _act(action: Action, ranked: Sequence[Record], run: str, dry_run: bool) -> list[str]:
    """Plan, journal and perform; returns one line for each file that failed."""
    from .curation import actions
    from .curation.journal import Journal
    from .curation.places import state_folder

    steps = actions.plan(action.chosen(ranked), action.kind, action.target)
    if dry_run:
        for step in steps:
            arrow = f" -> {step.target}" if step.target else ""
            click.echo(f"would {action.kind}: {step.source}{arrow}", err=True)
        click.echo(f"dry run: {len(steps)} files, nothing was touched", err=True)
        return []
    if not steps:
        click.echo("nothing to do: every image is there already", err=True)
        return []
    journal = Journal.create(state_folder() / "journals", run, steps)
    try:
        outcome = actions.perform(journal)
    finally:
        journal.close()
    click.echo(f"{action.describe(outcome)}; --undo {journal.run} takes it back", err=True)
    return outcome.failures


def _repair() -> None:
    from .curation import actions
    from .curation.places import state_folder

    for line in actions.repair(state_folder() / "journals"):
        click.echo(line, err=True)


def _history(explain: Path | None, diff: tuple[str, str] | None) -> None:
    from .curation import history
    from .curation.places import cache_folder
    from .curation.store import Store

    store = Store.open_or_memory(cache_folder())
    click.get_current_context().call_on_close(store.close)
    lines = history.explain(store, explain) if explain else history.diff(store, *(diff or ("", "")))
    for line in lines:
        click.echo(line)


def _undo(run: str) -> None:
    from .curation import actions
    from .curation import journal as journals
    from .curation.places import state_folder

    journal = journals.find(state_folder() / "journals", run)
    if not journal.open():
        raise UsageError(f"run {journal.run} is still going on")
    try:
        outcome = actions.undo(journal)
    finally:
        journal.close()
    click.echo(f"run {journal.run}: {outcome.done} images are where they were", err=True)
    for line in outcome.failures:
        click.echo(f"failed: {line}", err=True)
    if outcome.failures:
        sys.exit(FAILED)


def _wishes(
    top: str | None,
    min_score: float | None,
    max_score: float | None,
    where: str | None,
    per: str | None,
    fair_by: str | None,
    lower_bound: bool,
    buckets: str | None,
    dedup: int | None,
) -> Wishes:
    from .curation import decide, groups, selection

    return decide.Wishes(
        top=selection.Top.parse(top) if top is not None else None,
        min_score=min_score,
        max_score=max_score,
        where=decide.parse_where(where) if where is not None else None,
        per=groups.Per.parse(per) if per is not None else None,
        fair_by=groups.check_key("--fair-by", fair_by) if fair_by is not None else None,
        lower_bound=lower_bound,
        dedup=dedup,
        buckets=selection.parse_buckets(buckets) if buckets is not None else (),
    )


@main.command()
@click.argument("images", nargs=-1, required=True, type=_existing_or_not, metavar="IMAGE|DIR...")
@click.option("--attribute", "attributes", multiple=True, help="Only this one; may be repeated.")
@click.option("--max-new-tokens", default=512, show_default=True, type=click.IntRange(1))
@click.option(
    "--attribute-scores",
    is_flag=True,
    help="Experimental: a score for each attribute. No published weights were tuned for it.",
)
@_model_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def critique(
    images: Sequence[Path],
    attributes: Sequence[str],
    max_new_tokens: int,
    attribute_scores: bool,
    use: _Model,
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
    files, directory = scan(images), locate(use.model)
    with _needs("torch"):
        from .artimuse_core.critic import Critic
    critic = Critic.load(
        directory,
        use.device,
        use.dtype,
        max_pixels=use.pixels,
        quantize=use.quantize,
    )
    click.echo(f"model {critic.name} on {critic.runner.device}", err=True)
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
    use: _Model,
    as_json: bool,
) -> None:
    """Correlate a model's scores with people's: SRCC and PLCC."""
    import json

    with _needs("train"):
        from .training import evaluate as evaluation
    ratings = evaluation.read_ratings(data, images)
    scorer = use.load()
    answer = evaluation.evaluate(scorer, ratings, batch_size=use.batch_size)
    if as_json:
        click.echo(json.dumps({"srcc": answer.srcc, "plcc": answer.plcc, "n": answer.n}))
    else:
        click.echo(f"SRCC {answer.srcc:.4f}  PLCC {answer.plcc:.4f}  n {answer.n}")
    for line in answer.failed:
        click.echo(f"failed: {line}", err=True)
    if answer.failed:
        sys.exit(FAILED)


@main.command()
@click.argument("source")
@click.argument("output", type=_existing_or_not)
def convert(source: str, output: Path) -> None:
    """Write a checkpoint in transformers' native format.

    SOURCE is a name, hub id or directory, also an adapter, which is merged into its base.
    """
    from .artimuse_core.models import locate

    with _needs("torch"):
        from .artimuse_core import checkpoint
    click.echo(str(checkpoint.convert(locate(source), output)))


@main.command()
@_model_options
def selftest(use: _Model) -> None:
    """Compare what decides a score with goldens: pixels, tokens, prompt, logits."""
    from .artimuse_core import selftest as goldens

    failed = False
    for check in goldens.run(use.model, use.device, use.dtype):
        click.echo(f"{'PASS' if check.ok else 'FAIL'}  {check.name}: {check.detail}")
        failed |= not check.ok
    if failed:
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
    use: _Model,
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
            use.model, use.device, use.dtype, use.pixels, use.batch_size, factor, limits, token,
            allow_pickle,
        )  # fmt: skip
        said = f"listening on http://{address}:{port}, {replicas} replicas"
        ray_serve.run(recipe, replicas, host, port, lambda: click.echo(said, err=True))
        return
    scorer = use.load()
    reward = Reward(scorer, scale=factor, batch_size=use.batch_size, output="numpy")
    app = server.create_app(reward, limits=limits, token=token, allow_pickle=allow_pickle)
    listener = server.listen(host, port)
    click.echo(f"listening on http://{address}:{listener.getsockname()[1]}", err=True)
    server.serve(app, listener)


@main.group()
def export() -> None:
    """Turn a checkpoint into an artifact that scores without torch."""


@export.command("onnx")
@click.option("--model", required=True, help="A checkpoint: name, hub id or directory.")
@click.option("--output", required=True, type=_existing_or_not, help="The bundle; must not exist.")
@click.option("--name", default="", help="The model's name in results; the checkpoint's otherwise.")
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(("fp32", "fp16", "int8", "int4")),
)
def export_onnx(model: str, output: Path, name: str, precision: str) -> None:
    """Export the scoring graph as an ONNX bundle, verified against torch."""
    from .artimuse_core.models import locate

    with _needs("torch,export"):
        from .export import to_onnx
    # The exporter warns of packages it would only need for other models, and of its own code.
    warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    written = to_onnx.export_onnx(locate(model), output, name=name, precision=precision)
    click.echo(str(written))


@export.command("verify")
@click.argument("directory", type=_existing_or_not)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def export_verify(directory: Path, device: str) -> None:
    """Compare a bundle, here, with what torch answered when it was exported."""
    from .export import verify

    click.echo(str(verify.verify_bundle(directory, device)))


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
