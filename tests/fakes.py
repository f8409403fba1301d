"""A model without weights: an engine whose score is the mean brightness of the pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from artimuse.artimuse_core.errors import ModelError
from artimuse.artimuse_core.preprocess import IMAGENET_MEAN, IMAGENET_STD
from artimuse.artimuse_core.scorer import Scorer

Floats = npt.NDArray[np.float32]


class BrightnessEngine:
    """score_logits peak at the token whose score is the mean brightness in percent."""

    device = "fake"
    embeds = True

    def __init__(self, *, fail_batches: bool = False, poison: float | None = None) -> None:
        self.batches: list[int] = []
        self.fail_batches = fail_batches
        self.poison = poison
        """Images of this brightness are answered with NaN."""

    def score_logits(self, pixel_values: Floats) -> Floats:
        return self.score_and_embed(pixel_values)[0]

    def score_and_embed(self, pixel_values: Floats) -> tuple[Floats, Floats]:
        """The embedding is the mean colour, less grey: pictures of one hue point the same way."""
        self.batches.append(len(pixel_values))
        if self.fail_batches and len(pixel_values) > 1:
            raise ModelError("out of memory")
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        brightness = (pixel_values * std + mean).mean(axis=(1, 2, 3)) * 100
        logits = -((np.arange(101) - brightness[:, None]) ** 2)
        if self.poison is not None:
            logits[np.abs(brightness - self.poison) < 1] = np.nan
        hues = (pixel_values * std + mean).mean(axis=(2, 3)) - 0.5
        return logits.astype(np.float32), hues / np.linalg.norm(hues, axis=1, keepdims=True)


def brightness_scorer(**options: object) -> Scorer:
    engine = BrightnessEngine(**options)  # type: ignore[arg-type]
    return Scorer(engine, name="brightness", input_size=16, card="mean brightness")
