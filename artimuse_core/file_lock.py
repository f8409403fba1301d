"""One process at a time: a lock that goes with the process that holds it."""

from __future__ import annotations

from typing import IO, Any


def lock(file: IO[Any]) -> bool:
    """Lock an open file for as long as it is open; False if another process has it.

    The system lets go when the process dies, however it dies. The position goes back to the start.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(2**30)  # beyond the text: a locked byte there cannot be read by others
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        finally:
            file.seek(0)
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    file.seek(0)
    return True
