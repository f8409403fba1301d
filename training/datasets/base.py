"""What every data set becomes: one record an image, scores in 0..100.

An adapter reads one data set's own label files and refuses, with file, line and reason, whatever
does not fit; everything behind it knows :class:`Sample` alone.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ...artimuse_core.errors import UsageError

Row = dict[str, str]
R = TypeVar("R")
S = TypeVar("S", bound="Sample")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what people said of it."""

    image: Path
    score: float | None = None
    """Mean opinion, 0..100; None where the data set has texts alone."""
    std: float | None = None
    """Standard deviation of the opinions, in score points."""
    texts: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Critique of an attribute by the attribute's name (``Attribute.name``): what to learn."""
    attribute_scores: Mapping[str, float] = field(default_factory=dict, hash=False)
    """0..100, by the name the data set uses."""
    comments: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Partial texts, facts and figures to build a critique from, by the data set's own names."""
    groups: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What the image belongs to: ``prompt``, ``generator``, ``annotator``, ``category``, …"""
    split: str | None = None
    """The part it is in by the data set's own cut: ``train``, ``validation`` or ``test``."""

    def as_dict(self) -> dict[str, Any]:
        """A line for JSONL, which :func:`~.table.read_table` reads; empty fields left out."""
        row = {key: value for key, value in asdict(self).items() if value not in (None, {})}
        return row | {"image": str(self.image)}


@dataclass(frozen=True, slots=True)
class Scale:
    """The range that a data set declares for its scores."""

    low: float
    high: float
    """The best score; lower than ``low`` where the scale is reversed."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)) or self.low == self.high:
            raise UsageError(f"expected a scale LOW:HIGH of two numbers, got {self}")

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}"

    def normalise(self, value: float) -> float:
        """To 0..100. Raises ValueError outside the range: a wrong scale must not be trained on."""
        points = 100 * (value - self.low) / (self.high - self.low)
        if not -1e-6 <= points <= 100 + 1e-6:  # also catches NaN
            raise ValueError(f"{value:g} lies outside the declared range {self}")
        return min(max(points, 0.0), 100.0)

    def spread(self, std: float) -> float:
        """A standard deviation in score points."""
        if not 0 <= std < math.inf:
            raise ValueError(f"{std:g} is no standard deviation")
        return 100 * std / abs(self.high - self.low)


PERCENT = Scale(0, 100)


def refuse(file: Path, line: int, reason: object) -> NoReturn:
    raise UsageError(f"{file}:{line}: {reason}")


def parse(file: Path, rows: Iterable[tuple[int, R]], sample: Callable[[R], S]) -> list[S]:
    """A sample of each row, or UsageError with file, line and what ``sample`` raised ValueError of.

    A second row of one image is refused as well.
    """
    seen: dict[Path, int] = {}
    samples = []
    for line, row in rows:
        try:
            parsed = sample(row)
        except ValueError as error:
            refuse(file, line, error)
        if parsed.image in seen:
            refuse(file, line, f"{parsed.image.name} stands in line {seen[parsed.image]} already")
        seen[parsed.image] = line
        samples.append(parsed)
    if not samples:
        raise UsageError(f"{file} holds no rated images")
    return samples


def number(row: Mapping[str, Any], column: str) -> float:
    """A finite number; raises ValueError naming the column."""
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        raise ValueError(f"expected a number in column {column!r}, got {row[column]!r}") from None
    if not math.isfinite(value):
        raise ValueError(f"{value} in column {column!r} is not a number to learn from")
    return value


def relative(name: str) -> Path:
    """A file name out of a label file; raises ValueError if it leads out of the images' folder."""
    path = Path(name.strip())
    if not name.strip() or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"expected an image's name relative to the images' folder, got {name!r}")
    return path


def opinion(counts: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of votes: how many (or what share) were given to each value."""
    total = sum(counts)
    if min(counts) < 0 or not 0 < total < math.inf:
        raise ValueError(f"expected counts of votes, got {', '.join(f'{c:g}' for c in counts)}")
    mean = sum(c * v for c, v in zip(counts, values, strict=True)) / total
    variance = sum(c * (v - mean) ** 2 for c, v in zip(counts, values, strict=True)) / total
    return mean, math.sqrt(variance)


def hashed(key: str) -> int:
    """A number in 0..2**64 - 1 for each key: splits by it do not depend on order or subset."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def existing(directory: Path, *names: str, what: str) -> Path:
    """The first of ``names`` that lies in ``directory``; raises UsageError listing them."""
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise UsageError(f"no {what} in {directory}: expected {' or '.join(names)}")


def read_text(file: Path, encoding: str = "utf-8-sig") -> str:
    """A label file's text. Raises UsageError."""
    try:
        return file.read_text(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {file}: expected {encoding}: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error


def text_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Line numbers, from 1, and the lines that are not empty."""
    for line, text in enumerate(read_text(file).split("\n"), start=1):
        if text.strip():
            yield line, text


def csv_rows(
    file: Path,
    required: Iterable[str],
    *,
    delimiter: str = ",",
    header: list[str] | None = None,
    encoding: str = "utf-8-sig",
) -> Iterator[tuple[int, Row]]:
    """Line numbers, from 1, and rows of a table whose columns are checked first.

    ``header`` names the columns of a file that has none. A byte order mark, spaces around names
    and values, and empty columns at the end are taken away. Raises UsageError for columns that
    are missing and for rows of another length.
    """
    table = csv.reader(io.StringIO(read_text(file, encoding), newline=""), delimiter=delimiter)
    try:
        names = [name.strip() for name in (header or next(table, []))]
        lacking = [column for column in required if column not in names]
        if lacking:
            refuse(file, 1, f"expected columns {', '.join(lacking)}; got {', '.join(names)}")
        last = table.line_num
        for cells in table:
            line, last = last + 1, table.line_num  # a row may take several lines
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                refuse(file, line, f"expected {len(names)} cells, got {len(cells)}")
            values = (cell.strip() for cell in cells)
            yield line, {name: cell for name, cell in zip(names, values, strict=True) if name}
    except csv.Error as error:
        refuse(file, table.line_num, error)


def json_lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers, from 1, and the objects of a JSONL file."""
    for line, text in text_lines(file):
        try:
            row = json.loads(text)
        except ValueError as error:
            refuse(file, line, f"not JSON: {error}")
        if not isinstance(row, dict):
            refuse(file, line, f"expected a JSON object, got {text.strip()[:40]}")
        yield line, row


def json_items(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The same of a file that is one JSON array of objects."""
    text = read_text(file)
    decoder = json.JSONDecoder()
    place, line, counted = _after_space(text, 0), 1, 0
    if text[place : place + 1] != "[":
        refuse(file, 1, "expected a JSON array of objects")
    place = _after_space(text, place + 1)
    while text[place : place + 1] != "]":
        line, counted = line + text.count("\n", counted, place), place
        try:
            item, place = decoder.raw_decode(text, place)
        except ValueError as error:
            refuse(file, line, f"not JSON: {error}")
        if not isinstance(item, dict):
            refuse(file, line, f"expected a JSON object, got {item!r:.40}")
        yield line, item
        place = _after_space(text, place)
        if text[place : place + 1] == ",":
            place = _after_space(text, place + 1)
        elif text[place : place + 1] != "]":
            refuse(file, line, "expected a comma or the array's end after this object")


def _after_space(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place
