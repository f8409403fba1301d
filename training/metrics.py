"""How well predicted scores follow human ones: SRCC, PLCC, Kendall's τ, RMSE, uncertainty."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from .datasets.agiqa3k import Rating

Array = npt.NDArray[np.float64]
Metric = Callable[..., float]


def srcc(predicted: npt.ArrayLike, human: npt.ArrayLike) -> float:
    """Spearman's rank correlation; NaN if either side is constant."""
    return plcc(stats.rankdata(predicted), stats.rankdata(human))


def plcc(predicted: npt.ArrayLike, human: npt.ArrayLike) -> float:
    """Pearson's linear correlation, without a fitted non-linearity; NaN if a side is constant."""
    # Not scipy's: its p-values, which nobody reads here, are most of a bootstrap's time.
    a, b = np.asarray(predicted, np.float64), np.asarray(human, np.float64)
    if _constant(a, b):
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def kendall(predicted: npt.ArrayLike, human: npt.ArrayLike) -> float:
    """Kendall's τ-b, which allows for ties; NaN if either side is constant."""
    if _constant(predicted, human):
        return float("nan")
    return float(stats.kendalltau(predicted, human).statistic)


def _constant(*sides: npt.ArrayLike) -> bool:
    return any(np.ptp(np.asarray(side)) == 0 for side in sides)


def logistic_fit(predicted: npt.ArrayLike, human: npt.ArrayLike) -> Array | None:
    """Predictions brought onto the human scale by VQEG's logistic of four parameters.

    ``f(x) = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|))``, least squares. None if a side is
    constant, there are fewer points than parameters and one, or the fit does not converge.
    """
    x, y = np.asarray(predicted, np.float64), np.asarray(human, np.float64)
    if len(x) < 5 or _constant(x, y):
        return None

    def curve(x: Array, top: float, bottom: float, middle: float, width: float) -> Array:
        values: Array = bottom + (top - bottom) * special.expit((x - middle) / abs(width))
        return values

    start = [y.max(), y.min(), x.mean(), x.std()]
    try:
        with warnings.catch_warnings():
            # Near a straight line the parameters are ill-determined; the curve is not.
            warnings.simplefilter("ignore", optimize.OptimizeWarning)
            found, _ = optimize.curve_fit(curve, x, y, start, maxfev=20_000)
    except RuntimeError:
        return None
    return curve(x, *found)


def rmse(predicted: npt.ArrayLike, human: npt.ArrayLike) -> float:
    """Root mean square error, on the scale of both."""
    return float(np.sqrt(np.mean((np.asarray(predicted) - np.asarray(human)) ** 2)))


def bootstrap_interval(
    metric: Metric,
    predicted: npt.ArrayLike,
    human: npt.ArrayLike,
    groups: Sequence[str] | None = None,
    *,
    along: Sequence[str] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95% percentile interval of ``metric``.

    Whole ``groups`` (prompts) are drawn with replacement: images of one prompt are not independent,
    and drawing them singly would make the interval too narrow. ``along``, an entry an image, is
    drawn with the rest and handed to ``metric`` as its third argument. Without groups every image
    is one of its own.
    """
    a, b = np.asarray(predicted, np.float64), np.asarray(human, np.float64)
    third = () if along is None else (np.asarray(along),)
    members = [] if groups is None else _members(groups)
    rng = np.random.default_rng(seed)
    drawn_values = []
    for _ in range(samples):
        count = len(members) or len(a)
        rows = rng.integers(count, size=count)
        if members:
            rows = np.concatenate([members[i] for i in rows])
        drawn_values.append(metric(a[rows], b[rows], *(values[rows] for values in third)))
    if np.isnan(drawn_values).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(drawn_values, [0.025, 0.975])
    return float(low), float(high)


def _members(groups: Sequence[str]) -> list[npt.NDArray[np.intp]]:
    names = np.asarray(groups)
    return [np.flatnonzero(names == name) for name in sorted(set(groups))]


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


def agreement(predicted: npt.ArrayLike, ratings: Sequence[Rating]) -> Agreement:
    """Every figure of the model card's quality table: (n,) scores and who rated those pictures."""
    human = np.array([rating.score for rating in ratings])
    prompts = [rating.prompt for rating in ratings]
    generators = [rating.generator for rating in ratings]
    return Agreement(
        n=len(ratings),
        srcc=srcc(predicted, human),
        srcc_interval=bootstrap_interval(srcc, predicted, human, prompts),
        plcc=plcc(predicted, human),
        plcc_interval=bootstrap_interval(plcc, predicted, human, prompts),
        srcc_within_generator=within(predicted, human, generators),
        srcc_within_generator_interval=bootstrap_interval(
            within, predicted, human, prompts, along=generators, samples=300
        ),
    )
