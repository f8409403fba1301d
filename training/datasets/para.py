"""PARA: photographs with rich attributes, scored 1 to 5.

``annotation/PARA-GiaaTrain.csv`` and ``PARA-GiaaTest.csv`` hold counts of the votes and their mean;
an image is ``imgs/<sessionId>/<imageName>``. The authors' ``test.json`` names it without ``imgs/``.
"""

from __future__ import annotations

from pathlib import Path

from . import reference
from .base import Row, Sample, Scale, csv_rows, existing, number, opinion, parse, relative

SCALE = Scale(1, 5)
BINS = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]
VOTES = [f"aestheticScore_{value}" for value in BINS]
ATTRIBUTES = {
    "quality": "qualityScore_mean",
    "composition": "compositionScore_mean",
    "color": "colorScore_mean",
    "depth of field": "dofScore_mean",
    "light": "lightScore_mean",
    "content": "contentScore_mean",
    "content preference": "contentPreference_mean",
    "willingness to share": "willingnessToShare_mean",
}
MEAN, STD = "aestheticScore_mean", "aestheticScore_std"
COLUMNS = ["imageName", "sessionId", "semantic", *VOTES, MEAN, STD, *ATTRIBUTES.values()]


def read(root: Path, images: Path | None = None) -> list[Sample]:
    """``root``: PARA's folder, or one of its Giaa files, or a folder with ``test.json``."""
    if root.is_file() and root.suffix == ".json":
        return reference.read_test(root, images or root.parent / "images", SCALE)
    if root.is_file():
        return _read(root, images or root.parent.parent / "imgs")
    folder = root / "annotation" if (root / "annotation").is_dir() else root
    if not (folder / "PARA-GiaaTest.csv").is_file() and (root / reference.FILE).is_file():
        return reference.read_test(root / reference.FILE, images or root / "images", SCALE)
    train = existing(folder, "PARA-GiaaTrain.csv", what="PARA labels")
    test = existing(folder, "PARA-GiaaTest.csv", what="PARA labels")
    images = images or root / "imgs"
    return [*_read(train, images), *_read(test, images)]


def _read(file: Path, images: Path) -> list[Sample]:
    split = "test" if "Test" in file.name else "train"
    return parse(file, csv_rows(file, COLUMNS), lambda row: _sample(row, images, split))


def _sample(row: Row, images: Path, split: str) -> Sample:
    mean, _ = opinion([number(row, column) for column in VOTES], BINS)
    # Columns that have slipped would give another mean than the table's own.
    if abs(mean - number(row, MEAN)) > 0.01:
        raise ValueError(f"the votes' mean is {mean:.3f}, but {MEAN} says {row[MEAN]}")
    return Sample(
        image=images / relative(row["sessionId"]) / relative(row["imageName"]),
        score=SCALE.normalise(mean),
        std=SCALE.spread(number(row, STD)),
        attribute_scores={
            name: SCALE.normalise(number(row, column)) for name, column in ATTRIBUTES.items()
        },
        groups={"category": row["semantic"], "session": row["sessionId"]},
        split=split,
    )
