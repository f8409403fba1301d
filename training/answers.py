"""What was answered, on disk: a journal that a killed run is taken up from.

One JSON line for each question that ended, ``done`` with its text or ``failed`` with the reason,
appended whole and forced to disk. Of two lines about one question the later counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..artimuse_core.errors import UsageError
from ..artimuse_core.file_lock import lock

Record = dict[str, Any]


class Answers:
    """The journal of one run; open it with :meth:`appending`."""

    def __init__(self, file: Path, key_fields: Sequence[str]) -> None:
        self.file = file
        self.key_fields = tuple(key_fields)
        self.records: dict[tuple[str, ...], Record] = {}
        self._stream: IO[bytes] | None = None

    def read(self) -> dict[tuple[str, ...], Record]:
        """The latest record of each question; a last line that was cut short is not counted.

        Raises UsageError with file and line for anything else that is no record.
        """
        self.records = {}
        if not self.file.is_file():
            return self.records
        *lines, last = self.file.read_bytes().split(b"\n")
        if _is_json(last):
            lines.append(last)
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                key = tuple(str(record[name]) for name in self.key_fields)
                record["status"]
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(
                    f"{self.file}:{number}: expected an answer ({', '.join(self.key_fields)}, "
                    f"status), got {line[:60]!r}"
                ) from error
            self.records[key] = record
        return self.records

    @contextmanager
    def appending(self) -> Iterator[None]:
        """Locked, and cut back to its last whole line. Raises UsageError if another run has it."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab+") as stream:
            if not lock(stream):
                raise UsageError(f"{self.file} is being written by another run")
            stream.seek(0)
            content = stream.read()
            whole = content.rfind(b"\n") + 1
            if _is_json(content[whole:]):  # an editor left the last line without its end
                stream.write(b"\n")
                stream.flush()
            else:
                stream.truncate(whole)
            self._stream = stream
            self.read()
            try:
                yield
            finally:
                self._stream = None

    def append(self, key: tuple[str, ...], record: Record) -> None:
        assert self._stream is not None, "use appending()"
        line = json.dumps(record, ensure_ascii=False) + "\n"
        self._stream.write(line.encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.records[key] = record


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
