"""``artimuse curate``: rank folders, keep the best, act on them, and take it back."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..artimuse_core.errors import UsageError
from .common import FAILED, Command, Model, existing_or_not, finish, model_options, with_options

if TYPE_CHECKING:
    from ..curation.actions import Action
    from ..curation.decide import Wishes
    from ..curation.records import Record
    from ..curation.watch import Watcher


def _selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    return with_options(
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
    return with_options(
        command,
        click.option("--copy-to", type=existing_or_not, help="Copy the kept images there."),
        click.option("--move-to", type=existing_or_not, help="Move the kept images there."),
        click.option("--link-to", type=existing_or_not, help="Link to the kept images there."),
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
            type=existing_or_not,
            metavar="DIR",
            help="Copies of the kept PNGs there, the score in a text chunk.",
        ),
        click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
    )


@click.command(cls=Command)
@click.argument("folders", nargs=-1, type=existing_or_not, metavar="DIR...")
@_selection_options
@_action_options
@click.option(
    "--watch", is_flag=True, help="Go on scoring what arrives; Ctrl-C ends it and decides."
)
@click.option("--stable", is_flag=True, help="Say how firm the cut is: score crops near it too.")
@click.option(
    "--ref",
    multiple=True,
    type=existing_or_not,
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
@click.option("--no-cache", is_flag=True, help="Score anew, and remember nothing.")
@click.option(
    "--explain",
    type=existing_or_not,
    help="Say what is known of a file and what each run decided.",
)
@click.option("--diff", nargs=2, metavar="RUN RUN", help="Say what changed between two runs.")
@click.option("--undo", metavar="RUN", help="Take back what a run did; 'last' for the last.")
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Subfolders too.")
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print all records, one JSON object a line.")
@click.option(
    "--out", type=existing_or_not, help="Write all records to FILE.jsonl, .csv or .parquet."
)
def curate(
    folders: Sequence[Path],
    recursive: bool,
    use: Model,
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
    from ..artimuse_core.scorer import locate
    from ..curation import duplicates, html_report, records, report
    from ..curation.decide import Looks, rank_records
    from ..curation.fingerprint import model_fingerprint
    from ..curation.journal import new_run
    from ..curation.pipeline import Memory, reference_hashes, score_files
    from ..curation.places import cache_folder
    from ..curation.scan import scan
    from ..curation.stability import firmness, with_stability
    from ..curation.store import Store, Wanted
    from ..curation.watch import Watcher

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
    finish(ranked, len(files), failures)


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
    from ..curation import actions
    from ..curation import trash as bin

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


def _history(explain: Path | None, diff: tuple[str, str] | None) -> None:
    from ..curation import history
    from ..curation.places import cache_folder
    from ..curation.store import Store

    store = Store.open_or_memory(cache_folder())
    click.get_current_context().call_on_close(store.close)
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
    from ..curation import decide, groups, selection

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
