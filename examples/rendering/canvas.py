"""Small tools that the scenes share: coordinates, noise, palettes, blending."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float64]
Random = np.random.Generator


def grid(width: int, height: int) -> tuple[Floats, Floats]:
    """x and y of every pixel, (H, W) each; y runs 0..1 downwards, x has the same scale."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    return x / height, y / height


def noise(random: Random, width: int, height: int, cells: float, octaves: int = 5) -> Floats:
    """Smooth fractal noise, (H, W) in 0..1; ``cells`` is how many blobs fit into the height."""
    total, weight = np.zeros((height, width)), 0.0
    for octave in range(octaves):
        across = max(2, round(cells * 2**octave * width / height))
        down = max(2, round(cells * 2**octave))
        lattice = random.random((min(down, height), min(across, width))).astype(np.float32)
        layer = Image.fromarray(lattice).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(layer) * 0.5**octave
        weight += 0.5**octave
    total /= weight
    return (total - total.min()) / (np.ptp(total) + 1e-9)


def profile(random: Random, width: int, bumps: float, octaves: int = 6) -> Floats:
    """A fractal line, (W,) in 0..1, with about ``bumps`` hills across."""
    x, total = np.linspace(0, 1, width), np.zeros(width)
    for octave in range(octaves):
        points = round(bumps * 2**octave) + 2
        total += np.interp(x, np.linspace(0, 1, points), random.random(points)) * 0.48**octave
    total -= total.min()
    return total / total.max()


def palette(values: Floats, *colours: str) -> Floats:
    """Map 0..1 through evenly spaced colours such as ``"#1b2a49"``: (H, W) → (H, W, 3) in 0..1."""
    stops = np.array([rgb(colour) for colour in colours])
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(values, places, stops[:, c]) for c in range(3)], axis=-1)


def rgb(colour: str) -> Floats:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def over(base: Floats, colour: Floats | str, alpha: Floats) -> Floats:
    """Paint ``colour`` onto ``base`` where ``alpha`` (H, W) is 1."""
    top = rgb(colour) if isinstance(colour, str) else colour
    return base + (top - base) * np.clip(alpha, 0, 1)[..., None]


def smoothstep(low: float, high: float, values: Floats) -> Floats:
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def finish(image: Floats, size: tuple[int, int], grain: float, random: Random) -> Image.Image:
    """Floats in 0..1, rendered larger than wanted → an antialiased picture with film grain."""
    pixels = np.clip(image, 0, 1)
    picture = Image.fromarray((pixels * 255 + 0.5).astype(np.uint8))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    if grain:
        grains = random.normal(0, grain * 255, (size[1], size[0], 1))
        picture = Image.fromarray(np.clip(np.asarray(picture) + grains, 0, 255).astype(np.uint8))
    return picture
