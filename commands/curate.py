"""``artimuse curate``: rank folders, keep the best, act on them, and take it back."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..artimuse_core.errors import UsageError
from .common import (
    FAILED,
    Command,
    Model,
    Place,
    existing_or_not,
    finish,
    model_options,
    needs,
)
from .curate_options import ACTIONS, action_options, read_action, read_wishes, selection_options

if TYPE_CHECKING:
    from ..artimuse_core.critic import Critic
    from ..artimuse_core.scorer import Scorer
    from ..curation.actions import Action
    from ..curation.decide import Wishes
    from ..curation.pipeline import Engine, Memory
    from ..curation.records import Record
    from ..curation.sources import Source
    from ..curation.store import Store
    from ..curation.watch import Watcher


@click.command(cls=Command)
@click.argument("folders", nargs=-1, type=Place(), metavar="DIR...")
@selection_options
@action_options
@click.option(
    "--watch", is_flag=True, help="Go on scoring what arrives; Ctrl-C ends it and decides."
)
@click.option("--stable", is_flag=True, help="Say how firm the cut is: score crops near it too.")
@click.option(
    "--ref",
    multiple=True,
    type=Place(),
    metavar="DIR",
    help="With --dedup: drop what nearly equals an image here; nothing here is touched.",
)
@click.option(
    "--report",
    "page",
    type=existing_or_not,
    metavar="FILE.html",
    help="Write a page to look through, filter and pick by hand; it needs no network.",
)
@click.option(
    "--critique",
    is_flag=True,
    help="A text on each attribute of the kept images, in the report and the records; the model "
    "must be one that writes.",
)
@click.option(
    "--engine",
    default="local",
    show_default=True,
    type=click.Choice(["local", "ray"]),
    help="ray: score on the actors of a Ray cluster; a run that was ended goes on.",
)
@click.option("--address", help="With ray: the cluster's; RAY_ADDRESS, or a new one here.")
@click.option("--actors", default=1, show_default=True, type=click.IntRange(1), help="With ray.")
@click.option("--no-cache", is_flag=True, help="Score anew, and remember nothing.")
@click.option(
    "--explain",
    metavar="FILE",
    help="Say what is known of a file and what each run decided.",
)
@click.option("--diff", nargs=2, metavar="RUN RUN", help="Say what changed between two runs.")
@click.option("--undo", metavar="RUN", help="Take back what a run did; 'last' for the last.")
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Subfolders too.")
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print all records, one JSON object a line.")
@click.option(
    "--out", type=Place(), metavar="FILE", help="Write all records to FILE.jsonl, .csv or .parquet."
)
def curate(
    folders: Sequence[Path | str],
    recursive: bool,
    use: Model,
    as_json: bool,
    out: Path | str | None,
    page: Path | None,
    critique: bool,
    engine: str,
    address: str | None,
    actors: int,
    no_cache: bool,
    ref: Sequence[Path | str],
    stable: bool,
    watch: bool,
    undo: str | None,
    explain: str | None,
    diff: tuple[str, str] | None,
    dry_run: bool,
    **asked: Any,
) -> None:
    """Rank the images of folders and keep the best.

    DIR may be a URL that fsspec knows, such as s3://bucket/folder. Only reports, unless an action
    is asked for; every action can be undone.
    """
    from ..curation.critiques import attributes_in
    from ..curation.journal import new_run
    from ..curation.pipeline import Memory
    from ..curation.scan import scan
    from ..curation.store import Wanted
    from ..curation.watch import Watcher

    # Everything that can be wrong with the call is found out before the first image is scored.
    action = read_action(folders, **{name: asked.pop(name) for name in ACTIONS})
    wishes = read_wishes(**asked)
    _repair()
    if undo is not None:
        _undo(undo)
        return
    if explain is not None or diff is not None:
        _history(explain, diff)
        return
    _check(folders, wishes, action, out, page, ref, stable=stable, critique=critique)
    attributes = attributes_in(wishes.where)
    needs_model = {"--watch": watch, "--stable": stable, "--critique": critique}
    needs_model[f"--where {' '.join(attributes)}"] = bool(attributes)
    _check_engine(engine, address, actors, [name for name, on in needs_model.items() if on])
    references = scan(ref, recursive=recursive) if ref else []
    watcher = Watcher(folders, recursive=recursive) if watch else None
    sources = scan(folders, recursive=recursive, may_be_empty=watch)
    wanted = Wanted(
        hash=wishes.dedup is not None,
        thumbnail=page is not None,
        embedding=wishes.novelty is not None,
    )
    store = _store(remember=not no_cache)
    if engine == "ray":
        loaded = _on_cluster(use, address, actors)
    else:
        loaded = _loaded(use, store, critique, attributes)
    if wanted.embedding and not loaded.embeds:
        raise UsageError(f"--diverse: {loaded.name} gives no embedding; export it again")
    memory = Memory(store, loaded.fingerprint, wanted)
    scored, complete = _score(loaded, sources, watcher, memory)
    loaded.leave()
    if attributes:
        scored, failures = _attribute_scores(loaded, scored, memory)
    else:
        failures = []
    ranked, unread = _decide(loaded, scored, wishes, memory, references, stable=stable)
    if critique:
        ranked, unwritten = _critiques(loaded, ranked, memory)
        failures += unwritten
    failures += unread

    run = new_run()
    _print(ranked, run, as_json=as_json, selecting=wishes.selecting, stable=stable)
    if not no_cache:
        store.keep_run(run, loaded.name, shlex.join(sys.argv[1:]), ranked)
    title = f"{', '.join(map(str, folders))} by {loaded.name}, run {run}"
    _write(ranked, out, page, store, title)
    if action is not None and complete:
        failures += _act(action, ranked, run, dry_run)
    finish(ranked, len(ranked) if complete else len(sources), failures)


def _check(
    folders: Sequence[Path | str],
    wishes: Wishes,
    action: Action | None,
    out: Path | str | None,
    page: Path | None,
    ref: Sequence[Path | str],
    *,
    stable: bool,
    critique: bool,
) -> None:
    """Refuse what makes no sense together, and what needs an extra that is not installed."""
    from ..curation import duplicates, html_report, records

    if not folders:
        raise UsageError("expected at least one folder or image; see --help")
    if action is not None and action.kind != "xmp" and not (wishes.selecting or wishes.buckets):
        raise UsageError("an action needs --top or another rule to say which images to take")
    if ref and wishes.dedup is None:
        raise UsageError("--ref says what --dedup compares with; give --dedup D")
    if wishes.novelty is not None and wishes.top is None and wishes.per is None:
        raise UsageError("--diverse needs --top or --per to say how many images to keep")
    if stable and not wishes.selecting:
        raise UsageError("--stable needs --top or another rule to say where the cut is")
    if stable and wishes.novelty is not None:
        raise UsageError("--stable looks at a cut in the ranking, and --diverse makes none")
    if critique and not wishes.selecting:
        raise UsageError("--critique needs --top or another rule: a text takes its time")
    if out is not None:
        records.check_format(out)
    if page is not None:
        html_report.check(page)
    if wishes.dedup is not None:
        duplicates.check()


def _check_engine(engine: str, address: str | None, actors: int, needing: Sequence[str]) -> None:
    """``needing``: the options that are given and need the model in this process."""
    if engine == "ray" and needing:
        raise UsageError(f"{' and '.join(needing)} needs the model in this process: --engine local")
    if engine == "local" and (address is not None or actors != 1):
        raise UsageError("--address and --actors say where --engine ray scores")


@dataclass(frozen=True)
class _Loaded:
    """A model, wherever it is."""

    engine: Engine
    fingerprint: str
    embeds: bool
    scorer: Scorer | None = None
    """Where the model is in this process."""
    critic: Critic | None = None
    """Where texts or attribute scores are asked for."""
    leave: Callable[[], None] = lambda: None
    """To call when everything is scored; results are printed after it."""

    @property
    def name(self) -> str:
        return self.engine.name


def _loaded(use: Model, store: Store, critique: bool, attributes: Sequence[str]) -> _Loaded:
    """The model in this process."""
    from ..artimuse_core.models import locate
    from ..curation.fingerprint import model_fingerprint
    from ..curation.pipeline import LocalEngine

    critic = None
    if critique or attributes:
        try:
            scorer, critic = use.load_critic()
        except UsageError as error:
            asked = "--critique" if critique else f"--where {', '.join(attributes)}"
            raise UsageError(f"{asked}: {error}") from error
    else:
        scorer = use.load()
    if attributes:
        click.echo("attribute scores are experimental: no published weights know them", err=True)
    fingerprint = model_fingerprint(
        scorer, locate(use.model), store, dtype=use.dtype, quantize=use.quantize
    )
    engine = LocalEngine(scorer, use.batch_size)
    return _Loaded(engine, fingerprint, scorer.embeds, scorer, critic)


def _on_cluster(use: Model, address: str | None, actors: int) -> _Loaded:
    """The model on a Ray cluster."""
    with needs("ray"):
        from ..curation.ray_engine import RayEngine
    engine = RayEngine(use.spec(), address=address, actors=actors)
    click.get_current_context().call_on_close(engine.close)  # wherever it ends
    told = engine.described
    click.echo(f"model {told.name} on {told.device}, {actors} Ray actors: {told.card}", err=True)
    return _Loaded(engine, told.fingerprint, told.embeds, leave=engine.close)


def _store(*, remember: bool) -> Store:
    """The user's store, or one for this run alone; closed when the command ends."""
    from ..curation.places import cache_folder
    from ..curation.store import Store

    store = Store.open_or_memory(cache_folder()) if remember else Store(None)
    click.get_current_context().call_on_close(store.close)
    return store


def _score(
    loaded: _Loaded, sources: Sequence[Source], watcher: Watcher | None, memory: Memory
) -> tuple[list[Record], bool]:
    """The records, also of what arrives while ``watcher`` looks, and whether nothing is missing."""
    from ..curation import report
    from ..curation.pipeline import score_files

    score = partial(score_files, loaded.engine, memory=memory)
    with report.progress(len(sources)) as advance:
        scored = score(sources, on_record=advance)
    complete = len(scored) == len(sources)
    if watcher is not None and complete:
        click.echo(f"{len(scored)} images so far; watching, Ctrl-C ends", err=True)
        scored = watcher.follow(scored, score, _say)
    return scored, complete


def _attribute_scores(
    loaded: _Loaded, scored: Sequence[Record], memory: Memory
) -> tuple[list[Record], list[str]]:
    from ..curation import critiques, report

    assert loaded.critic is not None
    with report.progress(len(scored), "attributes") as advance:
        return critiques.with_attribute_scores(loaded.critic, scored, memory, advance)


def _critiques(
    loaded: _Loaded, ranked: Sequence[Record], memory: Memory
) -> tuple[list[Record], list[str]]:
    from ..curation import critiques, report

    assert loaded.critic is not None
    with report.progress(sum(record.selected for record in ranked), "critiques") as advance:
        return critiques.with_critiques(loaded.critic, ranked, memory, advance)


def _decide(
    loaded: _Loaded,
    scored: Sequence[Record],
    wishes: Wishes,
    memory: Memory,
    references: Sequence[Source],
    *,
    stable: bool,
) -> tuple[list[Record], list[str]]:
    """The ranked records, and a line for each reference that could not be read."""
    from ..curation import looks
    from ..curation.decide import rank_records
    from ..curation.stability import with_stability

    seen, unread = looks.gather(
        scored, wishes, memory, references, max_pixels=loaded.engine.max_pixels
    )
    ranked = rank_records(scored, wishes, seen)
    if stable:
        assert loaded.scorer is not None
        ranked = with_stability(loaded.scorer, ranked, wishes)
    return ranked, unread


def _say(record: Record) -> None:
    """One line on an image that arrived."""
    if record.error is None:
        click.echo(f"{record.score:6.2f} ± {record.std:5.2f}  {record.path}", err=True)
    else:
        click.echo(f"failed: {record.path}: {record.error}", err=True)


def _print(
    ranked: Sequence[Record], run: str, *, as_json: bool, selecting: bool, stable: bool
) -> None:
    from ..curation import records, report
    from ..curation.stability import firmness

    if as_json:
        records.write_json_lines(sys.stdout, ranked)
    else:
        report.print_table(ranked, selecting=selecting)
    click.echo(f"{report.summary(ranked)} (run {run})", err=True)
    if stable:
        click.echo(firmness(ranked), err=True)


def _write(
    ranked: Sequence[Record], out: Path | str | None, page: Path | None, store: Store, title: str
) -> None:
    from ..curation.html_report import write_report
    from ..curation.records import write_records

    if out is not None:
        write_records(out, ranked)
        click.echo(f"{len(ranked)} records written to {out}", err=True)
    if page is not None:
        write_report(page, ranked, store, title=title)
        click.echo(f"report written to {page}", err=True)


def _act(action: Action, ranked: Sequence[Record], run: str, dry_run: bool) -> list[str]:
    """Plan, journal and perform; returns one line for each file that failed."""
    from ..curation import actions
    from ..curation.journal import Journal
    from ..curation.places import state_folder

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
    from ..curation import actions
    from ..curation.places import state_folder

    for line in actions.repair(state_folder() / "journals"):
        click.echo(line, err=True)


def _history(explain: str | None, diff: tuple[str, str] | None) -> None:
    from ..curation import history

    store = _store(remember=True)
    lines = history.explain(store, explain) if explain else history.diff(store, *(diff or ("", "")))
    for line in lines:
        click.echo(line)


def _undo(run: str) -> None:
    from ..curation import actions
    from ..curation import journal as journals
    from ..curation.places import state_folder

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
