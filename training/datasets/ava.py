"""AVA: photographs with the votes 1 to 10 they got in contests; the mean vote is the score.

Read are ``AVA.txt`` as released (no header, spaces, image ids without extension), TANet's CSV,
whose columns ``score2`` … ``score11`` count the votes 1 … 10, idealo's JSON, whose labels are
counts or shares of the votes 1 … 10, and the authors' ``test.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import reference
from .base import (
    Row,
    Sample,
    Scale,
    csv_rows,
    existing,
    json_items,
    number,
    opinion,
    parse,
    refuse,
    text_lines,
)  # fmt: skip

SCALE = Scale(1, 10)
VOTES = range(1, 11)
# TANet's names are one off: score2 counts the votes of 1.
TANET_COLUMNS = [f"score{vote + 1}" for vote in VOTES]


def read(root: Path, images: Path | None = None) -> list[Sample]:
    """``root``: the folder with ``AVA.txt`` (or ``test.json`` alone) and ``images/``, or a file."""
    folder = root.parent if root.is_file() else root
    file = root if root.is_file() else existing(root, "AVA.txt", reference.FILE, what="AVA labels")
    images = images or folder / "images"
    if file.suffix == ".txt":
        return _released(file, images)
    if file.suffix == ".csv":
        rows = csv_rows(file, ["image_id", *TANET_COLUMNS])
        return parse(file, rows, lambda row: _sample(row["image_id"], _counts(row), images))
    first = next((item for _, item in json_items(file)), {})
    if "label" not in first:
        return reference.read_test(file, images, SCALE)
    return parse(file, json_items(file), lambda item: _idealo(item, images))


def _sample(
    name: str, votes: Sequence[float], images: Path, split: str | None = None, **groups: str
) -> Sample:
    if not name.isdigit():
        raise ValueError(f"expected an image id, got {name!r}")
    if len(votes) != len(VOTES):
        raise ValueError(f"expected {len(VOTES)} counts of votes, got {len(votes)}")
    mean, std = opinion(votes, VOTES)
    return Sample(
        image=images / f"{name}.jpg",
        score=SCALE.normalise(mean),
        std=SCALE.spread(std),
        groups=groups,
        split=split,
    )


def _counts(row: Row) -> list[float]:
    return [number(row, column) for column in TANET_COLUMNS]


def _idealo(item: dict[str, Any], images: Path) -> Sample:
    if not isinstance(item.get("label"), list) or "image_id" not in item:
        raise ValueError(f"expected image_id and label, got {', '.join(item)}")
    votes = [number({"label": vote}, "label") for vote in item["label"]]
    return _sample(str(item["image_id"]), votes, images)


def _released(file: Path, images: Path) -> list[Sample]:
    """``index id c1 … c10 tag tag challenge``, the last three by name if their lists are there."""
    tags, challenges = _names(file.parent / "tags.txt"), _names(file.parent / "challenges.txt")
    test = reference.held_out(file.parent, SCALE)

    def sample(cells: list[str]) -> Sample:
        if len(cells) != 15:
            raise ValueError(f"expected 15 numbers with spaces between, got {len(cells)}")
        values = [number({"AVA.txt": cell}, "AVA.txt") for cell in cells]
        marked = [tags(cell) for cell in cells[12:14] if cell != "0"]
        groups = {"challenge": challenges(cells[14])}
        if marked:
            groups["category"] = ", ".join(marked)
        split = reference.part(f"{cells[1]}.jpg", test)
        return _sample(cells[1], values[2:12], images, split, **groups)

    return parse(file, ((line, text.split()) for line, text in text_lines(file)), sample)


def _names(file: Path) -> Callable[[str], str]:
    """Number → name from a list of AVA; the number itself where the list is not there."""
    names = {}
    if file.is_file():
        for line, text in text_lines(file):
            key, _, name = text.strip().partition(" ")
            if not key.isdigit() or not name:
                refuse(file, line, f"expected a number and a name, got {text!r}")
            names[key] = name
    return lambda key: names.get(key, key)
