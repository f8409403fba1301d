"""Pictures drawn by code, to compare engines on: the same on every machine."""

from __future__ import annotations

import numpy as np
from PIL import Image


def render_pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Smooth, blocky, noisy and flat RGB pictures of various sizes, the same for each seed.

    Integers and Pillow's fixed-point resizing alone: no float differs between processors.
    """
    random = np.random.default_rng(seed)
    pictures = []
    for index in range(count):
        width, height = (int(side) for side in random.integers(32, 512, 2))
        low, high = np.sort(random.integers(0, 257, 2))
        cells = (*random.integers(1, 24, 2), 3)
        coarse = random.integers(low, high + 1, cells).clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling(index % 4))
        if index % 3 == 0:
            grain = random.integers(-60, 61, (height, width, 3))
            grained = (np.asarray(picture).astype(int) + grain).clip(0, 255)
            picture = Image.fromarray(grained.astype(np.uint8))
        pictures.append(picture)
    return pictures
