"""Data sets of one table: their columns and scales, and IQA-Dataset's unified tables.

None of these is in the paper's Table 7; they widen a comparison (``artimuse evaluate``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...artimuse_core.errors import UsageError
from .base import (
    PERCENT,
    Row,
    Sample,
    Scale,
    csv_rows,
    json_items,
    number,
    opinion,
    parse,
    relative,
)


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file whose rows are images."""

    image: str
    score: str
    scale: Scale
    std: str = ""
    groups: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    """The columns, where the file does not name them."""
    suffix: str = ""
    """What the names lack."""

    def read(self, root: Path, images: Path | None = None) -> list[Sample]:
        if not root.is_file():
            raise UsageError(f"expected this data set's label file, got {root}")
        folder = images or root.parent / "images"
        header = list(self.header) or None
        rows = csv_rows(root, [self.image, self.score], header=header)
        return parse(root, rows, lambda row: self._sample(row, folder))

    def _sample(self, row: Row, images: Path) -> Sample:
        return Sample(
            image=images / relative(row[self.image] + self.suffix),
            score=self.scale.normalise(number(row, self.score)),
            std=self.scale.spread(number(row, self.std)) if self.std else None,
            groups={name: row[name] for name in self.groups},
        )


aadb = Table("name", "score", Scale(0, 1)).read
agiqa1k = Table("Image", "MOS", Scale(0, 5), groups=("Prompt",)).read
agiqa1k_all = Table("Image", "Score", Scale(0, 5)).read
aigciqa20k = Table("name", "mos", Scale(0, 5), groups=("prompt",)).read
baid = Table("image", "score", Scale(0, 10)).read
# ``color`` is the rated harmony of colours; ``MOS``, despite its name, what a model made of it.
icaa17k = Table("ID", "color", Scale(0, 10)).read
live_challenge = Table("name", "mos", PERCENT, std="std", header=("name", "std", "mos")).read
oasis = Table(
    "Theme", "beauty_mean", Scale(1, 7), std="beauty_SD", groups=("Category",), suffix=".jpg"
).read

IQA_SCALES = {
    "AADB": Scale(0, 1),
    "CSIQ": Scale(1, 0),  # a difference from the original: 0 is the best
    "KADID-10k": Scale(1, 5),
    "KonIQ-10k": Scale(1, 5),
    "LIVE_Challenge": PERCENT,
    "SPAQ": PERCENT,
    "TID2013": Scale(0, 9),
    "UHD-IQA": Scale(0, 1),
}
"""By the first folder in ``dis_img_path``, which says what is in a unified table."""


def iqa_dataset(root: Path, images: Path | None = None) -> list[Sample]:
    """IQA-Dataset's unified table ``dis_img_path,dis_type[,ref_img_path],score…``."""
    if not root.is_file():
        raise UsageError(f"expected one of IQA-Dataset's tables, got {root}")
    folder = images or root.parent

    def sample(row: Row) -> Sample:
        path = relative(row["dis_img_path"])
        scale = IQA_SCALES.get(path.parts[0])
        if scale is None:
            raise ValueError(f"unknown data set {path.parts[0]}; known: {', '.join(IQA_SCALES)}")
        score = scale.normalise(number(row, "score"))
        return Sample(folder / path, score, groups={"distortion": row["dis_type"]})

    return parse(root, csv_rows(root, ["dis_img_path", "dis_type", "score"]), sample)


def tid_distributions(root: Path, images: Path | None = None) -> list[Sample]:
    """idealo's TID2013: shares of ten levels, of which the tenth is the best."""
    folder = images or root.parent / "distorted_images"

    def sample(item: dict[str, object]) -> Sample:
        label = item.get("label")
        if not isinstance(label, list) or len(label) != 10:
            raise ValueError(f"expected a label of 10 shares, got {label!r:.40}")
        mean, std = opinion([number({"label": share}, "label") for share in label], range(1, 11))
        scale = Scale(1, 10)
        name = relative(f"{item.get('image_id')}.bmp")
        return Sample(folder / name, scale.normalise(mean), scale.spread(std))

    return parse(root, json_items(root), sample)


def eva(root: Path, images: Path | None = None) -> list[Sample]:
    """EVA: ``data/votes_filtered.csv``, cells parted by "=", one vote (0..10) a row."""
    file = root if root.is_file() else root / "data" / "votes_filtered.csv"
    folder = images or file.parent.parent / "images" / "EVA_together"
    category = _eva_categories(file.parent / "image_content_category.csv")
    votes: dict[str, list[float]] = defaultdict(list)
    first: dict[str, int] = {}
    for line, row in csv_rows(file, ["image_id", "user_id", "score"], delimiter="="):
        votes[row["image_id"]].append(_vote(file, line, row))
        first.setdefault(row["image_id"], line)

    def sample(name: str) -> Sample:
        mean, std = opinion([1] * len(votes[name]), votes[name])
        return Sample(folder / relative(f"{name}.jpg"), mean, std, groups=category(name))

    return parse(file, ((line, name) for name, line in first.items()), sample)


def _vote(file: Path, line: int, row: Row) -> float:
    try:
        return Scale(0, 10).normalise(number(row, "score"))
    except ValueError as error:
        raise UsageError(f"{file}:{line}: {error}") from None


def _eva_categories(file: Path) -> Callable[[str], dict[str, str]]:
    if not file.is_file():
        return lambda name: {}
    sorts = {row["image_id"]: row["sort"] for _, row in csv_rows(file, ["image_id", "sort"])}
    return lambda name: {"category": sorts[name]} if name in sorts else {}
