"""SPAQ: smartphone photographs with technical quality and attribute scores, all on 0..100.

``Annotations/MOS and Image attribute scores.xlsx`` and ``Scene category labels.xlsx`` (a share a
category), or the same sheets saved as CSV. Images lie in ``TestImage/``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from ...artimuse_core.errors import MissingExtraError, UsageError
from .base import PERCENT, Row, Sample, csv_rows, existing, number, parse, refuse, relative

NAME = "Image name"
ATTRIBUTES = ["Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"]
SCORES = "MOS and Image attribute scores"
CATEGORIES = "Scene category labels"


def read(root: Path, images: Path | None = None) -> list[Sample]:
    """``root``: SPAQ's folder, or the one with its annotations."""
    folders = [root / "Annotations", root / "annotations", root]
    folder = next(folder for folder in folders if folder.is_dir() or folder == root)
    file = existing(folder, f"{SCORES}.xlsx", f"{SCORES}.csv", what="SPAQ scores")
    images = images or root / "TestImage"
    categories = _categories(folder)

    def sample(row: Row) -> Sample:
        name = row[NAME]
        return Sample(
            image=images / relative(name),
            score=PERCENT.normalise(number(row, "MOS")),
            attribute_scores={
                attribute: PERCENT.normalise(number(row, attribute)) for attribute in ATTRIBUTES
            },
            groups={"category": categories[name]} if categories.get(name) else {},
        )

    return parse(file, _rows(file, [NAME, "MOS", *ATTRIBUTES]), sample)


def _categories(folder: Path) -> dict[str, str]:
    """The categories with a share in each image, joined; empty where none has one."""
    names = [f"{CATEGORIES}.xlsx", f"{CATEGORIES}.csv"]
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        return {}
    found = {}
    for line, row in _rows(file, [NAME]):
        try:
            shares = {key: number(row, key) for key in row if key != NAME and row[key]}
        except ValueError as error:
            refuse(file, line, error)
        found[row[NAME]] = ", ".join(key for key, share in shares.items() if share > 0)
    return found


def _rows(file: Path, columns: list[str]) -> Iterator[tuple[int, Row]]:
    if file.suffix == ".csv":
        yield from csv_rows(file, columns)
        return
    try:
        import openpyxl
    except ImportError as error:
        raise MissingExtraError("openpyxl", "train") from error
    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    except Exception as error:  # a broken workbook raises whatever zip, XML or openpyxl raise
        raise UsageError(f"cannot read {file}: expected an Excel workbook: {error}") from error
    sheet = book.worksheets[0].iter_rows(values_only=True)
    names = [_text(cell) for cell in next(sheet, ())]
    lacking = [column for column in columns if column not in names]
    if lacking:
        refuse(file, 1, f"expected columns {', '.join(lacking)}; got {', '.join(names)}")
    for line, cells in enumerate(sheet, start=2):
        # Rows of a sheet end where their last cell does.
        row = {key: _text(cell) for key, cell in zip_longest(names, cells) if key}
        if any(row.values()):
            yield line, row
    book.close()


def _text(cell: object) -> str:
    return "" if cell is None else str(cell).strip()
