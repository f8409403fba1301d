"""Ways to spoil a picture that everybody agrees on."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from .canvas import Random

Spoil = Callable[[Image.Image, Random], Image.Image]


def blur(radius: float) -> Spoil:
    """Gaussian; ``radius`` is its σ as a share of the picture's height."""
    return lambda image, random: image.filter(ImageFilter.GaussianBlur(radius * image.height))


def noise(sigma: float) -> Spoil:
    """Gaussian, ``sigma`` as a share of the range."""

    def change(image: Image.Image, random: Random) -> Image.Image:
        grains = random.normal(0, sigma, (image.height, image.width, 3))
        return _levels(image, lambda pixels: pixels + grains)

    return change


def banding(levels: int) -> Spoil:
    steps = levels - 1
    return lambda image, random: _levels(image, lambda pixels: np.round(pixels * steps) / steps)


def jpeg(quality: int) -> Spoil:
    def change(image: Image.Image, random: Random) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return change


def expose(stops: float) -> Spoil:
    """In linear light, clipped."""
    return lambda image, random: _levels(
        image, lambda pixels: (pixels**2.2 * 2**stops) ** (1 / 2.2)
    )


def veil(opacity: float, grey: float = 0.5) -> Spoil:
    return lambda image, random: _levels(
        image, lambda pixels: pixels * (1 - opacity) + grey * opacity
    )


def crop(share: float) -> Spoil:
    """The lower left corner of the picture, its subject cut off, enlarged."""

    def change(image: Image.Image, random: Random) -> Image.Image:
        width, height = image.size
        corner = (0, round(height * (1 - share)), round(width * share), height)
        return image.crop(corner).resize(image.size, Image.Resampling.BILINEAR)

    return change


def _levels(image: Image.Image, change: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    changed = change(np.asarray(image).astype(np.float64) / 255)
    return Image.fromarray((np.clip(changed, 0, 1) * 255 + 0.5).astype(np.uint8))


SPOILS: dict[str, Spoil] = {
    "blur": blur(1 / 75),
    "noise": noise(0.22),
    "banding": banding(4),
    "jpeg": jpeg(5),
    "underexposed": expose(-3.0),
    "overexposed": expose(2.5),
    "crop": crop(0.24),
    "veil": veil(0.85, 0.56),
}
"""How the sample pictures are spoiled."""
