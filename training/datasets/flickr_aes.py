"""FLICKR-AES: photographs with two scales: an image's score lies in 0..1, a worker's in 1..5.

``FLICKR-AES_image_score.txt`` (no header, ``name score`` with spaces, some before the name) is the
score. ``FLICKR-AES_image_labeled_by_each_worker.csv``, if it is there, gives the spread.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import pstdev

from . import reference
from .base import Sample, Scale, csv_rows, existing, number, parse, refuse, relative, text_lines

SCALE = Scale(0, 1)
WORKER_SCALE = Scale(1, 5)
SCORES = "FLICKR-AES_image_score.txt"
WORKERS = "FLICKR-AES_image_labeled_by_each_worker.csv"


def read(root: Path, images: Path | None = None) -> list[Sample]:
    """``root``: the folder with the two label files and ``40K/``, or one with ``test.json``."""
    if root.is_file() and root.suffix == ".json":
        return reference.read_test(root, images or root.parent / "images", SCALE)
    file = root if root.is_file() else existing(root, SCORES, reference.FILE, what="labels")
    if file.suffix == ".json":
        return reference.read_test(file, images or root / "images", SCALE)
    images = images or file.parent / "40K"
    spreads, test = _spreads(file.parent / WORKERS), reference.held_out(file.parent, SCALE)

    def sample(cells: list[str]) -> Sample:
        if len(cells) != 2:
            raise ValueError(f"expected a name and a score, got {' '.join(cells)!r}")
        name = cells[0]
        return Sample(
            image=images / relative(name),
            score=SCALE.normalise(number({SCORES: cells[1]}, SCORES)),
            std=spreads.get(name),
            split=reference.part(name, test),
        )

    return parse(file, ((line, text.split()) for line, text in text_lines(file)), sample)


def _spreads(file: Path) -> dict[str, float]:
    """Standard deviation of each image's ratings, in score points; none for a single rating."""
    if not file.is_file():
        return {}
    ratings: dict[str, list[float]] = defaultdict(list)
    for line, row in csv_rows(file, ["worker", "imagePair", "score"]):
        try:
            ratings[row["imagePair"]].append(WORKER_SCALE.normalise(number(row, "score")))
        except ValueError as error:
            refuse(file, line, error)
    return {name: pstdev(values) for name, values in ratings.items() if len(values) > 1}
