"""Does an artifact answer as torch does? Measured on rendered pictures, before it gets its name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from ..artimuse_core.engines import Engine
from ..artimuse_core.errors import ModelError
from ..artimuse_core.preprocess import preprocess_batch
from ..artimuse_core.score_tokens import ScoreTokens

SCORE_BOUND = 0.05
"""Largest tolerated difference in score points between artifact and torch, fp32."""
LOGIT_BOUND = 1e-3


@dataclass(frozen=True)
class Agreement:
    """Differences between two engines on the same pixels."""

    images: int
    max_logit_error: float
    max_score_error: float
    """Score points."""
    mean_score_error: float

    @property
    def fine(self) -> bool:
        return self.max_score_error <= SCORE_BOUND and self.max_logit_error <= LOGIT_BOUND


def render_pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Smooth, noisy, flat and structured RGB pictures of various sizes, the same for each seed."""
    random = np.random.default_rng(seed)
    pictures = []
    for index in range(count):
        width, height = (int(side) for side in random.integers(32, 512, 2))
        coarse = random.integers(0, 256, (*random.integers(1, 24, 2), 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling(index % 4))
        if index % 5 == 0:
            picture = picture.filter(ImageFilter.UnsharpMask(4, 300))
        if index % 7 == 0:
            noise = random.normal(0, 40, (height, width, 3))
            noisy = np.clip(np.asarray(picture) + noise, 0, 255)
            picture = Image.fromarray(noisy.astype(np.uint8))
        pictures.append(picture)
    return pictures


def compare(
    artifact: Engine,
    reference: Engine,
    tokens: ScoreTokens,
    input_size: int,
    *,
    images: int = 64,
    batch_size: int = 8,
) -> Agreement:
    """Run both engines over ``images`` pictures, in batches and, for the artifact, also singly."""
    pictures = render_pictures(images)
    batches = [
        preprocess_batch(pictures[start : start + batch_size], input_size)
        for start in range(0, images, batch_size)
    ]
    wanted = np.concatenate([reference.score_logits(batch) for batch in batches])
    batched = np.concatenate([artifact.score_logits(batch) for batch in batches])
    singly = np.concatenate([artifact.score_logits(one[None]) for b in batches for one in b])

    def scores(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return tokens.readout(logits).score

    score_errors = np.abs(np.stack([scores(batched), scores(singly)]) - scores(wanted))
    return Agreement(
        images=images,
        max_logit_error=float(np.abs(np.stack([batched, singly]) - wanted).max()),
        max_score_error=float(score_errors.max()),
        mean_score_error=float(score_errors.mean()),
    )


def require(agreement: Agreement) -> None:
    """Raise ModelError where an artifact is not the model it was made from."""
    if not agreement.fine:
        raise ModelError(
            f"the artifact differs from torch by up to {agreement.max_score_error:.3g} points and "
            f"{agreement.max_logit_error:.3g} in a logit over {agreement.images} images; "
            f"tolerated are {SCORE_BOUND} and {LOGIT_BOUND}"
        )
