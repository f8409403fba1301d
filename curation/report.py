"""What a run shows in the terminal: a progress bar on stderr, a table on stdout."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ..artimuse_core.attributes import Attribute
from .records import Record

SHORT_RANKING = 60
"""Up to this many images the table shows them all; beyond, only the kept ones."""


@contextmanager
def progress(total: int, what: str = "scoring") -> Iterator[Callable[[Record], None]]:
    """A live bar on stderr (nothing where stderr is no terminal); call the result per record."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda record: bar.advance(task)


@contextmanager
def live_critique(show: bool) -> Iterator[Callable[[Attribute, str], None]]:
    """The attributes' texts on stderr as they grow; gone at the end, when the result is printed.

    All attributes are written at once, so they stand in one table instead of running together.
    Nothing is shown where stderr is no terminal.
    """
    console = Console(stderr=True)
    texts: dict[str, str] = {}
    if not (show and console.is_terminal):
        yield lambda attribute, text: None
        return
    with Live(console=console, transient=True, refresh_per_second=8) as live:

        def on_text(attribute: Attribute, text: str) -> None:
            texts[attribute.name] = texts.get(attribute.name, "") + text
            table = Table.grid(padding=(0, 2))
            for name, written in texts.items():
                table.add_row(Text(name, style="bold"), Text(_printable(written)))
            live.update(table)

        yield on_text


def print_table(records: Sequence[Record], *, selecting: bool) -> None:
    """Rank, score ± spread and file, best first. ``selecting``: mark the kept ones."""
    ranked = [record for record in records if record.rank is not None]
    shown = ranked
    if selecting and len(ranked) > SHORT_RANKING:
        shown = [record for record in ranked if record.selected]
    # A path must not be broken over lines, whatever the terminal's width.
    console = Console(file=sys.stdout, soft_wrap=True, highlight=False)
    # Columns for what was asked alone: a percentile within the group, a bucket.
    fair = any(record.standing is not None for record in ranked)
    width = max((len(record.bucket or "") for record in ranked), default=0)
    header = f"{'rank':>6}  {'score':>6} ± {'std':<5}"
    header += ("   fair" if fair else "") + (f"  {'bucket':<{width}}" if width else "") + "  file"
    console.print(Text(header, style="bold"))
    for record in shown:
        mark = "*" if selecting and record.selected else " "
        line = f"{mark}{record.rank:>5}  {record.score:6.2f} ± {record.std:<5.2f}"
        line += f"  {record.standing:4.0f}%" if fair and record.standing is not None else ""
        line += f"  {record.bucket or '':<{width}}" if width else ""
        dim = selecting and not record.selected
        console.print(Text(_printable(f"{line}  {record.path}"), style="dim" if dim else ""))


def summary(records: Sequence[Record]) -> str:
    """One line: how many were scored, kept and failed, and where the cut lies."""
    scored = [record for record in records if record.rank is not None]
    kept = [record for record in scored if record.selected]
    text = f"{len(scored)} scored, {len(kept)} kept"
    if kept and len(kept) < len(scored):
        text += f" (marked *), cut at {min(record.score for record in kept):.2f}"
    buckets = Counter(record.bucket for record in scored if record.bucket is not None)
    if buckets:
        text += "; " + ", ".join(f"{name} {count}" for name, count in buckets.items())
    failed = len(records) - len(scored)
    return text + (f", {failed} failed" if failed else "")


def _printable(text: str) -> str:
    """File names may hold bytes that are no text, and control characters; show them escaped."""
    encodable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in encodable)
