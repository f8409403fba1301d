"""APDDv2: paintings and drawings, scored by artists, half of them with a comment.

``APDDv2-10023.csv`` holds the total on 0..100, attributes on 0..10 with blanks, and comments of
several lines; ``csvfiles/{train,valid,test}.csv`` hold the split and the total on 0..10, without
comments. The release is in GB18030, copies of it in UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .base import PERCENT, Row, Sample, Scale, csv_rows, existing, number, parse, relative

PARTS = {"train": "train", "valid": "validation", "test": "test"}
ATTRIBUTE_SCALE = Scale(0, 10)
ATTRIBUTES = [
    "Theme and logic", "Creativity", "Layout and composition", "Space and perspective",
    "The sense of order", "Light and shadow", "Color", "Details and texture", "The overall", "Mood",
]  # fmt: skip
NAME, CATEGORY, COMMENT = "filename", "Artistic Categories", "Language Comment"
TOTALS = {"Total aesthetic score": PERCENT, "Score": ATTRIBUTE_SCALE}
"""The column of the total and its scale: which of the two says what kind of file it is."""


def read(root: Path, images: Path | None = None) -> list[Sample]:
    """``root``: the folder of the release, or one of its files."""
    if root.is_file():
        return _read(root, images or root.parent / "images", {})
    full = existing(root, "APDDv2-10023.csv", what="APDDv2 labels")
    return _read(full, images or root / "APDDv2images", _splits(root / "csvfiles"))


def _splits(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    return {
        row[NAME]: split
        for part, split in PARTS.items()
        for _, row in _rows(existing(folder, f"{part}.csv", what="APDDv2 splits"), [NAME])
    }


def _rows(file: Path, columns: list[str]) -> Iterator[tuple[int, Row]]:
    try:
        file.read_text("utf-8-sig")
        encoding = "utf-8-sig"
    except UnicodeDecodeError:
        encoding = "gb18030"
    return csv_rows(file, columns, encoding=encoding)


def _read(file: Path, images: Path, splits: dict[str, str]) -> list[Sample]:
    alone = next((split for part, split in PARTS.items() if part in file.stem), None)

    def sample(row: Row) -> Sample:
        total = next((column for column in TOTALS if column in row), None)
        if total is None:
            raise ValueError(f"expected a column {' or '.join(TOTALS)}, got {', '.join(row)}")
        return Sample(
            image=images / relative(row[NAME]),
            score=TOTALS[total].normalise(number(row, total)),
            attribute_scores={
                name: ATTRIBUTE_SCALE.normalise(number(row, name))
                for name in ATTRIBUTES
                if row[name]
            },
            comments={COMMENT: row[COMMENT]} if row.get(COMMENT) else {},
            groups={"category": row[CATEGORY].replace("*", ", ")},
            split=splits.get(row[NAME]) if splits else alone,
        )

    return parse(file, _rows(file, [NAME, CATEGORY, *ATTRIBUTES]), sample)
