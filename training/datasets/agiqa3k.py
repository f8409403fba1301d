"""AGIQA-3K: AI-generated images with human mean opinion scores (MIT licence).

``labels.csv`` has one row an image: ``name, prompt, …, mos_quality (0..5), std_quality, …``;
images lie in ``images/``. Ten images share a prompt, so a split by image would let a model
recognise a test image by its siblings: :func:`split` cuts by prompt.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...artimuse_core.errors import UsageError

MOS_SCALE = 100 / 5
"""Score points per MOS point."""
PARTS = {"test": 0.20, "validation": 0.20, "train": 0.60}
"""Expected share of the prompts in each part."""


@dataclass(frozen=True, slots=True)
class Rating:
    """One rated image."""

    image: Path
    score: float
    """Mean opinion score of quality, rescaled to 0..100."""
    std: float
    """Standard deviation of that opinion, in score points."""
    prompt: str
    """What the image was generated from."""
    generator: str
    """First part of the file's name: ``AttnGAN``, ``sd1.5``, …"""
    variant: str
    """Second part: how the generator was driven (``normal``, ``lowstep``, ``lowcorr``, …)."""


def load(directory: Path) -> list[Rating]:
    """All ratings of the data set, in the order of ``labels.csv``.

    Raises UsageError when the label file is missing or a row names no image.
    """
    labels = directory / "labels.csv"
    if not labels.is_file():
        raise UsageError(f"no {labels}; expected AGIQA-3K's labels.csv beside its images/ folder")
    with labels.open(newline="", encoding="utf-8") as file:
        ratings = [_rating(directory / "images", row) for row in csv.DictReader(file)]
    missing = [rating.image.name for rating in ratings if not rating.image.is_file()]
    if missing:
        raise UsageError(f"{len(missing)} images of {labels} are missing (first: {missing[0]})")
    return ratings


def _rating(images: Path, row: dict[str, str]) -> Rating:
    generator, variant, _ = row["name"].split("_")
    return Rating(
        image=images / row["name"],
        score=float(row["mos_quality"]) * MOS_SCALE,
        std=float(row["std_quality"]) * MOS_SCALE,
        prompt=row["prompt"],
        generator=generator,
        variant=variant,
    )


def part_of(prompt: str, seed: int = 0) -> str:
    """Which of ``PARTS`` a prompt belongs to: a hash, so that order and subset do not matter."""
    digest = hashlib.sha256(f"{seed}:{prompt}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # uniform in 0..1
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
