"""One row per image: what a run knows of it, and how that is written down."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from ..artimuse_core.errors import ArtiMuseError, MissingExtraError, UsageError
from .metadata import GenerationInfo


@dataclass(frozen=True, slots=True)
class Record:
    """What a curation run says of one image. The field names are the keys of JSON and CSV."""

    path: str
    score: float
    """0..100; NaN where ``error`` is set (``null`` in JSON, empty in CSV)."""
    std: float
    model: str
    error: str | None = None
    rank: int | None = None
    """1 is best."""
    selected: bool = False
    width: int | None = None
    height: int | None = None
    sha256: str | None = None
    """Of the file's bytes."""
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    generator: str | None = None
    """The program that made the image: ComfyUI, A1111, …"""
    checkpoint: str | None = None
    """The diffusion model it was made with."""
    loras: str | None = None
    """File names, separated by commas."""
    sampler: str | None = None
    scheduler: str | None = None
    steps: int | None = None
    cfg: float | None = None
    workflow: str | None = None
    """Short hash of a ComfyUI graph without its texts and numbers: equal for equal workflows."""
    reason: str | None = None
    """Why it was kept or not."""
    standing: float | None = None
    """Percentile within its group (``--fair-by``), 0..100."""
    group: str | None = None
    """Its group under ``--per``."""
    bucket: str | None = None
    duplicate_of: str | None = None
    """Path of the better image that this one nearly equals."""
    stays: float | None = None
    """How often it is kept under small crops (``--stable``), 0..1."""
    probs: bytes | None = field(default=None, repr=False, compare=False)
    """Probability of each score token, fp16; not written with the rest."""
    pixels: bytes | None = field(default=None, repr=False, compare=False)
    """Hash of the decoded pixels; not written with the rest."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, numbers that are not numbers as None."""
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in ((name, getattr(self, name)) for name in COLUMNS)
        }


COLUMNS = tuple(f.name for f in fields(Record) if f.name not in ("probs", "pixels"))
"""The keys of JSON and CSV, in order."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What decoding one file tells besides its pixels."""

    width: int
    height: int
    sha256: str
    info: GenerationInfo
    pixels: bytes
    """Hash of the decoded RGB pixels, 16 bytes."""


FORMATS = (".jsonl", ".csv", ".parquet")


def check_format(path: Path) -> None:
    """Raise UsageError for a file name whose extension is no known format."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"cannot write {path}: expected a name ending in {' or '.join(FORMATS)}")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("pyarrow", "curate") from error


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write JSON lines, CSV or Parquet by the extension; the file appears whole or not at all."""
    check_format(path)
    if path.suffix.lower() == ".parquet":
        _write_parquet(path, records)
        return
    with _replacing(path) as file:
        if path.suffix.lower() == ".jsonl":
            write_json_lines(file, records)
        else:
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            table.writerows(record.as_dict() for record in records)


def write_json_lines(file: IO[str], records: Iterable[Record]) -> None:
    for record in records:
        file.write(json.dumps(record.as_dict(), ensure_ascii=False) + "\n")


def _write_parquet(path: Path, records: Iterable[Record]) -> None:
    import pyarrow
    import pyarrow.parquet

    types = {
        int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_(), str: pyarrow.string()
    }  # fmt: skip
    schema = pyarrow.schema([(name, types[_TYPES[name]]) for name in COLUMNS])
    seed = schema.get_field_index("seed")  # generators use all 64 bits
    schema = schema.set(seed, pyarrow.field("seed", pyarrow.uint64()))
    rows = iter(records)
    with (
        in_place_of(path) as partial,
        pyarrow.parquet.ParquetWriter(partial, schema, compression="zstd") as writer,
    ):
        while batch := list(itertools.islice(rows, 10_000)):
            table = [{k: _clean(v) for k, v in record.as_dict().items()} for record in batch]
            writer.write_table(pyarrow.Table.from_pylist(table, schema=schema))


_TYPES: dict[str, type] = {
    name: next(t for t in (bool, int, float, str) if t.__name__ in str(hint).split(" | "))
    for name, hint in Record.__annotations__.items()
    if name in COLUMNS
}


def _clean(value: Any) -> Any:
    """Parquet holds valid UTF-8 alone; bytes of a file name that are none become backslashes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


@contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    """A text file that takes the place of ``path`` once it is complete."""
    # File names may hold bytes that are no UTF-8; they are kept as Python's escapes.
    with (
        in_place_of(path) as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        yield file


@contextmanager
def in_place_of(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes ``path`` once all is written."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise ArtiMuseError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
