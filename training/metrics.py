"""How well predicted scores follow human ones: SRCC, PLCC and their uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]
Metric = Callable[..., float]


def srcc(predicted: npt.ArrayLike, human: npt.ArrayLike) -> float:
    """Spearman's rank correlation; NaN if either side is constant."""
    return float(stats.spearmanr(predicted, human).statistic)


def plcc(predicted: npt.ArrayLike, human: npt.ArrayLike) -> float:
    """Pearson's linear correlation, without a fitted non-linearity; NaN if a side is constant."""
    return float(stats.pearsonr(np.asarray(predicted), np.asarray(human)).statistic)


def bootstrap_interval(
    metric: Metric,
    predicted: npt.ArrayLike,
    human: npt.ArrayLike,
    groups: Sequence[str],
    *,
    along: Sequence[str] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95% percentile interval of ``metric``.

    Whole ``groups`` (prompts) are drawn with replacement: images of one prompt are not independent,
    and drawing them singly would make the interval too narrow. ``along``, an entry an image, is
    drawn with the rest and handed to ``metric`` as its third argument.
    """
    a, b = np.asarray(predicted, np.float64), np.asarray(human, np.float64)
    names = np.asarray(groups)
    third = () if along is None else (np.asarray(along),)
    members = [np.flatnonzero(names == name) for name in sorted(set(groups))]
    rng = np.random.default_rng(seed)
    drawn_values = []
    for _ in range(samples):
        drawn = rng.integers(len(members), size=len(members))
        rows = np.concatenate([members[i] for i in drawn])
        drawn_values.append(metric(a[rows], b[rows], *(values[rows] for values in third)))
    low, high = np.nanquantile(drawn_values, [0.025, 0.975])
    return float(low), float(high)


def within(predicted: npt.ArrayLike, human: npt.ArrayLike, groups: Sequence[str]) -> float:
    """Mean SRCC inside each group: what remains when telling the groups apart does not help."""
    a, b, names = np.asarray(predicted), np.asarray(human), np.asarray(groups)
    return float(np.mean([srcc(a[names == g], b[names == g]) for g in sorted(set(groups))]))


@dataclass(frozen=True, slots=True)
class Agreement:
    """A model's agreement with people on one set of images."""

    n: int
    srcc: float
    srcc_interval: tuple[float, float]
    """95%, bootstrap over prompts."""
    plcc: float
    plcc_interval: tuple[float, float]
    srcc_within_generator: float
    """Mean over generators of the SRCC inside one."""
    srcc_within_generator_interval: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def agreement(
    predicted: npt.ArrayLike,
    human: npt.ArrayLike,
    prompts: Sequence[str],
    generators: Sequence[str],
) -> Agreement:
    """Every figure of the model card's quality table, from aligned sequences."""
    return Agreement(
        n=len(prompts),
        srcc=srcc(predicted, human),
        srcc_interval=bootstrap_interval(srcc, predicted, human, prompts),
        plcc=plcc(predicted, human),
        plcc_interval=bootstrap_interval(plcc, predicted, human, prompts),
        srcc_within_generator=within(predicted, human, generators),
        srcc_within_generator_interval=bootstrap_interval(
            within, predicted, human, prompts, along=generators, samples=300
        ),
    )
