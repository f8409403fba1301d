"""Does an artifact answer as torch does? Measured before it gets its name, and again anywhere.

What torch answered in fp32 travels in the bundle, so that it can be verified without torch.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..artimuse_core import bundle
from ..artimuse_core.engines import OnnxEngine
from ..artimuse_core.errors import ImageError, ModelError, UsageError
from ..artimuse_core.images import load_image
from ..artimuse_core.pictures import render_pictures
from ..artimuse_core.preprocess import preprocess, preprocess_batch
from ..artimuse_core.score_tokens import ScoreTokens

RENDERED = 64
"""Pictures drawn by code that every artifact is verified on, besides the user's own."""
MOST_REAL = 256
BATCH = 8
TOP = 0.1

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
ScoreLogits = Callable[[Floats], Floats]
"""(B, 3, S, S) → (B, K)."""


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
    "bf16": Bound(1.0),  # what the reference, which runs in it, differs from fp32 by
    "int8": Bound(2.0, srcc=0.995),
    "int4": Bound(4.0, srcc=0.98),
    "fp8": Bound(2.0, srcc=0.995),
}


@dataclass(frozen=True)
class Agreement:
    """An artifact against torch in fp32, on the same pixels."""

    images: int
    real_images: int
    """How many of them were no rendered pictures."""
    ran_on: str
    max_logit_error: float
    max_score_error: float
    """Score points."""
    mean_score_error: float
    srcc: float
    top_10_agreement: float
    """Share of torch's best tenth that is in the artifact's best tenth too."""

    def __str__(self) -> str:
        return (
            f"{self.images} images ({self.real_images} real) on {self.ran_on}: scores differ by "
            f"{self.mean_score_error:.3g} on average and {self.max_score_error:.3g} at most, SRCC "
            f"{self.srcc:.4f}, {self.top_10_agreement:.0%} of the top 10% the same"
        )


def rendered_pixels(size: int) -> Floats:
    """(RENDERED, 3, S, S): the pictures that every artifact is verified on."""
    return preprocess_batch(render_pictures(RENDERED), size)


def real_pixels(files: Sequence[Path], size: int) -> Floats:
    """(N, 3, S, S) of up to ``MOST_REAL`` image files; unreadable ones are logged and left out."""
    if len(files) > MOST_REAL:
        log.warning("verifying on %d of %d images, evenly chosen", MOST_REAL, len(files))
        files = [files[i * len(files) // MOST_REAL] for i in range(MOST_REAL)]
    pixels = [np.empty((0, 3, size, size), np.float32)]
    for file in files:
        try:
            pixels.append(preprocess(load_image(file), size)[None])
        except ImageError as error:
            log.warning("left out of the verification: %s: %s", file, error)
    return np.concatenate(pixels)


def answers(score_logits: ScoreLogits, pixels: Floats) -> Floats:
    """(N, K), computed in batches of ``BATCH``."""
    parts = [score_logits(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
    return np.concatenate(parts)


def write_golden(directory: Path, wanted: Floats, pixels: Floats) -> None:
    """Keep what torch answered: the rendered pictures' by place, real ones' by their pixels."""
    np.savez(
        directory / bundle.GOLDEN,
        score_logits=wanted[:RENDERED],
        real_logits=wanted[RENDERED:],
        real_sha256=np.array([_fingerprint(one) for one in pixels[RENDERED:]], "U64"),
    )


def _fingerprint(pixels: Floats) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def compare(
    artifact: ScoreLogits, ran_on: str, wanted: Floats, tokens: ScoreTokens, pixels: Floats
) -> Agreement:
    """Run an artifact in batches, and the first images singly, against what torch ``wanted``."""
    batched = answers(artifact, pixels)
    singly = np.concatenate([artifact(one[None]) for one in pixels[:BATCH]])
    logits, twice = np.concatenate([batched, singly]), np.concatenate([wanted, wanted[:BATCH]])
    got, expected = (tokens.readout(one).score for one in (logits, twice))
    errors = np.abs(got - expected)
    got, expected = got[: len(wanted)], expected[: len(wanted)]
    best = max(1, round(TOP * len(wanted)))
    same = set(np.argsort(-got)[:best]) & set(np.argsort(-expected)[:best])
    return Agreement(
        images=len(wanted),
        real_images=len(wanted) - RENDERED,
        ran_on=ran_on,
        max_logit_error=float(np.abs(logits - twice).max()),
        max_score_error=float(errors.max()),
        mean_score_error=float(errors.mean()),
        srcc=srcc(got, expected),
        top_10_agreement=len(same) / best,
    )


def srcc(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation of scores, among which no two are equal."""
    first, second = (np.argsort(np.argsort(values)) for values in (one, other))
    return float(np.corrcoef(first, second)[0, 1])


def holds(agreement: Agreement, precision: str) -> bool:
    """Is an artifact the model it was made from, as far as its precision allows?"""
    bound = BOUNDS[precision]
    # Written so that NaN fails.
    return agreement.max_score_error <= bound.points and agreement.srcc >= bound.srcc


def require(agreement: Agreement, precision: str) -> None:
    """Raise ModelError where an artifact does not hold its bound."""
    if not holds(agreement, precision):
        bound = BOUNDS[precision]
        raise ModelError(
            f"the {precision} artifact differs too much from torch ({agreement}); tolerated are "
            f"{bound.points} points and SRCC {bound.srcc}"
        )


def open_artifact(
    directory: Path, manifest: bundle.Manifest, device: str
) -> tuple[ScoreLogits, str]:
    """What computes a bundle's scores here, and where that is."""
    if manifest.precision == "bf16" and device in ("auto", "cpu"):
        import onnxruntime

        if device == "cpu" or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return _emulated(directory, manifest), "cpu, bf16 emulated"
    engine = OnnxEngine(directory, manifest, device=device)
    return engine.score_logits, engine.device


def _emulated(directory: Path, manifest: bundle.Manifest) -> ScoreLogits:
    import onnx_ir as ir

    from .emulate import emulate_bf16

    graph = ir.to_proto(emulate_bf16(ir.load(directory / manifest.graph))).SerializeToString()
    return OnnxEngine(directory, manifest, device="cpu", graph=graph).score_logits


def verify_bundle(directory: Path, device: str = "auto", images: Sequence[Path] = ()) -> Agreement:
    """Repeat a bundle's verification here, on ``images`` too as far as it was made with them.

    Raises ModelError over the bound, UsageError if none of ``images`` was seen when exporting.
    """
    manifest = bundle.read(directory)
    wanted, pixels = bundle.golden_logits(directory), rendered_pixels(manifest.input_size)
    if images:
        known = _real_answers(directory)
        real = [
            one for one in real_pixels(images, manifest.input_size) if _fingerprint(one) in known
        ]
        if not real:
            raise UsageError(
                f"none of these {len(images)} images was among the {len(known)} that {directory} "
                "was verified with when it was exported; give the same, or none"
            )
        wanted = np.concatenate([wanted, [known[_fingerprint(one)] for one in real]])
        pixels = np.concatenate([pixels, real])
    artifact, ran_on = open_artifact(directory, manifest, device)
    agreement = compare(artifact, ran_on, wanted, manifest.tokens(), pixels)
    require(agreement, manifest.precision)
    return agreement


def _real_answers(directory: Path) -> dict[str, Floats]:
    with np.load(directory / bundle.GOLDEN, allow_pickle=False) as stored:
        if "real_sha256" not in stored:
            return {}
        return dict(zip(stored["real_sha256"].tolist(), stored["real_logits"], strict=True))
