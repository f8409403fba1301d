"""Any rated images: ``image,score[,attribute…][,std][,split]`` as CSV, or the same as JSON lines.

Columns: ``image`` (relative to ``images``), ``score``, ``std`` and ``split``; a column named after
one of the eight attributes, or ``attribute:NAME``, holds scores or critiques; ``comment:NAME``
holds partial texts; every other column is a group to evaluate by. JSON lines may instead hold the
fields of a :class:`~.base.Sample`, as its ``as_dict`` writes them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...artimuse_core.attributes import ATTRIBUTES
from ...artimuse_core.errors import UsageError
from .base import PERCENT, Sample, Scale, csv_rows, json_lines, number, parse, relative

_NAMES = {key: a.name for a in ATTRIBUTES for key in (a.key, a.name.lower())}
_NESTED = ("texts", "attribute_scores", "comments", "groups")

log = logging.getLogger(__name__)


def read_table(file: Path, images: Path | None = None, scale: Scale = PERCENT) -> list[Sample]:
    """Read a table; image names are relative to ``images``, or else to the file's own folder.

    ``scale`` is what score, std and attribute scores are on. Raises UsageError with file, line
    and reason.
    """
    folder = file.parent if images is None else images
    samples = parse(file, _rows(file), lambda row: _sample(row, folder, scale))
    scores = [sample.score for sample in samples if sample.score is not None]
    if scale == PERCENT and scores and max(scores) <= 10:
        log.warning("%s: no score above %g of 100; is the scale another?", file, max(scores))
    return samples


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not file.is_file():
        raise UsageError(f"no ratings in {file}: no such file")
    if file.suffix.lower() == ".csv":
        yield from csv_rows(file, ["image"])
    elif file.suffix.lower() == ".jsonl":
        yield from json_lines(file)
    else:
        raise UsageError(f"cannot read {file}: expected a name ending in .csv or .jsonl")


def _sample(row: Mapping[str, Any], folder: Path, scale: Scale) -> Sample:
    if not isinstance(row.get("image"), str):
        raise ValueError(f"expected an image's name, got {row.get('image')!r}")
    fields: dict[str, dict[str, Any]] = {}
    for name in _NESTED:
        fields[name] = dict(row.get(name) or {})
    given = {key: value for key, value in row.items() if value not in ("", None)}
    for column, value in given.items():
        if column in ("image", "score", "std", "split", *_NESTED):
            continue
        attribute = _attribute(column)
        if attribute is not None:
            kind = "attribute_scores" if _numeric(value) else "texts"
            fields[kind][attribute] = value
        elif column.startswith("comment:"):
            fields["comments"][column.removeprefix("comment:")] = str(value)
        elif isinstance(value, (str, int, float)):
            fields["groups"][column] = str(value)
        else:
            raise ValueError(f"expected a text or a number in {column!r}, got {value!r}")
    scores = fields["attribute_scores"]
    fields["attribute_scores"] = {key: scale.normalise(number(scores, key)) for key in scores}
    split = given.get("split")
    if split not in (None, "train", "validation", "test"):
        raise ValueError(f"expected split to be train, validation or test, got {split!r}")
    return Sample(
        image=folder / relative(row["image"]),
        score=scale.normalise(number(given, "score")) if "score" in given else None,
        std=scale.spread(number(given, "std")) if "std" in given else None,
        split=split,
        **fields,
    )


def _attribute(column: str) -> str | None:
    """The attribute a column is about: by its full name if it is one of the eight."""
    name = column.removeprefix("attribute:").strip()
    known = _NAMES.get(name.lower())
    return known or (name if column.startswith("attribute:") else None)


def _numeric(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
