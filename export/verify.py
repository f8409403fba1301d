"""Does an artifact answer as torch does? Measured before it gets its name, and again anywhere.

What torch answered in fp32 travels in the bundle, so that it can be verified without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..artimuse_core import bundle
from ..artimuse_core.engines import Engine, OnnxEngine
from ..artimuse_core.errors import ModelError
from ..artimuse_core.pictures import render_pictures
from ..artimuse_core.preprocess import preprocess_batch
from ..artimuse_core.score_tokens import ScoreTokens

IMAGES = 64
TOP = 0.1


@dataclass(frozen=True)
class Bound:
    """What is tolerated of one precision."""

    points: float
    """Largest difference of a score."""
    srcc: float = 0.0
    """Least rank correlation."""


BOUNDS = {
    "fp32": Bound(0.05),
    "fp16": Bound(0.3),
    "bf16": Bound(0.5),
    "int8": Bound(2.0, srcc=0.995),
    "int4": Bound(4.0, srcc=0.98),
}


@dataclass(frozen=True)
class Agreement:
    """An artifact against torch in fp32, on the same pixels."""

    images: int
    max_logit_error: float
    max_score_error: float
    """Score points."""
    mean_score_error: float
    srcc: float
    top_10_agreement: float
    """Share of torch's best tenth that is in the artifact's best tenth too."""

    def __str__(self) -> str:
        return (
            f"{self.images} images: scores differ by {self.mean_score_error:.3g} on average and "
            f"{self.max_score_error:.3g} at most, SRCC {self.srcc:.4f}, "
            f"{self.top_10_agreement:.0%} of the top 10% the same"
        )


def pixel_batches(size: int, batch: int = 8) -> list[npt.NDArray[np.float32]]:
    """The pictures that every artifact is verified on, preprocessed."""
    pictures = render_pictures(IMAGES)
    return [
        preprocess_batch(pictures[start : start + batch], size) for start in range(0, IMAGES, batch)
    ]


def answers(engine: Engine, size: int) -> npt.NDArray[np.float32]:
    """(IMAGES, K) score logits."""
    return np.concatenate([engine.score_logits(batch) for batch in pixel_batches(size)])


def compare(
    artifact: Engine, wanted: npt.NDArray[np.float32], tokens: ScoreTokens, size: int
) -> Agreement:
    """Run an artifact in batches and singly against what torch ``wanted``."""
    batched = answers(artifact, size)
    singly = np.concatenate(
        [artifact.score_logits(one[None]) for batch in pixel_batches(size) for one in batch]
    )
    got, single, expected = (tokens.readout(logits).score for logits in (batched, singly, wanted))
    errors = np.abs(np.stack([got, single]) - expected)
    best = max(1, round(TOP * len(expected)))
    same = set(np.argsort(-got)[:best]) & set(np.argsort(-expected)[:best])
    return Agreement(
        images=len(expected),
        max_logit_error=float(np.abs(np.stack([batched, singly]) - wanted).max()),
        max_score_error=float(errors.max()),
        mean_score_error=float(errors.mean()),
        srcc=float(np.corrcoef(_ranks(got), _ranks(expected))[0, 1]),
        top_10_agreement=len(same) / best,
    )


def _ranks(values: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    return np.argsort(np.argsort(values))


def require(agreement: Agreement, precision: str) -> None:
    """Raise ModelError where an artifact is not the model it was made from."""
    bound = BOUNDS[precision]
    if agreement.max_score_error > bound.points or agreement.srcc < bound.srcc:
        raise ModelError(
            f"the {precision} artifact differs too much from torch ({agreement}); tolerated are "
            f"{bound.points} points and SRCC {bound.srcc}"
        )


def verify_bundle(directory: Path, device: str = "auto") -> Agreement:
    """Repeat a bundle's verification here. Raises ModelError over the bound."""
    manifest = bundle.read(directory)
    agreement = compare(
        OnnxEngine(directory, manifest, device=device),
        bundle.golden_logits(directory),
        manifest.tokens(),
        manifest.input_size,
    )
    require(agreement, manifest.precision)
    return agreement
