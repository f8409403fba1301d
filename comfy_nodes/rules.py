"""Which images to keep. Pure: numbers in, indices out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..artimuse_core.errors import UsageError

TOP_COUNT, TOP_PERCENT = "top count", "top percent"
THRESHOLD, LOWER_BOUND, DIVERSE = "threshold", "lower bound", "diverse"
RULES = (TOP_COUNT, TOP_PERCENT, THRESHOLD, LOWER_BOUND, DIVERSE)

_THUMBNAIL = 16
"""Pixels a side: sees composition and colour, not texture."""


def choose(
    rule: str,
    scores: Sequence[float],
    *,
    count: int,
    percent: float,
    threshold: float,
    spreads: Sequence[float] | None = None,
    thumbnails: Sequence[npt.NDArray[np.float32]] = (),
    min_difference: float = 0.0,
) -> list[int]:
    """Indices of the kept images, best first; equal scores in the order they came.

    Args:
        rule: ``top count`` the best ``count``; ``top percent`` the best ``percent``, rounded up;
            ``threshold`` score of at least ``threshold``; ``lower bound`` score minus spread of at
            least ``threshold``; ``diverse`` the best ``count``, leaving out any whose thumbnail
            differs from that of a better kept one by less than ``min_difference`` percent.
        spreads: one an image; ``lower bound`` needs them.
        thumbnails: :func:`thumbnail` of each image; ``diverse`` needs them.
    """
    ranking = sorted(range(len(scores)), key=lambda index: -scores[index])
    if rule == TOP_COUNT:
        return ranking[:count]
    if rule == TOP_PERCENT:
        # Rounded first: 7 % of 100 is 7.000000000000001 in floats, whose ceiling is 8.
        return ranking[: math.ceil(round(len(scores) * percent / 100, 6))]
    if rule == THRESHOLD:
        return [index for index in ranking if scores[index] >= threshold]
    if rule == LOWER_BOUND:
        if spreads is None:
            raise UsageError(
                "rule 'lower bound' needs the spreads: wire those of ArtiMuse Score as well, "
                "or no scores"
            )
        return [index for index in ranking if scores[index] - spreads[index] >= threshold]
    if rule == DIVERSE:
        return _diverse(ranking, thumbnails, count, min_difference)
    raise UsageError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")


def _diverse(
    ranking: Sequence[int],
    thumbnails: Sequence[npt.NDArray[np.float32]],
    count: int,
    min_difference: float,
) -> list[int]:
    kept: list[int] = []
    for index in ranking:
        if len(kept) == count:
            break
        differences = [difference(thumbnails[index], thumbnails[other]) for other in kept]
        if all(value >= min_difference for value in differences):
            kept.append(index)
    return kept


def thumbnail(image: Image.Image) -> npt.NDArray[np.float32]:
    """(16, 16, 3) in 0..100, whatever the image's shape."""
    small = image.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, np.float32) * np.float32(100 / 255)


def difference(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Mean absolute difference of two thumbnails: 0 for the same picture, 100 at most."""
    return float(np.abs(a - b).mean())
