"""What an action is about to do and what it has done, on disk before it happens.

A journal is a file of JSON lines: a head, every step that is planned, the word that the plan is
whole (only then is anything touched, after an fsync), and a line per step as it is done, failed or
undone. Whatever kills a run, its journal and the disk together tell where each file is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from ..artimuse_core.errors import ArtiMuseError, UsageError
from ..artimuse_core.file_lock import lock

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Step:
    """One file to be touched."""

    number: int
    kind: str
    """copy, move, symlink, hardlink, trash, png (a copy with a text chunk) or xmp (a sidecar)."""
    source: str
    """Absolute path."""
    target: str
    """Absolute path, free when planned; empty for trash."""
    image: bool = True
    """False for a sidecar that travels along."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What is written into png and xmp."""
    before: str | None = None
    """xmp: the sidecar's text before, None where there was none."""


def new_run() -> str:
    """A name for a run, in the order of time."""
    now = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S-%f")
    return now[:-2]


class Journal:
    """The journal of one run. Make one with :meth:`create` or :meth:`read`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path.stem
        self.steps: list[Step] = []
        self.planned = False
        self.finished = False
        self.done: dict[int, dict[str, Any]] = {}
        self.failed: dict[int, str] = {}
        self.undoing: set[int] = set()
        self.undone: set[int] = set()
        self._file: IO[str] | None = None

    @classmethod
    def create(cls, folder: Path, run: str, steps: Sequence[Step]) -> Journal:
        """Write a whole plan to disk; raises ArtiMuseError where that is impossible."""
        journal = cls(folder / f"{run}.jsonl")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            journal._file = journal.path.open("x", encoding="utf-8", errors="surrogateescape")
            lock(journal._file)
            journal._append({"journal": FORMAT, "run": run})
            for step in steps:
                journal._append({"plan": asdict(step)})
            journal._append({"planned": len(steps)}, sync=True)
        except OSError as error:
            raise ArtiMuseError(
                f"cannot write the journal {journal.path}: {error.strerror or error}; "
                "nothing was touched"
            ) from error
        journal.steps, journal.planned = list(steps), True
        return journal

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read a journal; a line that a crash cut off says nothing."""
        journal = cls(path)
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                journal._take(entry)
        return journal

    def _take(self, entry: Mapping[str, Any]) -> None:
        match entry:
            case {"journal": version} if version > FORMAT:
                raise UsageError(
                    f"{self.path} has format {version}, this version reads up to {FORMAT}; "
                    "update artimuse"
                )
            case {"plan": plan}:
                self.steps.append(Step(**plan))
            case {"planned": _}:
                self.planned = True
            case {"done": number}:
                self.done[number] = dict(entry)
                self.failed.pop(number, None)
            case {"failed": number, "error": error}:
                self.failed[number] = error
            case {"undoing": number}:
                self.undoing.add(number)
            case {"undone": number}:
                self.undone.add(number)
            case {"finished": _}:
                self.finished = True

    def open(self) -> bool:
        """Take the journal for writing; False while another process holds it."""
        self._file = self.path.open("r+", encoding="utf-8", errors="surrogateescape")
        if not lock(self._file):
            self._file.close()
            self._file = None
            return False
        # A crash can leave half a line; what is appended must begin on its own.
        self._file.seek(0, os.SEEK_END)
        self._file.write("\n")
        return True

    def mark_done(self, number: int, **facts: Any) -> None:
        self.write({"done": number, **facts})

    def mark_failed(self, number: int, error: str) -> None:
        self.write({"failed": number, "error": error})

    def write(self, entry: Mapping[str, Any], *, sync: bool = False) -> None:
        """Append one entry; it survives the end of this process, with ``sync`` that of the power.

        Raises ArtiMuseError where the disk refuses: then no further file may be touched.
        """
        try:
            self._append(entry, sync=sync)
        except OSError as error:
            raise ArtiMuseError(
                f"cannot write the journal {self.path}: {error.strerror or error}; stopped before "
                "the next file, none is lost; run again when there is room"
            ) from error
        self._take(entry)

    def _append(self, entry: Mapping[str, Any], *, sync: bool = False) -> None:
        assert self._file is not None
        self._file.write(json.dumps(entry) + "\n")
        if sync or "plan" not in entry:
            self._file.flush()
        if sync:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Release the journal; safe to call twice."""
        if self._file is not None:
            with suppress(OSError):  # a full disk; what counts was flushed, or raised before
                self._file.close()
            self._file = None


def journals(folder: Path) -> Iterator[Journal]:
    """All journals of a folder, oldest first."""
    if folder.is_dir():
        for path in sorted(folder.glob("*.jsonl")):
            yield Journal.read(path)


def find(folder: Path, run: str) -> Journal:
    """The journal of a run, or of the latest one for ``last``. Raises UsageError."""
    names = sorted(path.stem for path in folder.glob("*.jsonl")) if folder.is_dir() else []
    if not names:
        raise UsageError(f"no run has touched any file (no journal in {folder})")
    if run == "last":
        run = names[-1]
    if run not in names:
        raise UsageError(f"unknown run {run!r}; the latest are {', '.join(names[-5:])}")
    return Journal.read(folder / f"{run}.jsonl")
