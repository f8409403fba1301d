"""From scores 0..100 to the range a trainer wants. Pure functions of the score, monotone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .errors import UsageError

Floats = npt.NDArray[np.float32]


class Scale(Protocol):
    """(B,) scores in 0..100 → (B,) rewards. NaN stays NaN."""

    def __call__(self, scores: Floats) -> Floats: ...


@dataclass(frozen=True)
class Linear:
    """``score * factor + shift``."""

    factor: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and math.isfinite(self.shift)):
            raise UsageError(f"expected finite scale and shift, got {self.factor}, {self.shift}")

    def __call__(self, scores: Floats) -> Floats:
        return scores * np.float32(self.factor) + np.float32(self.shift)


@dataclass(frozen=True)
class ZScore:
    """Standard deviations above the mean of a reference."""

    mean: float
    """Score points."""
    std: float
    """Score points."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise UsageError(
                f"z-scores need a reference that varies, got mean {self.mean:g}, std {self.std:g}"
            )

    @classmethod
    def against(cls, reference: Iterable[float]) -> ZScore:
        values = _reference(reference)
        return cls(float(values.mean()), float(values.std()))

    def __call__(self, scores: Floats) -> Floats:
        return (scores - np.float32(self.mean)) / np.float32(self.std)


class Percentile:
    """The share of a reference that scores lower, 0..1; linear between its scores."""

    def __init__(self, reference: Iterable[float]) -> None:
        values = _reference(reference)
        # Equal scores share the middle of their ranks, so that the curve is a function.
        self._scores, counts = np.unique(values, return_counts=True)
        self._shares = (np.cumsum(counts) - counts / 2) / len(values)

    def __call__(self, scores: Floats) -> Floats:
        return np.interp(scores, self._scores, self._shares, left=0, right=1).astype(np.float32)


def make_scale(
    scale: str | float | Scale, shift: float = 0.0, reference: Iterable[float] | None = None
) -> Scale:
    """``raw`` (0..100), ``unit`` (0..1), ``zscore``, ``percentile``, a factor, or a callable.

    ``reference``: scores 0..100 that ``zscore`` and ``percentile`` compare with. ``shift`` is added
    to linear scales. Raises UsageError for a combination that makes no sense.
    """
    if reference is not None and scale not in ("zscore", "percentile"):
        raise UsageError(f"scale {scale!r} takes no reference; zscore and percentile do")
    if shift and not (isinstance(scale, (int, float)) or scale in ("raw", "unit")):
        raise UsageError(f"scale {scale!r} takes no shift")
    if callable(scale):
        return scale
    if isinstance(scale, (int, float)):
        return Linear(scale, shift)
    if scale in ("raw", "unit"):
        return Linear(1.0 if scale == "raw" else 0.01, shift)
    if scale not in ("zscore", "percentile"):
        raise UsageError(
            f"unknown scale {scale!r}; known: raw, unit, zscore, percentile, a factor, a callable"
        )
    if reference is None:
        raise UsageError(f"scale {scale!r} needs reference=, scores 0..100 to compare with")
    return ZScore.against(reference) if scale == "zscore" else Percentile(reference)


def parse_scale(text: str) -> str | float:
    """A scale as a command line gives it: ``raw``, ``unit`` or a factor."""
    if text in ("raw", "unit"):
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"expected the scale raw, unit or a number, got {text!r}") from None


def _reference(scores: Iterable[float]) -> npt.NDArray[np.float64]:
    values = np.asarray(list(scores), np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise UsageError("expected a reference of at least 2 finite scores")
    return values
