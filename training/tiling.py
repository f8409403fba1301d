"""Dynamic resolution (paper App. D.1), the ablation: several tiles an image instead of one.

The grid i × j whose aspect ratio is closest to the image's, with at most ``max_tiles`` tiles; the
image is squashed to i·S × j·S and cut; more than one tile are followed by the whole as a thumbnail.
"""

from __future__ import annotations

from PIL import Image

from ..artimuse_core.preprocess import resize


def grid(width: int, height: int, max_tiles: int, size: int) -> tuple[int, int]:
    """Columns and rows for an image of ``width`` × ``height`` pixels; at most ``max_tiles`` tiles.

    Of equally fitting grids the finer one is taken if the image has pixels for half of it.
    """
    ratio, best, difference = width / height, (1, 1), float("inf")
    grids = [
        (i, j)
        for i in range(1, max_tiles + 1)
        for j in range(1, max_tiles + 1)
        if i * j <= max_tiles
    ]
    for i, j in sorted(grids, key=lambda g: g[0] * g[1]):
        off = abs(ratio - i / j)
        if off < difference:
            best, difference = (i, j), off
        elif off == difference and width * height > 0.5 * size * size * i * j:
            best = (i, j)
    return best


def tiles(image: Image.Image, max_tiles: int, size: int) -> list[Image.Image]:
    """RGB tiles of ``size`` × ``size`` pixels, row by row, then the thumbnail."""
    columns, rows = grid(*image.size, max_tiles, size)
    if columns * rows == 1:
        return [resize(image, size)]
    wide = image.resize((columns * size, rows * size), Image.Resampling.BICUBIC)
    cut = [
        wide.crop((i * size, j * size, (i + 1) * size, (j + 1) * size))
        for j in range(rows)
        for i in range(columns)
    ]
    return [*cut, resize(image, size)]
