"""Options of ``artimuse curate`` on what to keep and what to do with it, and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..artimuse_core.errors import UsageError
from .common import existing_or_not, with_options

if TYPE_CHECKING:
    from ..curation.actions import Action
    from ..curation.decide import Wishes


def selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
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
            "--diverse",
            type=float,
            metavar="0..1",
            help="With --top or --per: keep images that differ, by what the model sees; 0 goes by "
            "score alone, 1 by looks alone (try 0.5).",
        ),
        click.option(
            "--buckets",
            metavar="NAMES",
            help="Sort into classes: great,good,rest or great:70,good:50,rest or great:10%,rest.",
        ),
    )


def action_options(command: Callable[..., Any]) -> Callable[..., Any]:
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


ACTIONS = ("copy_to", "move_to", "link_to", "hard_links", "trash", "write_xmp", "write_png")


def read_action(
    folders: Sequence[Path | str],
    copy_to: Path | None,
    move_to: Path | None,
    link_to: Path | None,
    hard_links: bool,
    trash: str | None,
    write_xmp: bool,
    write_png: Path | None,
) -> Action | None:
    """The one action that is asked for. Raises UsageError."""
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
    actions.check_local(asked[0], folders)
    if asked == ["--write-xmp"]:
        return actions.Action("xmp")
    if trash is not None:
        bin.check()
        return actions.Action("trash", rest=trash == "rest")
    kind, target = targets[asked[0]]
    assert target is not None
    actions.check_target(asked[0], target, folders)
    return actions.Action(kind, target)


def read_wishes(
    top: str | None,
    min_score: float | None,
    max_score: float | None,
    where: str | None,
    per: str | None,
    fair_by: str | None,
    lower_bound: bool,
    buckets: str | None,
    dedup: int | None,
    diverse: float | None,
) -> Wishes:
    """The rules that are asked for. Raises UsageError."""
    from ..curation import decide, diversity, groups, selection

    return decide.Wishes(
        top=selection.Top.parse(top) if top is not None else None,
        min_score=min_score,
        max_score=max_score,
        where=decide.parse_where(where) if where is not None else None,
        per=groups.Per.parse(per) if per is not None else None,
        fair_by=groups.check_key("--fair-by", fair_by) if fair_by is not None else None,
        lower_bound=lower_bound,
        dedup=dedup,
        novelty=diversity.check_novelty(diverse) if diverse is not None else None,
        buckets=selection.parse_buckets(buckets) if buckets is not None else (),
    )
