"""TAD66K: photographs of 47 themes, scored 0 to 10: ``image,score`` in ``labels/merge/``."""

from __future__ import annotations

from pathlib import Path

from . import reference
from .base import Row, Sample, Scale, csv_rows, existing, number, parse, relative

SCALE = Scale(0, 10)


def read(root: Path, images: Path | None = None) -> list[Sample]:
    """``root``: the folder with ``labels/merge/{train,test}.csv`` (or the two alone), or a file."""
    if root.is_file() or (root / reference.FILE).is_file():
        return _file(root if root.is_file() else root / reference.FILE, images)
    labels = root / "labels" / "merge" if (root / "labels" / "merge").is_dir() else root
    images = images or root / "TAD66K"
    parts = [existing(labels, f"{part}.csv", what="TAD66K labels") for part in ("train", "test")]
    return [sample for file in parts for sample in _file(file, images)]


def _file(file: Path, images: Path | None) -> list[Sample]:
    images = images or file.parent / "images"
    if file.suffix == ".json":
        return reference.read_test(file, images, SCALE)
    split = next((part for part in ("train", "test") if part in file.stem), None)

    def sample(row: Row) -> Sample:
        return Sample(images / relative(row["image"]), SCALE.normalise(number(row, "score")),
                      split=split)  # fmt: skip

    return parse(file, csv_rows(file, ["image", "score"]), sample)
