"""Which images to keep. Pure: numbers in, indices and reasons out; other modules touch files."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from statistics import NormalDist, fmean, pstdev, variance

from ..artimuse_core.errors import UsageError

PRIOR = 4
"""Degrees of freedom with which the spread within all groups counts in each: two images cannot say
how much a prompt's images differ, forty can."""
_FLAT = 1e-9
"""Spread of values that are all equal; each of them is its group's mean."""


@dataclass(frozen=True, slots=True)
class Top:
    """How many of the best to keep: a count, or a share of all."""

    amount: Decimal
    percent: bool

    @classmethod
    def parse(cls, text: str) -> Top:
        """Read ``10`` or ``10%``. Raises UsageError for anything else."""
        number = text.strip()
        percent = number.endswith("%")
        try:
            # Decimal: 7 % of 100 is 7, but with floats it is 7.000000000000001, whose ceiling is 8.
            amount = Decimal(number.rstrip("%").strip() if percent else number)
        except InvalidOperation:
            amount = Decimal("NaN")
        whole = percent or amount == amount.to_integral_value()
        if not (amount.is_finite() and amount > 0 and whole) or (percent and amount > 100):
            raise UsageError(f"expected a count such as 20 or a share such as 10%, got {text!r}")
        return cls(amount, percent)

    def count(self, total: int) -> int:
        """Of ``total`` images; a share rounds up, so that it keeps at least one."""
        wanted = math.ceil(total * self.amount / 100) if self.percent else int(self.amount)
        return min(wanted, total)

    def __str__(self) -> str:
        return f"{self.amount.normalize():f}" + ("%" if self.percent else "")


@dataclass(frozen=True, slots=True)
class Bucket:
    """One class of a ``--buckets`` list, such as ``great``."""

    name: str
    floor: float | None = None
    """Score from which an image belongs here; None where a share or the rest decides."""
    share: Top | None = None
    """Share of the ranked images, counted from the best down through this bucket."""


@dataclass(frozen=True)
class Rules:
    """Everything that decides; each rule that is None or False is not asked."""

    top: Top | None = None
    min_score: float | None = None
    max_score: float | None = None
    best_per_group: int | None = None
    """K best of each group."""
    buckets: tuple[Bucket, ...] = ()

    @property
    def selecting(self) -> bool:
        """Whether any rule can drop an image."""
        limits = (self.top, self.min_score, self.max_score, self.best_per_group)
        return any(limit is not None for limit in limits)


@dataclass(slots=True)
class Verdict:
    """What became of one ranked image, and why."""

    kept: bool
    reason: str


@dataclass(frozen=True)
class Choice:
    """What :func:`choose` decided."""

    ranking: list[int]
    """Indices from best to worst."""
    verdicts: dict[int, Verdict] = field(default_factory=dict)

    @property
    def kept(self) -> list[int]:
        return [index for index in self.ranking if self.verdicts[index].kept]


def rank(values: Sequence[float], paths: Sequence[str]) -> list[int]:
    """Indices from best to worst; equal values by path, so that runs repeat. NaN is left out."""
    scored = [index for index, value in enumerate(values) if not math.isnan(value)]
    return sorted(scored, key=lambda index: (-values[index], paths[index]))


def lower_bounds(scores: Sequence[float], stds: Sequence[float]) -> list[float]:
    """Score minus spread: what an image is worth if the model is as wrong as it admits."""
    return [score - std for score, std in zip(scores, stds, strict=True)]


def standings(values: Sequence[float], groups: Sequence[Hashable]) -> list[float]:
    """Each value's percentile within its group, 0..100; NaN stays NaN.

    A group is taken as normal. Its mean is drawn toward that of all values as far as its images
    are too few to tell it apart (empirical Bayes: by the ratio of the spread within groups to the
    spread between them), its variance toward that within all groups.
    """
    members: dict[Hashable, list[float]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        if not math.isnan(value):
            members[group].append(value)
    shapes = _shapes(members)
    return [
        math.nan if math.isnan(value) else 100 * shapes[group].cdf(value)
        for value, group in zip(values, groups, strict=True)
    ]


def _shapes(members: Mapping[Hashable, Sequence[float]]) -> dict[Hashable, NormalDist]:
    """Each group's mean and spread, drawn toward the whole."""
    everyone = [value for inside in members.values() for value in inside]
    if not everyone:
        return {}
    overall = fmean(everyone)
    means = {group: fmean(inside) for group, inside in members.items()}
    squares = {g: sum((v - means[g]) ** 2 for v in inside) for g, inside in members.items()}
    freedom = len(everyone) - len(members)
    if not freedom:  # nothing repeats: there are no groups to speak of
        return dict.fromkeys(members, NormalDist(overall, pstdev(everyone) or _FLAT))
    within = sum(squares.values()) / freedom
    scatter = variance(means.values()) if len(means) > 1 else 0.0
    between = scatter - within * fmean(1 / len(inside) for inside in members.values())
    shapes = {}
    for group, inside in members.items():
        weight = between / (between + within / len(inside)) if between > 0 else 0.0
        spread = (squares[group] + PRIOR * within) / (len(inside) - 1 + PRIOR)
        mean = weight * means[group] + (1 - weight) * overall
        shapes[group] = NormalDist(mean, math.sqrt(spread) or _FLAT)
    return shapes


def choose(
    scores: Sequence[float],
    ranking: Sequence[int],
    rules: Rules,
    *,
    groups: Sequence[Hashable] = (),
    dropped: dict[int, str] | None = None,
) -> Choice:
    """Apply the rules to a ranking; an image must pass all of them.

    The rules on single images come first, then the best of each group, then ``top``, so that
    ``--top 20`` is filled from what the others left. A share counts against all ranked images.

    Args:
        scores: by index.
        ranking: indices from best to worst.
        groups: each index's group; needed for ``best_per_group``.
        dropped: indices that other rules (a condition, near-duplicates) refuse, with the reason.
    """
    refused = dropped or {}
    verdicts: dict[int, Verdict] = {}
    taken: dict[Hashable, int] = defaultdict(int)
    limit = None if rules.top is None else rules.top.count(len(ranking))
    kept = 0
    for index in ranking:
        reason = refused.get(index) or _outside(scores[index], rules)
        if reason is None and rules.best_per_group is not None:
            taken[groups[index]] += 1
            if taken[groups[index]] > rules.best_per_group:
                reason = f"{rules.best_per_group} better of its group are kept"
        if reason is None and limit is not None and kept >= limit:
            reason = f"below the top {rules.top}"
        kept += reason is None
        verdicts[index] = Verdict(reason is None, reason or "kept")
    return Choice(list(ranking), verdicts)


def _outside(score: float, rules: Rules) -> str | None:
    if rules.min_score is not None and score < rules.min_score:
        return f"below the minimum score of {rules.min_score:g}"
    if rules.max_score is not None and score > rules.max_score:
        return f"above the maximum score of {rules.max_score:g}"
    return None


def parse_buckets(text: str) -> tuple[Bucket, ...]:
    """Read ``great,good,rest`` (equal parts), ``great:70,good:50,rest`` or ``great:10%,…``.

    A number is the score from which a bucket begins, a share how many of the best it takes. The
    last bucket takes what is left and has no limit. Raises UsageError.
    """
    parts = [part.strip() for part in text.split(",")]
    names = [part.partition(":")[0].strip() for part in parts]
    limits = [part.partition(":")[2].strip() for part in parts]
    example = "expected names such as great:70,good:50,rest or great:10%,good:30%,rest"
    if len(parts) < 2 or not all(names) or len(set(names)) < len(names) or limits[-1]:
        raise UsageError(f"--buckets {text!r}: {example}; the last one has no limit")
    if any("/" in name or "\\" in name or name.startswith(".") for name in names):
        raise UsageError(f"--buckets {text!r}: names become folders; expected no slashes or dots")
    if not any(limits):
        equal = Decimal(100) / len(names)
        return (
            *(Bucket(n, share=Top(equal * i, True)) for i, n in enumerate(names[:-1], start=1)),
            Bucket(names[-1]),
        )
    if not all(limits[:-1]) or len({limit.endswith("%") for limit in limits[:-1]}) > 1:
        raise UsageError(f"--buckets {text!r}: {example}; scores or shares, not both")
    if limits[0].endswith("%"):
        shares = [Top.parse(limit).amount for limit in limits[:-1]]
        if sum(shares) > 100:
            raise UsageError(f"--buckets {text!r}: the shares add up to more than 100%")
        sums = [sum(shares[: i + 1], Decimal(0)) for i in range(len(shares))]
        found = [
            Bucket(name, share=Top(upto, True)) for name, upto in zip(names, sums, strict=False)
        ]
    else:
        try:
            floors = [float(limit) for limit in limits[:-1]]
        except ValueError:
            raise UsageError(f"--buckets {text!r}: {example}") from None
        if floors != sorted(floors, reverse=True) or not all(0 <= f <= 100 for f in floors):
            raise UsageError(f"--buckets {text!r}: expected scores of 0..100 from high to low")
        found = [Bucket(name, floor=floor) for name, floor in zip(names, floors, strict=False)]
    return (*found, Bucket(names[-1]))


def sort_into(
    buckets: Sequence[Bucket], scores: Sequence[float], ranking: Sequence[int]
) -> dict[int, str]:
    """Bucket name of each ranked index."""
    places = {}
    limits = [
        math.inf if bucket.share is None else bucket.share.count(len(ranking)) for bucket in buckets
    ]
    for place, index in enumerate(ranking):
        for bucket, limit in zip(buckets, limits, strict=True):
            if place < limit if bucket.floor is None else scores[index] >= bucket.floor:
                places[index] = bucket.name
                break
    return places
