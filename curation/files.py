"""Single files, each touched so that no moment leaves it lost, doubled or overwritten.

A new name is first taken by creating it empty (which fails where it exists), then replaced in one
step by the finished file. Until that step the file is at its old place, from it on at its new one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

from ..artimuse_core.errors import ArtiMuseError

PARTIAL = ".artimuse-partial"
"""Ending of files that are still being written."""
_CHUNK = 1 << 20


class ChangedError(ArtiMuseError):
    """A file is not what it was when it was journalled; it is left alone."""


def partial_of(target: Path) -> Path:
    return target.with_name(f".{target.name}{PARTIAL}")


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def same_content(first: Path, second: Path) -> bool:
    """Whether both are regular files of equal bytes."""
    if not (first.is_file() and second.is_file()):
        return False
    if first.stat().st_size != second.stat().st_size:
        return False
    return sha256_of(first) == sha256_of(second)


def copy(source: Path, target: Path) -> str:
    """Copy to a free name, verify by reading back, and return the SHA-256. Times are kept."""
    _take_name(target)
    try:
        return _fill(source, target)
    except BaseException:
        _drop_name(target)
        raise


def create(target: Path, data: bytes, *, like: Path) -> str:
    """Write new content to a free name, with the times of ``like``; returns the SHA-256."""
    _take_name(target)
    try:
        write_over(target, data)
        shutil.copystat(like, target)
    except BaseException:
        _drop_name(target)
        raise
    return hashlib.sha256(data).hexdigest()


def write_over(target: Path, data: bytes) -> None:
    """Replace a file's content in one step."""
    partial = partial_of(target)
    try:
        partial.write_bytes(data)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def move(source: Path, target: Path) -> None:
    """Move to a free name, also across file systems."""
    if not source.is_file():  # before a name is taken for it
        raise FileNotFoundError(errno.ENOENT, "the file is gone", str(source))
    _take_name(target)
    try:
        try:
            source.replace(target)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        _fill(source, target, sync=True)
    except BaseException:
        _drop_name(target)
        raise
    source.unlink()


def sweep(source: Path, target: Path) -> None:
    """Remove what a killed :func:`copy` or :func:`move` left: a partial file, an empty name."""
    partial_of(target).unlink(missing_ok=True)
    if source.is_file() and source.stat().st_size > 0:
        _drop_name(target)


def _take_name(target: Path) -> None:
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def _drop_name(target: Path) -> None:
    try:
        if target.stat().st_size == 0 and not target.is_symlink():
            target.unlink()
    except FileNotFoundError:
        pass


def _fill(source: Path, target: Path, *, sync: bool = False) -> str:
    """Copy the content to a name already taken; ``sync``: and wait until it is on the disk."""
    partial = partial_of(target)
    digest = hashlib.sha256()
    try:
        with source.open("rb") as reading, partial.open("wb") as writing:
            while chunk := reading.read(_CHUNK):
                digest.update(chunk)
                writing.write(chunk)
            if sync:
                writing.flush()
                os.fsync(writing.fileno())
        if sha256_of(partial) != digest.hexdigest():
            raise OSError(errno.EIO, "the copy differs from its source")
        shutil.copystat(source, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return digest.hexdigest()
