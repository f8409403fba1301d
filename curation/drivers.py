"""Which model, LoRA, sampler, CFG go with higher scores. Pure: records in, differences out.

Associations, not causes: whoever uses a better prompt with one checkpoint will see the checkpoint
rise. Where prompts repeat, each score is therefore taken against its own prompt's mean.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from .records import Record

MIN_IMAGES = 5
"""A value with fewer images has no interval worth the name."""
FACTORS = ("checkpoint", "loras", "sampler", "scheduler", "cfg", "steps", "generator")
_NORMAL_975 = 1.96


@dataclass(frozen=True, slots=True)
class Driver:
    """One value of one factor against all images without it, in score points."""

    factor: str
    value: str
    images: int
    mean: float
    """Mean score of the images with it."""
    difference: float
    low: float
    """95 % interval of the difference (Welch, not corrected for looking at many values)."""
    high: float


def score_drivers(records: Sequence[Record]) -> list[Driver]:
    """The drivers, largest clear difference first."""
    scored = [record for record in records if record.error is None]
    relative = _against_own_prompt(scored)
    found = []
    for factor in FACTORS:
        having: dict[str, list[int]] = defaultdict(list)
        for index, record in enumerate(scored):
            for value in _values(record, factor):
                having[value].append(index)
        for value, members in having.items():
            inside = set(members)
            rest = [relative[i] for i in range(len(scored)) if i not in inside]
            if min(len(members), len(rest)) < MIN_IMAGES:
                continue
            these = [relative[i] for i in members]
            difference = fmean(these) - fmean(rest)
            error = math.sqrt(variance(these) / len(these) + variance(rest) / len(rest))
            half, mean = _NORMAL_975 * error, fmean(scored[i].score for i in members)
            low, high = difference - half, difference + half
            found.append(Driver(factor, value, len(members), mean, difference, low, high))
    return sorted(found, key=lambda driver: -_clear(driver))


def _clear(driver: Driver) -> float:
    """How far the interval stays from zero; negative where it holds zero."""
    return max(driver.low, -driver.high)


def _against_own_prompt(records: Sequence[Record]) -> list[float]:
    """Score minus its prompt's mean, plus the mean of all; the score itself where none repeats."""
    groups: dict[str | None, list[float]] = defaultdict(list)
    for record in records:
        groups[record.info.prompt].append(record.score)
    if len(groups) < 2 or len(groups) > len(records) / 2:
        return [record.score for record in records]
    overall = fmean(record.score for record in records)
    means = {prompt: fmean(scores) for prompt, scores in groups.items()}
    return [record.score - means[record.info.prompt] + overall for record in records]


def _values(record: Record, factor: str) -> Iterator[str]:
    value = record.value(factor)
    if factor == "loras":
        yield from (value or "").split(", ") if value else ["(none)"]
    elif value is not None:
        yield f"{value:g}" if isinstance(value, float) else str(value)
