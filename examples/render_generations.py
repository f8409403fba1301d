"""Render a folder of sample generations: handsome procedural pictures, and spoiled ones among them.

    python examples/render_generations.py examples/generations

The files look like ComfyUI's (names, `prompt` and `workflow` chunks) and are the same pixels on
every run. Spoiled pictures are named after their original: `alps_veil_00001_.png` is
`alps_00001_.png` behind a grey veil. Needs numpy and Pillow only.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from rendering import scenes
from rendering.canvas import Floats, finish
from rendering.comfy_metadata import png_info
from rendering.spoil import SPOILS

SQUARE, WIDE, TALL = (640, 640), (832, 512), (512, 704)
SUPERSAMPLE = 1.5


@dataclass(frozen=True)
class Picture:
    """One original and the ways it is spoiled."""

    name: str
    text: str
    """The prompt it claims to be generated from."""
    size: tuple[int, int]
    scene: Callable[..., Floats]
    spoils: tuple[str, ...] = ()
    grain: float = 0.012
    """Standard deviation of the film grain, of full scale."""


@dataclass(frozen=True)
class Sample:
    """One rendered file."""

    path: Path
    original: Path | None
    """The picture this one is a spoiled version of."""
    spoil: str | None


PICTURES = (
    Picture("seahorse", "fractal seahorse valley, deep blue and gold", SQUARE, partial(
        scenes.fractal, centre=-0.745 + 0.105j, span=0.022,
        colours=("#03071e", "#14213d", "#3a86c8", "#f1faee", "#ffb703", "#6a040f"))),
    Picture("spiral", "fractal spiral, emerald and ivory", WIDE, partial(
        scenes.fractal, centre=-0.7615 - 0.0848j, span=0.0065,
        colours=("#001219", "#005f73", "#0a9396", "#e9d8a6", "#ca6702", "#3d0c11")), ("blur",)),
    Picture("julia", "julia set, violet lace", SQUARE, partial(
        scenes.fractal, centre=0j, span=2.3, julia=-0.7885 + 0.158j,
        colours=("#10002b", "#3c096c", "#9d4edd", "#ffc8dd", "#fff1e6")), ("noise",)),
    Picture("dendrite", "julia dendrite, copper on night", TALL, partial(
        scenes.fractal, centre=0j, span=2.6, julia=-0.4 + 0.6j,
        colours=("#0b0f1a", "#1d3557", "#a8572a", "#f4a261", "#fefae0"))),
    Picture("alps", "misty mountains at dawn, layered ridges", WIDE, partial(
        scenes.mountains, sky=("#5b7db1", "#a9c0d9", "#f7d9b8"), rock="#16202e", haze="#c7d3e0"),
        ("overexposed", "veil")),
    Picture("badlands", "desert ridges, burning evening sky", WIDE, partial(
        scenes.mountains, sky=("#41295a", "#c1446b", "#ffb36b"), rock="#2a0f1a", haze="#e59a7b"),
        ("jpeg",)),
    Picture("fjord", "cold fjord, pale green morning haze", TALL, partial(
        scenes.mountains, sky=("#6c9a8b", "#b8d8c8", "#fdf0d5"), rock="#12261f", haze="#cfe3d6")),
    Picture("harbour", "sunset over calm sea, road of light", WIDE, partial(
        scenes.sea_sunset, sky=("#2b2d6e", "#b5446e", "#ff9b54"), sea="#1b1b3a"),
        ("banding", "underexposed")),
    Picture("lagoon", "golden hour over a turquoise lagoon", WIDE, partial(
        scenes.sea_sunset, sky=("#3a7ca5", "#9bd1e5", "#ffe2b3"), sea="#0b4f6c")),
    Picture("aurora", "green aurora over a spruce forest, stars", WIDE, partial(
        scenes.aurora, lights=("#2bd98f", "#3a7bd5"))),
    Picture("aurora_violet", "violet aurora, winter night", TALL, partial(
        scenes.aurora, lights=("#b14cff", "#36e0c8"))),
    Picture("oranges", "still life, oranges and a lime on oak, soft window light", WIDE, partial(
        scenes.still_life, fruits=("#f28c28", "#7cb518", "#f9a03f"), wall="#8d7b68",
        table="#8b5a2b"), ("blur", "crop")),
    Picture("plums", "still life, plums in low key light", SQUARE, partial(
        scenes.still_life, fruits=("#5a189a", "#9d2449"), wall="#4a4e69", table="#5e3b23"),
        ("noise",)),
    Picture("apples", "still life, five apples in a row", WIDE, partial(
        scenes.still_life, fruits=("#c1121f", "#e07a1f", "#d4a017", "#8ab17d", "#a4161a"),
        wall="#6b705c", table="#7f4f24"), ("underexposed",)),
    Picture("poster_forma", "bauhaus exhibition poster, FORMA 1926", TALL, partial(
        scenes.poster, words=("FORMA", "exhibition of new design", "1926"),
        inks=("#efe6d5", "#d62828", "#1d3557", "#111111")), ("jpeg",)),
    Picture("poster_jazz", "jazz night poster, geometric", TALL, partial(
        scenes.poster, words=("JAZZ", "friday night", "blue hall"),
        inks=("#14213d", "#fca311", "#e5e5e5", "#f8f4e3"))),
    Picture("ribbons", "endless ribbons, truchet tiling in teal and coral", SQUARE, partial(
        scenes.truchet, inks=("#073b4c", "#118ab2", "#ff8c61"))),
    Picture("tiles", "glazed star tiles, cobalt and saffron", SQUARE, partial(
        scenes.star_tiles, inks=("#1d3f72", "#11284d", "#f2d398", "#c8553d")), ("veil",)),
    Picture("current", "flow field painting, indigo and cream", SQUARE, partial(
        scenes.flow_field, inks=("#f6efe0", "#1d3557", "#457b9d", "#e76f51", "#f4a261")),
        ("noise",)),
    Picture("wheat", "flow field, wheat in the wind", WIDE, partial(
        scenes.flow_field, inks=("#2b2118", "#8a5a1f", "#d9a441", "#f6d98b", "#fff4cf"))),
    Picture("ink", "ink in water, marbled blue and gold", SQUARE, partial(
        scenes.marble, inks=("#03045e", "#023e8a", "#48cae4", "#caf0f8", "#1b263b")), ("banding",)),
    Picture("agate", "polished agate, rose and grey", TALL, partial(
        scenes.marble, inks=("#2f2235", "#60495a", "#bf9aca", "#f7e1d7", "#84a59d"))),
    Picture("dahlia", "crimson dahlia, macro, dark background", SQUARE, partial(
        scenes.bloom, petals=("#3d0814", "#b3123a", "#ff8fa3"), ground="#1f3326"), ("crop",)),
    Picture("skyline", "city skyline at dusk, lit windows, reflections", WIDE, partial(
        scenes.skyline, dusk=("#1f2a55", "#6a4c93", "#f08a5d", "#46456f", "#2b2d5b")),
        ("overexposed", "blur")),
)  # fmt: skip


def seed_of(name: str) -> int:
    """A seed that depends on the name alone, so that adding a picture changes no other."""
    return zlib.crc32(name.encode())


def render(picture: Picture) -> Image.Image:
    """Render one original."""
    random = np.random.default_rng(seed_of(picture.name))
    width, height = (round(side * SUPERSAMPLE) for side in picture.size)
    return finish(picture.scene(random, width, height), picture.size, picture.grain, random)


def spoil(image: Image.Image, picture: Picture, how: str) -> Image.Image:
    return SPOILS[how](image, np.random.default_rng(seed_of(f"{picture.name}_{how}")))


def save(image: Image.Image, folder: Path, picture: Picture, how: str | None = None) -> Path:
    """Write a PNG as ComfyUI would; a spoiled one has its original's prompt and another seed."""
    name = f"{picture.name}_{how}" if how else picture.name
    path = folder / f"{name}_00001_.png"
    image.save(path, pnginfo=png_info(picture.text, seed_of(name), image.size, name))
    return path


def render_all(folder: Path) -> Iterator[Sample]:
    """Render every picture and its spoiled versions into ``folder``, one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        image = render(picture)
        original = save(image, folder, picture)
        yield Sample(original, None, None)
        for how in picture.spoils:
            yield Sample(save(spoil(image, picture, how), folder, picture, how), original, how)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go; made if missing")
    folder = parser.parse_args().folder
    count = sum(1 for _ in render_all(folder))
    print(f"{count} pictures rendered into {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
