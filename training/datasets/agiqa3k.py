"""AGIQA-3K: AI-generated images with human mean opinion scores (MIT licence).

``labels.csv`` has one row an image: ``name, prompt, …, mos_quality (0..5), std_quality, …``;
images lie in ``images/``. Ten images share a prompt, so a split by image would let a model
recognise a test image by its siblings: :func:`split` cuts by prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...artimuse_core.errors import UsageError
from .base import Row, Sample, Scale, csv_rows, hashed, number, parse, relative

SCALE = Scale(0, 5)
PARTS = {"test": 0.20, "validation": 0.20, "train": 0.60}
"""Expected share of the prompts in each part."""


class Rating(Sample):
    """One rated image; score and std are those of ``mos_quality``."""

    __slots__ = ()

    @property
    def prompt(self) -> str:
        """What the image was generated from."""
        return self.groups["prompt"]

    @property
    def generator(self) -> str:
        """First part of the file's name: ``AttnGAN``, ``sd1.5``, …"""
        return self.groups["generator"]

    @property
    def variant(self) -> str:
        """Second part: how the generator was driven (``normal``, ``lowstep``, ``lowcorr``, …)."""
        return self.groups["variant"]


def load(directory: Path) -> list[Rating]:
    """All ratings of the data set, in the order of ``labels.csv``, none without its image.

    Raises UsageError when the label file does not fit or an image is missing.
    """
    ratings = read(directory)
    missing = [rating.image.name for rating in ratings if not rating.image.is_file()]
    if missing:
        labels = directory / "labels.csv"
        raise UsageError(f"{len(missing)} images of {labels} are missing (first: {missing[0]})")
    return ratings


def read(directory: Path, images: Path | None = None) -> list[Rating]:
    """The same from the labels alone, whether the images lie there or not; cut by :func:`split`."""
    labels = directory / "labels.csv"
    if not labels.is_file():
        raise UsageError(f"no {labels}; expected AGIQA-3K's labels.csv beside its images/ folder")
    folder = images or directory / "images"
    rows = csv_rows(labels, ["name", "prompt", "mos_quality", "std_quality"])
    return parse(labels, rows, lambda row: _rating(folder, row))


def _rating(folder: Path, row: Row) -> Rating:
    generator, variant, _ = row["name"].split("_")
    return Rating(
        image=folder / relative(row["name"]),
        score=SCALE.normalise(number(row, "mos_quality")),
        std=SCALE.spread(number(row, "std_quality")),
        groups={"prompt": row["prompt"], "generator": generator, "variant": variant},
        split=part_of(row["prompt"]),
    )


def part_of(prompt: str, seed: int = 0) -> str:
    """Which of ``PARTS`` a prompt belongs to: a hash, so that order and subset do not matter."""
    place = hashed(f"{seed}:{prompt}") / 2**64  # uniform in 0..1
    for part, share in PARTS.items():
        if place < share:
            return part
        place -= share
    return part  # rounding at the very end of the interval


def split(ratings: Sequence[Rating], seed: int = 0) -> dict[str, list[Rating]]:
    """Cut by prompt into ``test``, ``validation`` and ``train``."""
    parts: dict[str, list[Rating]] = {part: [] for part in PARTS}
    for rating in ratings:
        parts[part_of(rating.prompt, seed)].append(rating)
    return parts
