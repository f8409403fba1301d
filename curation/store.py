"""What is already known: scores by pixels and model, and runs, in one SQLite file.

A score belongs to the decoded pixels and to the model that gave it: a renamed, moved or re-tagged
file is not scored again, and results of different models never mix. Path, size and time of change
only spare the decoding. The file is a cache: deleting it costs time and nothing else.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .metadata import GenerationInfo
from .records import Facts, Record
from .sources import Source, Stamp, absolute, stamp_of

log = logging.getLogger(__name__)

Halves = npt.NDArray[np.float16]

FILE = "scores-1.sqlite"
"""With the version of its tables: another version begins anew beside it."""
RACY_NS = 2_000_000_000
"""A file changed less than this before it was read may change again unseen: some file systems
count time in steps of two seconds."""

_PATIENCE = 60.0
"""Seconds to wait for another process that has the file locked."""
_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, pixels BLOB, facts TEXT);
CREATE TABLE IF NOT EXISTS scores (
    pixels BLOB, model TEXT, score REAL, std REAL, probs BLOB, PRIMARY KEY (pixels, model));
CREATE TABLE IF NOT EXISTS embeddings (
    pixels BLOB, model TEXT, vector BLOB, PRIMARY KEY (pixels, model)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS said (
    pixels BLOB, model TEXT, what TEXT, answer TEXT, PRIMARY KEY (pixels, model, what));
CREATE TABLE IF NOT EXISTS visuals (pixels BLOB PRIMARY KEY, hash INTEGER, thumbnail BLOB);
CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha TEXT);
CREATE TABLE IF NOT EXISTS runs (run TEXT PRIMARY KEY, model TEXT, asked TEXT);
CREATE TABLE IF NOT EXISTS outcomes (
    run TEXT, path TEXT, score REAL, std REAL, rank INTEGER, selected INTEGER, reason TEXT,
    PRIMARY KEY (run, path)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run needs of each image besides its score."""

    hash: bool = False
    """The perceptual hash, for near-duplicates."""
    thumbnail: bool = False
    embedding: bool = False
    """What the vision tower saw, for a selection whose images differ."""


@dataclass(frozen=True, slots=True)
class Visuals:
    """What is kept of an image's looks."""

    hash: int | None = None
    """64-bit perceptual hash, as SQLite's signed integer."""
    thumbnail: bytes | None = None
    """WebP"""


@dataclass(frozen=True, slots=True)
class Known:
    """What a model made of an image's pixels; it need not be computed again."""

    score: float
    std: float
    probs: bytes | None
    """fp16, one for each score token"""
    embedding: bytes | None = None
    """fp16, of length 1; None where it was not wanted, or not asked of the store."""


class Store:
    """An open store; threads may share it, and so may processes."""

    def __init__(self, path: Path | None) -> None:
        """Open or create; ``None`` keeps everything in memory, for this run alone."""
        self.path = path
        self._lock = threading.RLock()
        self._pending, self._committed = 0, time.monotonic()
        self._broken = False
        self._db = self._open(path)

    @classmethod
    def open_or_memory(cls, folder: Path) -> Store:
        """The store of a cache folder. A file that is no database is put aside; where the folder
        cannot be written the run goes on without memory. Both are said in the log."""
        path = folder / FILE
        for attempt in range(2):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                return cls(path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError) or attempt:
                    log.warning("cannot use the cache %s: %s; going on without it", path, error)
                    break
                aside = path.with_name(f"{path.name}.broken-{time.time_ns()}")
                log.warning("the cache %s is broken (%s); put aside as %s", path, error, aside.name)
                path.replace(aside)
                for ending in ("-wal", "-shm"):
                    path.with_name(path.name + ending).unlink(missing_ok=True)
            except OSError as error:
                log.warning("cannot use the cache %s: %s; going on without it", path, error)
                break
        return cls(None)

    @staticmethod
    def _open(path: Path | None) -> sqlite3.Connection:
        db = sqlite3.connect(path or ":memory:", timeout=_PATIENCE, check_same_thread=False)
        try:
            _write_ahead(db)
            db.execute("PRAGMA synchronous=NORMAL")
            db.executescript(_TABLES)
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        with self._lock:
            self.commit()
            self._db.close()

    def recall(
        self, sources: Iterable[Source], model: str, wanted: Wanted
    ) -> Iterator[tuple[Source, Facts, Known]]:
        """Those of ``sources`` that are unchanged and of which all that is wanted is known."""
        query = (
            "SELECT f.size, f.mtime_ns, f.facts, f.pixels, s.score, s.std, s.probs, "
            "v.hash IS NOT NULL, v.thumbnail IS NOT NULL, e.pixels IS NOT NULL "
            "FROM files f JOIN scores s ON s.pixels = f.pixels AND s.model = ? "
            "LEFT JOIN embeddings e ON e.pixels = f.pixels AND e.model = s.model "
            "LEFT JOIN visuals v ON v.pixels = f.pixels WHERE f.path = ?"
        )
        needed = (wanted.hash, wanted.thumbnail, wanted.embedding)
        for source in sources:
            row = self._one(query, (model, _key(str(source))))
            if row is None or any(
                need and not has for need, has in zip(needed, row[7:], strict=True)
            ):
                continue
            try:
                unchanged = stamp_of(source) == Stamp(row[0], row[1])
            except OSError:
                continue
            if unchanged:
                yield source, _facts(row[2], row[3]), Known(row[4], row[5], row[6])

    def known(self, pixels: bytes, model: str, wanted: Wanted) -> Known | None:
        """What a model made of these pixels, whatever file they come from; None unless all that is
        wanted of the model is known."""
        row = self._one(
            "SELECT s.score, s.std, s.probs, e.vector FROM scores s "
            "LEFT JOIN embeddings e USING (pixels, model) WHERE s.pixels = ? AND s.model = ?",
            (pixels, model),
        )
        if row is None or (wanted.embedding and row[3] is None):
            return None
        return Known(*row)

    def keep(
        self,
        source: Source,
        stamp: Stamp | None,
        facts: Facts,
        visuals: Visuals,
        model: str,
        known: Known | None,
        *,
        read_ns: int,
    ) -> None:
        """Remember one image; ``known`` is None where it was not scored, ``stamp`` where its file
        does not say when it was changed, and has to be read each time.

        Written to disk now and then, and by :meth:`commit`.
        """
        rows: list[tuple[str, tuple[Any, ...]]] = [
            (
                "INSERT INTO visuals VALUES (?, ?, ?) ON CONFLICT (pixels) DO UPDATE SET "
                "hash = coalesce(excluded.hash, hash), "
                "thumbnail = coalesce(excluded.thumbnail, thumbnail)",
                (facts.pixels, visuals.hash, visuals.thumbnail),
            ),
        ]
        if known is not None:
            values = (facts.pixels, model, known.score, known.std, known.probs)
            rows.append(("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?)", values))
            if known.embedding is not None:
                vector = (facts.pixels, model, known.embedding)
                rows.append(("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", vector))
        if stamp is not None and stamp.mtime_ns < read_ns - RACY_NS:
            told = {k: v for k, v in asdict(facts.info).items() if v is not None}
            text = json.dumps([facts.width, facts.height, facts.sha256, told])
            rows.append(
                (
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
                    (_key(str(source)), stamp.size, stamp.mtime_ns, facts.pixels, text),
                )
            )
        with self._lock:
            for query, row in rows:
                self._write(query, row)
            self._pending += 1
            if self._pending >= 64 or time.monotonic() - self._committed > 5:
                self.commit()

    def hash_of(self, source: Source) -> int | None:
        """The perceptual hash of an unchanged file, where known."""
        row = self._one(
            "SELECT f.size, f.mtime_ns, v.hash FROM files f JOIN visuals v USING (pixels) "
            "WHERE f.path = ?",
            (_key(str(source)),),
        )
        if row is None or row[2] is None or stamp_of(source) != Stamp(row[0], row[1]):
            return None
        return int(row[2])

    def commit(self) -> None:
        with self._lock:
            self._pending, self._committed = 0, time.monotonic()
            try:
                self._db.commit()
            except sqlite3.Error as error:
                self._give_up(error)

    def visuals(self, pixels: bytes) -> Visuals:
        row = self._one("SELECT hash, thumbnail FROM visuals WHERE pixels = ?", (pixels,))
        return Visuals(*row) if row else Visuals()

    def hashes(self, pixels: Iterable[bytes]) -> dict[bytes, int]:
        """Perceptual hash by pixels, where known."""
        query = "SELECT hash FROM visuals WHERE pixels = ? AND hash IS NOT NULL"
        rows = ((one, self._one(query, (one,))) for one in pixels)
        return {one: int(row[0]) for one, row in rows if row}

    def embeddings(self, pixels: Iterable[bytes], model: str) -> dict[bytes, Halves]:
        """(W,) fp16 by pixels, where known."""
        query = "SELECT vector FROM embeddings WHERE pixels = ? AND model = ?"
        rows = ((one, self._one(query, (one, model))) for one in pixels)
        return {one: np.frombuffer(row[0], np.float16) for one, row in rows if row}

    def said(self, pixels: bytes, model: str, what: str) -> dict[str, Any] | None:
        """What a model that writes answered to ``what`` about these pixels, where known."""
        query = "SELECT answer FROM said WHERE pixels = ? AND model = ? AND what = ?"
        row = self._one(query, (pixels, model, what))
        answer: dict[str, Any] | None = json.loads(row[0]) if row else None
        return answer

    def keep_said(self, pixels: bytes, model: str, what: str, answer: Mapping[str, Any]) -> None:
        """Remember it, at once: an answer takes seconds."""
        values = (pixels, model, what, json.dumps(answer))
        with self._lock:
            self._write("INSERT OR REPLACE INTO said VALUES (?, ?, ?, ?)", values)
            self.commit()

    def file_hash(self, path: Path, compute: Any) -> str:
        """A large file's hash, computed once as long as it does not change."""
        stamp = Stamp.of(path)
        query = "SELECT size, mtime_ns, sha FROM hashes WHERE path = ?"
        row = self._one(query, (_key(str(path)),))
        if row and Stamp(row[0], row[1]) == stamp:
            return str(row[2])
        sha = str(compute(path))
        values = (_key(str(path)), stamp.size, stamp.mtime_ns, sha)
        with self._lock:
            self._write("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", values)
        return sha

    def keep_run(self, run: str, model: str, asked: str, records: Iterable[Record]) -> None:
        """Remember what a run decided, for --explain and --diff."""
        with self._lock:
            self._write("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (run, model, asked))
            for r in records:
                if r.error is None:
                    path, kept = _key(r.path), int(r.selected)
                    values = (run, path, r.score, r.std, r.rank, kept, r.reason)
                    self._write("INSERT OR REPLACE INTO outcomes VALUES (?,?,?,?,?,?,?)", values)
            self.commit()

    def runs(self) -> list[tuple[str, str, str]]:
        """(run, model, what was asked), oldest first."""
        with self._lock:
            return list(self._db.execute("SELECT run, model, asked FROM runs ORDER BY run"))

    def outcomes(self, run: str) -> dict[str, Record]:
        """What a run decided on each path."""
        model = {name: model for name, model, _ in self.runs()}.get(run, "")
        with self._lock:
            rows = self._db.execute(
                "SELECT path, score, std, rank, selected, reason FROM outcomes WHERE run = ?",
                (run,),
            ).fetchall()
        return {
            _path(path): Record(
                _path(path), score, std, model, rank=rank, selected=bool(kept), reason=reason
            )
            for path, score, std, rank, kept, reason in rows
        }

    def outcome_history(self, path: str) -> list[tuple[str, str, Record]]:
        """(run, what was asked, outcome) of one file in each run, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT o.run, r.asked, r.model, o.score, o.std, o.rank, o.selected, o.reason "
                "FROM outcomes o JOIN runs r USING (run) WHERE o.path = ? ORDER BY o.run",
                (_key(path),),
            ).fetchall()
        return [
            (run, asked, Record(path, score, std, model, None, rank, bool(kept), reason=why))
            for run, asked, model, score, std, rank, kept, why in rows
        ]

    def facts_of(self, path: str) -> Facts | None:
        row = self._one("SELECT facts, pixels FROM files WHERE path = ?", (_key(path),))
        return _facts(row[0], row[1]) if row else None

    def _one(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        with self._lock:
            try:
                row: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
            except sqlite3.Error as error:
                self._give_up(error)
                return None
        return row

    def _write(self, query: str, values: tuple[Any, ...]) -> None:
        if self._broken:
            return
        try:
            self._db.execute(query, values)
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: sqlite3.Error) -> None:
        """A full disk must not end a run: say it once and stop remembering."""
        if not self._broken:
            self._broken = True
            log.warning("the cache %s cannot be used any more: %s", self.path, error)


def _write_ahead(db: sqlite3.Connection) -> None:
    """Switch to a write-ahead log, so that who reads and who writes do not wait for each other.

    SQLite waits for a lock, but refuses this switch at once where another process, opening the
    same new file, is about to make it.
    """
    last = time.monotonic() + _PATIENCE
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > last:
                raise
            time.sleep(0.01)


def _key(path: str) -> str:
    """An absolute path as SQLite can hold it; names may hold bytes that are no text."""
    return absolute(path).encode("utf-8", "surrogateescape").decode("latin-1")


def _path(key: str) -> str:
    return key.encode("latin-1").decode("utf-8", "surrogateescape")


def _facts(text: str, pixels: bytes) -> Facts:
    width, height, sha256, told = json.loads(text)
    return Facts(width, height, sha256, GenerationInfo(**told), pixels)
