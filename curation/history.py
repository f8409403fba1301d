"""What earlier runs decided: one file through all runs, two runs side by side."""

from __future__ import annotations

from collections.abc import Iterator

from ..artimuse_core.errors import UsageError
from .records import Record
from .store import Store


def explain(store: Store, path: str) -> Iterator[str]:
    """Lines on one file: what it is, and what each run made of it. Raises UsageError."""
    history = store.outcome_history(path)
    if not history:
        raise UsageError(f"no run has ranked {path}; curate its folder first")
    facts = store.facts_of(path)
    yield path
    if facts is not None:
        yield f"  {facts.width} × {facts.height} pixels, SHA-256 {facts.sha256[:16]}…"
        info = facts.info
        made = [info.generator, info.checkpoint, info.loras, info.sampler]
        if any(made):
            yield "  made with " + ", ".join(part for part in made if part)
        for name in ("seed", "steps", "cfg", "prompt", "negative_prompt"):
            value = getattr(info, name)
            if value is not None:
                yield f"  {name.replace('_', ' ')}: {' '.join(str(value).split())}"
    for run, asked, record in history:
        verdict = "kept" if record.selected else f"not kept: {record.reason}"
        yield f"  run {run} ({asked})"
        yield f"    {record.score:.2f} ± {record.std:.2f} by {record.model}, rank {record.rank}"
        yield f"    {verdict}"


def diff(store: Store, first: str, second: str) -> Iterator[str]:
    """Lines on what changed between two runs, best first, and a summary. Raises UsageError."""
    names = [_find(store, run) for run in (first, second)]
    before, after = (store.outcomes(name) for name in names)
    models = {record.model for outcome in (before, after) for record in outcome.values()}
    comparable = len(models) <= 1
    if not comparable:
        yield f"different models ({', '.join(sorted(models))}): their scores are not compared"
    counts = dict.fromkeys(["newly kept", "no longer kept", "new", "gone", "score changed"], 0)
    for path in sorted({*before, *after}, key=lambda path: _place(path, after, before)):
        old, new = before.get(path), after.get(path)
        if old is None or new is None:
            counts["gone" if new is None else "new"] += 1
        elif comparable and old.score != new.score:
            counts["score changed"] += 1
        was, now = bool(old and old.selected), bool(new and new.selected)
        if was != now:
            counts["newly kept" if now else "no longer kept"] += 1
            why = "gone" if new is None else "" if now else f"  ({new.reason})"
            yield f"{'+' if now else '-'} {path}{why}"
    kept = sum(record.selected for record in after.values())
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    yield f"{names[0]} to {names[1]}: {kept} kept; {told or 'no difference'}"


def _place(path: str, after: dict[str, Record], before: dict[str, Record]) -> tuple[int, str]:
    record = after.get(path) or before[path]
    return record.rank or 0, path


def _find(store: Store, run: str) -> str:
    names = [name for name, _, _ in store.runs()]
    if not names:
        raise UsageError("no run is remembered yet")
    if run == "last":
        return names[-1]
    if run not in names:
        raise UsageError(f"unknown run {run!r}; the latest are {', '.join(names[-5:])}")
    return run
