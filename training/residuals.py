"""Which values the finest detail of a picture takes side by side.

Differences of neighbouring pixels, in few steps and cut at a few, are counted by which four of them
lie together (Fridrich and Kodovský, "Rich Models for Steganalysis of Digital Images", 2012). Made
to find what is hidden in a picture, they tell as well what made it, and how carefully.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = 2
"""The picture's own pixels, and half as many a side."""
STEP = 6.0
"""Of a difference, in levels of 0..255."""
LIMIT = 2
"""Steps from which on differences count as alike."""
FLOOR = 1e-6
"""Added to a share before its logarithm; one place of 512×512 is four times as much."""

_VALUES = 2 * LIMIT + 1
_PLACES = {"row": ((0, 0), (0, 1), (0, 2), (0, 3)), "square": ((0, 0), (0, 1), (1, 0), (1, 1))}
"""Of the four that are counted together: rows down, columns across."""
_ALIKE = {"row": ((3, 2, 1, 0),), "square": ((1, 0, 3, 2), (0, 2, 1, 3))}
"""Orders of the four that count as the same pattern: mirrored, and a square transposed."""


@torch.no_grad()
def cooccurrences(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 → (B, D) fp32: logarithm of the share that each pattern of four takes.

    A picture, its mirror image and its negative look the same.
    """
    grey = images.float().sum(1)  # whole numbers: nothing is lost, and halves fall alike both ways
    parts = []
    for _ in range(SCALES):
        corner = grey.diff(n=2, dim=1).diff(n=2, dim=2)
        for residual in ((grey.diff(dim=2), grey.diff(dim=1).mT), (corner, corner.mT)):
            levels = [(r / (3 * STEP)).round().clamp(-LIMIT, LIMIT) + LIMIT for r in residual]
            parts += [_shares(levels, arrangement) for arrangement in _PLACES]
        grey = F.avg_pool2d(grey, 2)
    return (torch.cat(parts, dim=1) + FLOOR).log()


def _shares(levels: Sequence[Tensor], arrangement: str) -> Tensor:
    """(B, rows, columns) levels, once along each axis → (B, patterns) shares that add up to 1."""
    pattern = _patterns(arrangement)
    kinds, count = int(pattern.max()) + 1, len(levels[0])
    found = torch.zeros(count, kinds)
    for level in levels:
        height, width = (
            size - max(place[axis] for place in _PLACES[arrangement])
            for axis, size in enumerate(level.shape[1:])
        )
        code = torch.zeros(count, height, width)
        for row, column in _PLACES[arrangement]:
            code = code * _VALUES + level[:, row : row + height, column : column + width]
        seen = pattern[code.flatten(1).int()] + torch.arange(count)[:, None] * kinds
        found += torch.bincount(seen.flatten(), minlength=count * kinds).view(count, kinds)
    return found / found.sum(1, keepdim=True)


@cache
def _patterns(arrangement: str) -> Tensor:
    """(_VALUES⁴,) which pattern the code of four levels is one of."""
    codes = torch.arange(_VALUES**4).view([_VALUES] * 4)
    while True:  # until nothing that looks the same has a lesser code
        least = codes.minimum(codes.flip(0, 1, 2, 3))
        for order in _ALIKE[arrangement]:
            least = least.minimum(least.permute(order))
        if torch.equal(least, codes):
            return torch.unique(codes, return_inverse=True)[1].flatten()
        codes = least
