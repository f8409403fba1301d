"""Images as they arrive in folders that something is writing into."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..artimuse_core.errors import MissingExtraError, UsageError
from ..artimuse_core.images import EXTENSIONS
from .records import Record
from .scan import scan
from .sources import Stamp

SETTLED_S = 0.5
"""A file that has not changed for this long is read, in seconds."""
PATIENCE_S = 10.0
"""A file that cannot be decoded is tried again until it has not changed for this long."""


class Watcher:
    """Iterate for lists of files that have arrived and settled, until :attr:`stop` is set."""

    def __init__(self, folders: Sequence[Path | str], *, recursive: bool = True) -> None:
        here = [folder for folder in folders if isinstance(folder, Path) and folder.is_dir()]
        for folder in folders:
            if folder not in here:
                raise UsageError(f"--watch {folder}: expected a folder on this machine")
        try:
            import watchfiles  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("watchfiles", "curate") from error
        self.stop = threading.Event()
        self.known: set[str] = set()
        """Paths that need no second look unless they change."""
        self._folders = here
        self._recursive = recursive
        self._waiting: dict[Path, tuple[Stamp, float]] = {}
        """What was last seen of a file, and when it came to look so."""

    def __iter__(self) -> Iterator[list[Path]]:
        from watchfiles import Change, watch

        changes = watch(
            *self._folders,
            watch_filter=lambda change, path: change != Change.deleted and self._is_ours(path),
            recursive=self._recursive,
            stop_event=self.stop,
            debounce=200,
            step=50,
            rust_timeout=int(SETTLED_S * 500),
            yield_on_timeout=True,  # to look again at what waits
            raise_interrupt=True,
        )
        first = True
        for seen in changes:
            now = time.monotonic()
            if first:  # what came while others were scored, before anybody watched
                first = False
                for path in scan(self._folders, recursive=self._recursive, may_be_empty=True):
                    if isinstance(path, Path) and str(path) not in self.known:
                        self._note(path, now)
            for _, name in seen:
                path = self._as_given(name)
                self._note(path, now)
            ready = [path for path in list(self._waiting) if self._is_settled(path, now)]
            for path in ready:
                del self._waiting[path]
            if ready:
                yield sorted(ready, key=str)

    def follow(
        self,
        scored: Sequence[Record],
        score: Callable[[Sequence[Path]], list[Record]],
        on_record: Callable[[Record], None],
    ) -> list[Record]:
        """Score what arrives until Ctrl-C; all records, a file's latest taking the place of others.

        ``on_record`` sees each that will not come again.
        """
        records = {record.path: record for record in scored}
        self.known = set(records)
        try:
            for files in self:
                answers = score(files)
                for record in answers:
                    records[record.path] = record
                    if record.error is None or not self.wait_for_more(Path(record.path)):
                        on_record(record)
                if len(answers) < len(files):  # Ctrl-C came while they were scored
                    break
        except KeyboardInterrupt:
            pass
        return list(records.values())

    def wait_for_more(self, path: Path) -> bool:
        """Whether a file that could not be read may still be growing; if so it comes again."""
        try:
            stamp = Stamp.of(path)
        except OSError:
            return False
        if time.time() - stamp.mtime_ns / 1e9 > PATIENCE_S:
            return False
        self._waiting[path] = (stamp, time.monotonic())
        return True

    def _note(self, path: Path, now: float) -> None:
        try:
            stamp = Stamp.of(path)
        except OSError:
            self._waiting.pop(path, None)
            return
        if path not in self._waiting or self._waiting[path][0] != stamp:
            self._waiting[path] = (stamp, now)

    def _is_settled(self, path: Path, now: float) -> bool:
        self._note(path, now)
        return path in self._waiting and now - self._waiting[path][1] >= SETTLED_S

    def _is_ours(self, name: str) -> bool:
        path = self._as_given(name)
        if path.suffix.lower() not in EXTENSIONS:
            return False
        inside = next((f for f in self._folders if path.is_relative_to(f)), None)
        # As the scan does: hidden files and folders hold caches and half-written files.
        return inside is None or not any(p[0] == "." for p in path.relative_to(inside).parts)

    def _as_given(self, name: str) -> Path:
        """A path below the folder as the user wrote it, so that it equals the scan's."""
        path = Path(name)
        for folder in self._folders:
            full = Path(os.path.realpath(folder))
            if path.is_relative_to(full):
                return folder / path.relative_to(full)
        return path
