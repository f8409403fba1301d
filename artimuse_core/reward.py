"""ArtiMuse as a reward: images in, one number each out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from . import inputs
from .errors import ImageError, ImageInputError, MissingExtraError, UsageError
from .images import load_image
from .results import ScoreResult
from .reward_scales import Scale, make_scale
from .scorer import DEFAULT_BATCH_SIZE, Scorer

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

OUTPUTS = ("auto", "torch", "numpy")


@dataclass(frozen=True)
class Rewards:
    """One batch of rewards, with what is known about each."""

    values: Floats
    """(B,) fp32, in the images' order; NaN where ``errors`` says why."""
    errors: tuple[str | None, ...]
    """Why an image has no reward, one line each."""
    scores: Floats
    """(B,) the model's scores 0..100, before scale and penalty; NaN where there is none."""
    stds: Floats
    """(B,) the spread of each predicted distribution, in score points."""
    penalties: Floats
    """(B,) what the guard took off, in units of the reward; 0 without a guard."""
    warnings: tuple[str, ...] = ()
    """What the guard noticed about this batch."""


class Guard(Protocol):
    """Looks for reward hacking beside the score; :class:`.reward_guard.DriftGuard` is ours."""

    def measure(self, image: Image.Image) -> Floats:
        """One RGB image → its statistics; called from several threads."""
        ...

    def watch(self, measured: Sequence[Floats | None]) -> tuple[Floats, tuple[str, ...]]:
        """A batch's statistics (None: no image) → (B,) penalties, and warnings, one line each."""
        ...


class Reward:
    """A callable for generation loops: ``reward(images, prompts, metadata) -> (B,) floats``.

    Args:
        scorer: any :class:`Scorer`; the embedded model if None.
        scale: ``raw`` (0..100), ``unit`` (0..1), ``zscore`` or ``percentile`` against
            ``reference``, a number to multiply with, or a callable on (B,) scores.
        shift: added after a linear scale.
        reference: scores 0..100 that z-score and percentile compare with.
        guard: watches for reward hacking, see :class:`Guard`.
        output: ``torch``, ``numpy``, or ``auto``: a tensor where the images are tensors (on their
            device) or the process uses torch already, an array otherwise.
        batch_size: images that the model sees at once.
    """

    def __init__(
        self,
        scorer: Scorer | None = None,
        *,
        scale: str | float | Scale = "raw",
        shift: float = 0.0,
        reference: Iterable[float] | None = None,
        guard: Guard | None = None,
        output: str = "auto",
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        check_output(output)
        if batch_size < 1:
            raise UsageError(f"expected a batch_size of at least 1, got {batch_size}")
        self.scale = make_scale(scale, shift, reference)
        self.scorer = scorer or Scorer.load()
        self.guard = guard
        self.output = output
        self.batch_size = batch_size

    def __call__(
        self,
        images: Any,
        prompts: Sequence[str] | None = None,
        metadata: Any = None,
    ) -> Any:
        """(B,) fp32 rewards in the images' order; NaN, with a logged reason, where one failed.

        ``images``: PIL images, paths, bytes, arrays or tensors, (B,3,H,W) or (B,H,W,3), uint8 or
        floats in 0..1; no latents. ``prompts`` and ``metadata`` are taken because trainers pass
        them; the score does not depend on them. Raises ImageInputError for a wrong shape or range.
        """
        rewards = self.evaluate(images, prompts, metadata)
        log_failures(rewards)
        return as_output(rewards.values, images, self.output)

    def evaluate(
        self, images: Any, prompts: Sequence[str] | None = None, metadata: Any = None
    ) -> Rewards:
        """The same with reasons, raw scores and the guard's warnings, as numpy."""
        sources = list(inputs.flatten(images, split_images))
        answers = list(self.scorer.stream(sources, self._prepare, batch_size=self.batch_size))
        scores = np.array([answer.result.score for answer in answers], np.float32)
        penalties, warnings = np.zeros_like(scores), tuple[str, ...]()
        if self.guard is not None:
            penalties, warnings = self.guard.watch([answer.facts for answer in answers])
        return Rewards(
            values=(self.scale(scores) - penalties).astype(np.float32),
            errors=tuple(answer.result.error for answer in answers),
            scores=scores,
            stds=np.array([answer.result.std for answer in answers], np.float32),
            penalties=penalties,
            warnings=warnings,
        )

    def score(self, images: Any) -> list[ScoreResult]:
        """The whole results behind the rewards, with their distributions."""
        sources = list(inputs.flatten(images, split_images))
        return [
            answer.result
            for answer in self.scorer.stream(sources, self._prepare, batch_size=self.batch_size)
        ]

    def _prepare(self, source: Any) -> tuple[Image.Image, Floats | None]:
        """One source → RGB image, and what the guard measures of it."""
        image = load_image(rgb_image(source), max_pixels=self.scorer.max_pixels)
        return image, self.guard.measure(image) if self.guard is not None else None


def check_output(output: str) -> None:
    if output not in OUTPUTS:
        raise UsageError(f"unknown output {output!r}; known: {', '.join(OUTPUTS)}")


def as_output(values: Floats, images: Any, output: str) -> Any:
    """(B,) rewards as the caller wants them, see :class:`Reward`."""
    first = images[0] if isinstance(images, (list, tuple)) and images else images
    device = first.device if hasattr(first, "detach") else "cpu"
    if output == "numpy" or (output == "auto" and "torch" not in sys.modules):
        return values
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "torch") from error
    return torch.from_numpy(values).to(device)


def log_failures(rewards: Rewards) -> None:
    """One warning for each image without a reward, and each of the guard's."""
    for index, error in enumerate(rewards.errors):
        if error is not None:
            log.warning("no reward for image %d of %d: %s", index, len(rewards.errors), error)
    for warning in rewards.warnings:
        log.warning("%s", warning)


def rgb_image(source: Any) -> Any:
    """An (H, W, 3) array of :func:`split_images` as a PIL image; other sources as they are.

    Raises ImageError where pixels are not finite: a diverging sampler makes such images, and that
    is no mistake of the caller. Raises ImageInputError for a wrong range.
    """
    if not isinstance(source, np.ndarray):
        return source
    if source.dtype.kind == "f" and not np.isfinite(source).all():
        raise ImageError("its pixels are not finite (NaN or infinite)")
    return Image.fromarray(inputs.to_uint8(source))


def split_images(array: Any) -> Any:
    """Arrays and tensors, one image at a time; what looks like latents is refused."""
    shape = tuple(array.shape)
    channels_last = len(shape) == 4 and shape[3] in (1, 3, 4)
    if len(shape) == 4 and shape[1] in (4, 8, 16, 32, 64, 128) and not channels_last:
        raise ImageInputError(
            f"got {shape}, which looks like latents; decode them first: expected images "
            "(B,3,H,W) or (B,H,W,3)"
        )
    return inputs.split_array(array)
