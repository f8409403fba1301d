"""The subsets of the public data sets that the paper trained on (Table 7, App. B.2).

What the paper leaves open, and what its figures settle, is in ``docs/decisions/0025``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

from ...artimuse_core.errors import UsageError
from . import apddv2
from .base import Sample

TABLE_7 = {
    "apddv2": 4_898,
    "spaq": 1_537,
    "koniq10k": 1_488,
    "impressions": 1_443,
    "ava": 235_598,
    "tad66k": 52_248,
    "para": 28_220,
    "flickr-aes": 35_762,
}
EXTREME_SHARE = {"spaq": 0.8, "koniq10k": 1.0}
"""Share of the subset in the extreme quarters. The text says 80% of both; KonIQ-10k has 1,488
images there in all, which is Table 7's figure, so nothing else can have been taken."""
SPAQ_QUARTETT = ("Brightness", "Colorfulness", "Contrast", "Sharpness")


@dataclass(frozen=True, slots=True)
class Subset:
    samples: list[Sample]
    report: str
    """One line: what was kept, out of how many, against Table 7."""


def paper_subset(
    name: str, samples: Sequence[Sample], *, seed: int = 0, extreme_share: float | None = None
) -> Subset:
    """The images of data set ``name`` that the paper's rule keeps, in their order.

    ``seed`` decides what is drawn; ``extreme_share``, 0..1, replaces ``EXTREME_SHARE``.
    Raises UsageError for a data set that Table 7 does not list.
    """
    if name not in TABLE_7:
        raise UsageError(f"Table 7 does not list {name!r}; it lists {', '.join(TABLE_7)}")
    if extreme_share is not None and not 0 < extreme_share <= 1:
        raise UsageError(f"expected an extreme share in 0..1, got {extreme_share}")
    share = extreme_share or EXTREME_SHARE.get(name, 1.0)
    chance = random.Random(seed)
    rule = "all of them"
    kept = list(samples)
    if name == "apddv2":
        rule = "with a comment"
        kept = [sample for sample in samples if _commented(sample)]
    elif name == "spaq":
        with_category = [sample for sample in samples if "category" in sample.groups]
        kept = _extremes(with_category, spaq_extreme, share, TABLE_7[name], chance)
        rule = f"with categories, {_share(kept, spaq_extreme)} in the extreme quarters"
    elif name == "koniq10k":
        size = None if share == 1 else TABLE_7[name]
        kept = _extremes(samples, extreme, share, size, chance)
        rule = f"{_share(kept, extreme)} in the extreme quarters"
    elif name == "impressions":
        rule = "each image's most experienced annotator"
    elif any(sample.split for sample in samples):
        rule = "not held out"
        kept = [sample for sample in samples if sample.split != "test"]
    report = f"{name}: kept {len(kept):,} of {len(samples):,} ({rule}); Table 7: {TABLE_7[name]:,}"
    return Subset(kept, report)


def extreme(sample: Sample) -> bool:
    """Whether the score lies in the lowest or the highest quarter of its scale."""
    return sample.score is not None and _outer(sample.score)


def spaq_extreme(sample: Sample) -> bool:
    """The same, or the mean of four attribute scores does."""
    return extreme(sample) or _outer(mean(sample.attribute_scores[name] for name in SPAQ_QUARTETT))


def _outer(score: float) -> bool:
    return score <= 25 or score >= 75


def _commented(sample: Sample) -> bool:
    """A comment that says something: "Reviewed" and "Reviewed already" mark a gap."""
    comment = sample.comments.get(apddv2.COMMENT, "")
    return bool(comment) and not comment.lower().startswith("reviewed")


def _extremes(
    samples: Sequence[Sample],
    is_extreme: Callable[[Sample], bool],
    share: float,
    size: int | None,
    chance: random.Random,
) -> list[Sample]:
    """Draw ``size`` samples (as many as there can be without one), ``share`` of them extreme."""
    outer = [place for place, sample in enumerate(samples) if is_extreme(sample)]
    inner = sorted(set(range(len(samples))) - set(outer))
    wanted = len(outer) if size is None else min(round(share * size), len(outer))
    others = min(round(wanted * (1 - share) / share), len(inner))
    drawn = chance.sample(outer, wanted) + chance.sample(inner, others)
    return [samples[place] for place in sorted(drawn)]


def _share(samples: Sequence[Sample], is_extreme: Callable[[Sample], bool]) -> str:
    return f"{sum(map(is_extreme, samples)) / max(len(samples), 1):.0%}"
