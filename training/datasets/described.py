"""Pictures drawn by code with critiques that are true of them: a text stage without people's texts.

What is drawn and how it is spoilt is decided first; picture and texts both follow from that. Eight
short sentences a picture would be one lesson eight times, so three attributes are described.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_COLOURS = {
    "red": (205, 55, 45), "orange": (230, 135, 40), "yellow": (235, 205, 70),
    "green": (70, 150, 75), "blue": (55, 95, 185), "purple": (130, 75, 160),
    "white": (235, 235, 230), "black": (30, 30, 35),
}  # fmt: skip
_SHAPES = ("disc", "square", "triangle")
_NUMBERS = ("no", "one", "two", "three", "four")
_SIDES = (("upper left", "upper right"), ("lower left", "lower right"))


@dataclass(frozen=True)
class Scene:
    """All that decides a picture; severities 0 (not at all) to 2 (very)."""

    background: str
    colour: str
    shape: str
    count: int
    side: tuple[int, int]
    """Row and column of the quarter that the shapes lie in."""
    blur: int
    noise: int
    exposure: int
    """-1 dark, 0 even, 1 bright."""
    contrast: int
    """0 low, 1 strong."""
    seed: int


def scene(seed: int) -> Scene:
    """The same scene for the same seed."""
    random = np.random.default_rng(seed)
    background, colour = random.permutation(list(_COLOURS))[:2]
    return Scene(
        str(background), str(colour), str(random.choice(_SHAPES)), int(random.integers(1, 5)),
        (int(random.integers(2)), int(random.integers(2))),
        *(int(random.choice(3, p=(0.5, 0.25, 0.25))) for _ in range(2)),
        int(random.integers(-1, 2)), int(random.integers(2)), seed,
    )  # fmt: skip


def draw(what: Scene, size: int = 128) -> Image.Image:
    """An RGB picture of ``size`` × ``size`` pixels."""
    random = np.random.default_rng((what.seed, 1))
    canvas = Image.new("RGB", (size, size), _COLOURS[what.background])
    pen = ImageDraw.Draw(canvas)
    for _ in range(14):  # a texture, so that blur shows everywhere
        x, y = random.uniform(0, size, 2)
        shade = tuple(int(c * random.uniform(0.75, 1.0)) for c in _COLOURS[what.background])
        pen.line((x, y, x + random.uniform(-30, 30), y + random.uniform(-30, 30)), shade, 2)
    row, column = what.side
    for _ in range(what.count):
        x, y = random.uniform(0.12, 0.38, 2) * size + np.array([column, row]) * size / 2
        r = random.uniform(0.06, 0.11) * size
        _shape(pen, what.shape, x, y, r, _COLOURS[what.colour])
    canvas = canvas.filter(ImageFilter.GaussianBlur(what.blur * size / 70))
    pixels = np.asarray(canvas, np.float32)
    middle = pixels.mean()
    pixels = middle + (pixels - middle) * (0.45 if what.contrast == 0 else 1.1)
    pixels = pixels * 2.0 ** (0.8 * what.exposure)
    pixels += random.normal(0, 14 * what.noise, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def describe(what: Scene) -> dict[str, str]:
    """Critiques by attribute name."""
    many = "s" if what.count > 1 else ""
    sharp = ("is sharp", "is slightly blurred", "is very blurred")[what.blur]
    noise = ("clean", "slightly noisy", "very noisy")[what.noise]
    light = ("dark", "even", "bright")[what.exposure + 1]
    return {
        "Composition & Design": f"{_NUMBERS[what.count].capitalize()} {what.shape}{many} in the "
        f"{_SIDES[what.side[0]][what.side[1]]} of the frame.",
        "Visual Elements & Structure": f"The colours are {what.colour} on {what.background}, with "
        f"{('low', 'strong')[what.contrast]} contrast.",
        "Technical Execution": f"The picture {sharp} and {noise}, the light is {light}.",
    }


def write(folder: Path, seeds: Sequence[int], *, validation_share: float = 0.1) -> Path:
    """Write pictures and ``described.jsonl``, which :func:`.table.read_table` reads; the file."""
    folder.mkdir(parents=True, exist_ok=True)
    held = round(len(seeds) * validation_share)
    file = folder / "described.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for place, seed in enumerate(seeds):
            what = scene(seed)
            draw(what).save(folder / f"{seed:06d}.png")
            row = {
                "image": f"{seed:06d}.png",
                "split": "validation" if place < held else "train",
                "texts": describe(what),
            }
            lines.write(json.dumps(row) + "\n")
    return file


def _shape(
    pen: ImageDraw.ImageDraw, kind: str, x: float, y: float, r: float, colour: tuple[int, int, int]
) -> None:
    if kind == "disc":
        pen.ellipse((x - r, y - r, x + r, y + r), colour)
    elif kind == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), colour)
    else:
        pen.polygon(((x, y - r), (x - r, y + r), (x + r, y + r)), colour)
