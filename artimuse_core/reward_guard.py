"""A second opinion on what a generator learns: does the reward rise because pictures get better?

A generator trained on a score finds what moves it. The usual ways are visible without the model:
colours that leave the range, edges sharpened into halos, grids, lettering, frames, and pictures
that drift away from what the run began with. The guard measures those, warns, and can take off a
penalty. It sees pictures as the model does, squashed to one small square.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from .errors import UsageError

Floats = npt.NDArray[np.float32]

SIDE = 256  # pixels, of the square that is measured
STRIP = 6  # pixels at each side in which a frame's outer part is looked for
DEEPEST_FRAME = SIDE // 5


@dataclass(frozen=True)
class Trait:
    """One thing the guard measures."""

    name: str
    meaning: str
    limit: float | None
    """Above it a picture is flagged whatever the run began with; None: only drift tells."""


TRAITS = (
    Trait("saturation", "mean colour saturation, 0..1", 0.92),
    Trait("clipping", "share of channel values at either end of the range", 0.60),
    Trait("edges", "energy of the Laplacian over that of the picture", 1.6),
    Trait("grid", "how well the edges of rows or columns repeat, 0..1", 0.70),
    Trait("lettering", "share of the area covered by two-level strokes", 0.07),
    Trait("frame", "share of the four sides that a plain frame covers", 0.70),
    Trait("contrast", "standard deviation of the luma, 0..1", None),
)
NAMES = tuple(trait.name for trait in TRAITS)


@dataclass(frozen=True)
class _Reference:
    mean: Floats  # (traits,)
    std: Floats  # (traits,)


class DriftGuard:
    """Give one to ``Reward(guard=DriftGuard(…))``; one for each training run.

    Args:
        reference_images: the first so many pictures say what is normal for this run.
        drift_limit: warn when a batch's mean is further than this from the reference, in standard
            deviations of the reference's pictures.
        penalty: taken off for each limit a picture exceeds and, in proportion, for each standard
            deviation it lies beyond twice ``drift_limit``; in units of the reward. 0: only warn.
        max_penalty: at most this much for one picture.
        limits: other limits than :data:`TRAITS` have, by name; ``math.inf`` switches one off.
    """

    def __init__(
        self,
        *,
        reference_images: int = 64,
        drift_limit: float = 1.5,
        penalty: float = 0.0,
        max_penalty: float = float("inf"),
        limits: Mapping[str, float] | None = None,
    ) -> None:
        if reference_images < 2:
            raise UsageError(f"expected at least 2 reference_images, got {reference_images}")
        if drift_limit <= 0 or penalty < 0 or max_penalty < 0:
            raise UsageError("expected drift_limit above 0, penalty and max_penalty of at least 0")
        unknown = set(limits or {}) - set(NAMES)
        if unknown:
            raise UsageError(f"unknown limits {sorted(unknown)}; known: {', '.join(NAMES)}")
        own = {t.name: np.inf if t.limit is None else t.limit for t in TRAITS} | dict(limits or {})
        self.limits = np.array([own[name] for name in NAMES], np.float32)
        self.reference_images, self.drift_limit = reference_images, drift_limit
        self.penalty, self.max_penalty = penalty, max_penalty
        self._first: list[Floats] = []
        self._reference: _Reference | None = None
        self._lock = threading.Lock()

    def measure(self, image: Image.Image) -> Floats:
        """One RGB image → (traits,) in the order of :data:`TRAITS`."""
        return measure(image)

    def flags(self, measured: Floats) -> tuple[str, ...]:
        """The traits of one picture that exceed their limits."""
        over = np.flatnonzero(measured > self.limits)
        return tuple(NAMES[index] for index in over)

    def watch(self, measured: Sequence[Floats | None]) -> tuple[Floats, tuple[str, ...]]:
        """(B,) penalties and one line for each thing that is wrong with the batch."""
        penalties = np.zeros(len(measured), np.float32)
        there = [index for index, row in enumerate(measured) if row is not None]
        if not there:
            return penalties, ()
        rows = np.stack([row for row in measured if row is not None])  # (b, traits)
        with self._lock:
            reference = self._learn(rows)
        warnings = [
            f"{int(count)} of {len(rows)} pictures exceed the limit of {limit:g} for {trait.name} "
            f"({trait.meaning})"
            for trait, limit, count in zip(
                TRAITS, self.limits, (rows > self.limits).sum(axis=0), strict=True
            )
            if count
        ]
        excess = (rows > self.limits).sum(axis=1).astype(np.float32)
        if reference is not None:
            shift = (rows.mean(axis=0) - reference.mean) / reference.std
            warnings += [
                f"{name} has moved by {moved:+.1f} standard deviations since the first pictures"
                for name, moved in zip(NAMES, shift, strict=True)
                if abs(moved) > self.drift_limit
            ]
            distance = np.abs(rows - reference.mean) / reference.std
            excess += np.maximum(0, distance - 2 * self.drift_limit).sum(axis=1)
        penalties[there] = np.minimum(self.penalty * excess, self.max_penalty)
        return penalties, tuple(warnings)

    def _learn(self, rows: Floats) -> _Reference | None:
        """What this batch is compared with: None until the first pictures are complete."""
        known = self._reference
        if known is None:
            self._first += list(rows)
            if len(self._first) >= self.reference_images:
                first = np.stack(self._first)
                # A trait that never varied (no lettering anywhere) must not make every change huge.
                spread = np.maximum(first.std(axis=0), 0.03)
                self._reference = _Reference(first.mean(axis=0), spread)
                self._first.clear()
        return known


def measure(image: Image.Image) -> Floats:
    """One RGB image → (traits,) fp32, see :data:`TRAITS`."""
    small = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    pixels = np.asarray(small, np.float32) / 255  # (SIDE, SIDE, 3)
    luma = (pixels @ np.array([0.299, 0.587, 0.114])).astype(np.float32)  # (SIDE, SIDE)
    high, low = pixels.max(axis=2), pixels.min(axis=2)
    values = (
        ((high - low) / np.maximum(high, 1 / 255)).mean(),
        ((pixels <= 1 / 255) | (pixels >= 254 / 255)).mean(),
        _edges(luma),
        max(_repetition(luma), _repetition(luma.T)),
        _lettering(luma),
        _frame(luma),
        luma.std(),
    )
    return np.array(values, np.float32)


def _edges(luma: Floats) -> float:
    """Standard deviation of the Laplacian over that of the picture; halos and noise raise it."""
    inner = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * inner
    return float(laplacian.std() / max(float(inner.std()), 0.02))


def _repetition(luma: Floats) -> float:
    """The highest autocorrelation of the columns' edge strength, at lags of 6 to 80 pixels.

    Slow changes are taken out first: what is left repeats in a grid and hardly elsewhere.
    """
    strength = np.abs(np.diff(luma, axis=1)).mean(axis=0)  # (SIDE - 1,)
    window = 13
    smooth = np.convolve(strength, np.ones(window) / window, mode="same")
    detail = (strength - smooth)[window:-window]
    detail = detail - detail.mean()
    energy = float((detail**2).sum())
    if energy < 1e-5:
        return 0.0
    best = 0.0
    for lag in range(6, 81):
        a, b = detail[:-lag], detail[lag:]
        scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
        best = max(best, float((a * b).sum()) / scale if scale > 1e-9 else 0.0)
    return best


def _lettering(luma: Floats) -> float:
    """Share of 16×16 blocks that look like strokes on a ground: two levels, many changes a row."""
    side = 16
    count = SIDE // side
    blocks = luma.reshape(count, side, count, side).swapaxes(1, 2)  # (n, n, 16, 16)
    low, high = (np.quantile(blocks, q, axis=(2, 3), keepdims=True) for q in (0.05, 0.95))
    span = np.maximum(high - low, 1e-6)
    level = (blocks - low) / span
    middle = ((level > 0.3) & (level < 0.7)).mean(axis=(2, 3))
    changes = (np.diff(level > 0.5, axis=3) != 0).sum(axis=3).mean(axis=2)  # a row, 0..15
    strokes = (span[:, :, 0, 0] > 0.45) & (middle < 0.25) & (changes >= 2.0) & (changes < 9)
    return float(strokes.mean())


def _frame(luma: Floats) -> float:
    """Share of the sides with a plain strip that ends in a straight edge along the whole side."""
    found = 0
    for turned in range(4):
        side = np.rot90(luma, turned)
        if side[:STRIP].std() > 0.03:
            continue
        steps = np.abs(np.diff(side[:DEEPEST_FRAME], axis=0))  # (depth, SIDE)
        # The corners belong to the frame's other sides.
        inner = steps[:, DEEPEST_FRAME:-DEEPEST_FRAME] > 0.04
        found += bool(inner.mean(axis=1).max() > 0.75)
    return found / 4
