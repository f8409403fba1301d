"""Pictures that look like photographs to statistics, and the ways a generator cheats with them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont


def natural(count: int, side: int = 256, seed: int = 0) -> list[Image.Image]:
    """Random fields whose spectrum falls as in photographs (1/f), in muted colours."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    falloff = 1 / np.maximum(frequency, 1 / side) ** 1.6
    images = []
    for _ in range(count):
        spectrum = falloff * np.exp(2j * np.pi * generator.random((3, *falloff.shape)))
        fields = np.fft.irfft2(spectrum, (side, side))  # (3, side, side)
        fields /= fields.std(axis=(1, 2), keepdims=True)
        colour = fields[:1] + generator.uniform(0.1, 0.5) * fields[1:2] * [[[1]], [[0]], [[-1]]]
        pixels = generator.uniform(0.35, 0.6) + generator.uniform(0.1, 0.2) * colour
        levels = np.clip(pixels * 255, 0, 255).astype(np.uint8)
        images.append(Image.fromarray(levels.transpose(1, 2, 0)))
    return images


def grid(image: Image.Image) -> Image.Image:
    """Thin bright lines over everything."""
    drawn = image.copy()
    draw, (width, height) = ImageDraw.Draw(drawn, "RGBA"), image.size
    for index in range(13):
        x, y, thick = index * width // 12, index * height // 12, max(1, width // 200)
        draw.line((x, 0, x, height), fill=(255, 255, 255, 110), width=thick)
        draw.line((0, y, width, y), fill=(255, 255, 255, 110), width=thick)
    return drawn


def checker(image: Image.Image) -> Image.Image:
    """A faint chessboard, as upsampling without care leaves it."""
    pixels = np.asarray(image).astype(float)
    rows, columns = (np.arange(n) * 16 // n for n in pixels.shape[:2])
    board = (rows[:, None] + columns[None, :]) % 2 * 50.0 - 25.0
    return Image.fromarray(np.clip(pixels + board[..., None], 0, 255).astype(np.uint8))


def sharpened(image: Image.Image) -> Image.Image:
    radius = max(1, image.width // 180)
    return image.filter(ImageFilter.UnsharpMask(radius, 500, 0))


def framed(image: Image.Image, colour: str = "white") -> Image.Image:
    width, height = image.size
    edge = width // 14
    frame = Image.new("RGB", image.size, colour)
    frame.paste(image.resize((width - 2 * edge, height - 2 * edge)), (edge, edge))
    return frame


def lettered(image: Image.Image) -> Image.Image:
    """White captions on dark bands, at 512 pixels."""
    drawn = image.resize((512, 512))
    draw, font = ImageDraw.Draw(drawn, "RGBA"), ImageFont.load_default(36)
    for line in range(4):
        top = 51 + line * 85
        draw.rectangle((30, top - 4, 480, top + 48), fill=(0, 0, 0, 190))
        draw.text((42, top), "GREAT MASTERPIECE 8K", "white", font)
    return drawn


def saturated(image: Image.Image) -> Image.Image:
    return ImageEnhance.Color(image).enhance(6)


PROBES: dict[str, tuple[Callable[[Image.Image], Image.Image], str]] = {
    "grid": (grid, "grid"),
    "chessboard": (checker, "grid"),
    "white frame": (framed, "frame"),
    "black frame": (lambda image: framed(image, "black"), "frame"),
    "lettering": (lettered, "lettering"),
    "over-sharpening": (sharpened, "edges"),
    "over-saturation": (saturated, "saturation"),
}
"""Name → how it is done, and the guard's trait that should tell."""

OF_ONE_PICTURE = ("grid", "chessboard", "white frame", "black frame", "lettering")
"""Cheats a single picture shows; the others show in a batch, against what the run began with."""
