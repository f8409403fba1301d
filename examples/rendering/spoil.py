"""Ways to spoil a picture that everybody agrees on."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from .canvas import Random


def _levels(image: Image.Image, change: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    changed = change(np.asarray(image).astype(np.float64) / 255)
    return Image.fromarray((np.clip(changed, 0, 1) * 255 + 0.5).astype(np.uint8))


def blur(image: Image.Image, random: Random) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(image.height / 75))


def noise(image: Image.Image, random: Random) -> Image.Image:
    grains = random.normal(0, 0.22, (image.height, image.width, 3))
    return _levels(image, lambda pixels: pixels + grains)


def banding(image: Image.Image, random: Random) -> Image.Image:
    return _levels(image, lambda pixels: np.round(pixels * 3) / 3)


def jpeg(image: Image.Image, random: Random) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=5)
    return Image.open(buffer).convert("RGB")


def _expose(stops: float) -> Callable[[Image.Image, Random], Image.Image]:
    def change(image: Image.Image, random: Random) -> Image.Image:
        return _levels(image, lambda pixels: (pixels**2.2 * 2**stops) ** (1 / 2.2))

    return change


def crop(image: Image.Image, random: Random) -> Image.Image:
    """A corner of the picture, its subject cut off, enlarged."""
    width, height = image.size
    corner = image.crop((0, round(height * 0.62), round(width * 0.38), height))
    return corner.resize(image.size, Image.Resampling.BILINEAR)


def veil(image: Image.Image, random: Random) -> Image.Image:
    return _levels(image, lambda pixels: 0.55 + (pixels - 0.5) * 0.15)


SPOILS: dict[str, Callable[[Image.Image, Random], Image.Image]] = {
    "blur": blur,
    "noise": noise,
    "banding": banding,
    "jpeg": jpeg,
    "underexposed": _expose(-3.0),
    "overexposed": _expose(2.5),
    "crop": crop,
    "veil": veil,
}
