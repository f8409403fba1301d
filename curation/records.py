"""One row per image: what a run knows of it, and how that is written down."""

from __future__ import annotations

import csv
import itertools
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..artimuse_core.errors import ArtiMuseError, MissingExtraError, UsageError
from .metadata import GenerationInfo
from .sources import put


@dataclass(frozen=True, slots=True)
class Record:
    """What a curation run says of one image. The field names are the keys of JSON and CSV, with
    those of ``info`` in its place."""

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
    info: GenerationInfo = field(default_factory=GenerationInfo)
    """How it was made; its fields stand among the record's in JSON and CSV."""
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
    attributes: Mapping[str, float] | None = None
    """Score of each attribute by its key, 0..100, where ``--where`` asks for one."""
    critique: Mapping[str, str] | None = None
    """A text by attribute (``--critique``); in CSV and Parquet as JSON."""
    probs: bytes | None = field(default=None, repr=False, compare=False)
    """Probability of each score token, fp16; not written with the rest."""
    pixels: bytes | None = field(default=None, repr=False, compare=False)
    """Hash of the decoded pixels; not written with the rest."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, numbers that are not numbers as None."""
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in ((name, self.value(name)) for name in COLUMNS)
        }

    def value(self, column: str) -> Any:
        """What stands under one of :data:`COLUMNS`."""
        return getattr(self.info if column in _INFO else self, column)


_INFO = {f.name: str(f.type) for f in fields(GenerationInfo)}
_OWN = {f.name: str(f.type) for f in fields(Record) if f.name not in ("probs", "pixels")}
_TYPES = {
    name: hint
    for own, type_ in _OWN.items()
    for name, hint in (_INFO if own == "info" else {own: type_}).items()
}
COLUMNS = tuple(_TYPES)
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


def check_format(path: Path | str) -> None:
    """Raise UsageError for a file name whose extension is no known format."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"cannot write {path}: expected a name ending in {' or '.join(FORMATS)}")
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("pyarrow", "curate") from error


def write_records(path: Path | str, records: Iterable[Record]) -> None:
    """Write JSON lines, CSV or Parquet by the extension; the file appears whole or not at all.

    To a URL it is uploaded in one go when it is complete.
    """
    check_format(path)
    if isinstance(path, str):
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / PurePosixPath(path).name
            write_records(whole, records)
            put(path, whole)
        return
    if path.suffix.lower() == ".parquet":
        _write_parquet(path, records)
        return
    with _replacing(path) as file:
        if path.suffix.lower() == ".jsonl":
            write_json_lines(file, records)
        else:
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            table.writerows(_flat(record) for record in records)


def write_json_lines(file: IO[str], records: Iterable[Record]) -> None:
    for record in records:
        file.write(json.dumps(record.as_dict(), ensure_ascii=False) + "\n")


def _write_parquet(path: Path, records: Iterable[Record]) -> None:
    import pyarrow
    import pyarrow.parquet

    types = {
        "int": pyarrow.int64(), "float": pyarrow.float64(),
        "bool": pyarrow.bool_(), "str": pyarrow.string(),
    }  # fmt: skip
    columns = [(name, types.get(hint.split(" | ")[0])) for name, hint in _TYPES.items()]
    schema = pyarrow.schema([(name, kind or pyarrow.string()) for name, kind in columns])
    seed = schema.get_field_index("seed")  # generators use all 64 bits
    schema = schema.set(seed, pyarrow.field("seed", pyarrow.uint64()))
    rows = iter(records)
    with (
        in_place_of(path) as partial,
        pyarrow.parquet.ParquetWriter(partial, schema, compression="zstd") as writer,
    ):
        while batch := list(itertools.islice(rows, 10_000)):
            table = [{k: _clean(v) for k, v in _flat(record).items()} for record in batch]
            writer.write_table(pyarrow.Table.from_pylist(table, schema=schema))


def _flat(record: Record) -> dict[str, Any]:
    """For tables, whose cells hold no tables."""
    return {
        key: json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else value
        for key, value in record.as_dict().items()
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
