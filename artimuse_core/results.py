"""What a score is, once it leaves the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The answer for one image.

    A failed image has ``error`` set, ``score`` and ``std`` NaN and no ``probs``; check ``ok``.
    """

    score: float
    """Expected aesthetics score, 0..100 (paper Sec. 4.3: expectation over the score tokens)."""
    std: float
    """Spread: standard deviation of the predicted score distribution, in score points."""
    model: str
    """Name of the model that scored; scores of different models are not comparable."""
    probs: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    """Probability of each score token, (K,) fp32, in ascending order of score."""
    embedding: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    """What the vision tower saw, (W,) fp32 of length 1; only where it was asked for."""
    error: str | None = None
    """One line saying why there is no score."""

    @property
    def ok(self) -> bool:
        return self.error is None

    @classmethod
    def failed(cls, error: str, model: str) -> ScoreResult:
        return cls(score=math.nan, std=math.nan, model=model, error=error)
