"""ArtiMuse as a reward: images in, one number each out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .scorer import DEFAULT_BATCH_SIZE, Scorer


class Reward:
    """A callable for generation loops: ``reward(images, prompts, metadata) -> scores``.

    Args:
        scorer: any :class:`Scorer`; the embedded model if None.
        scale: multiplies the score; 0.01 gives rewards in 0..1.
    """

    def __init__(self, scorer: Scorer | None = None, *, scale: float = 1.0) -> None:
        self.scorer = scorer or Scorer.load()
        self.scale = scale

    def __call__(
        self,
        images: Any,
        prompts: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> npt.NDArray[np.float32]:
        """(B,) fp32 rewards, in the images' order; NaN where an image could not be scored.

        ``images`` is whatever :meth:`Scorer.score` takes, e.g. an NCHW tensor in 0..1 or an NHWC
        uint8 array. ``prompts`` and ``metadata`` are taken because trainers pass them; the score
        does not depend on them.
        """
        results = self.scorer.score(images, batch_size=batch_size)
        return np.array([result.score for result in results], np.float32) * np.float32(self.scale)
