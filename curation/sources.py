"""Where images come from: a path here, or a URL that fsspec reaches (``s3://…``, ``zip://…``).

A record's ``path`` is the text of either. Remote images are read, never touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..artimuse_core.errors import ArtiMuseError, ImageError, MissingExtraError, UsageError
from ..artimuse_core.images import one_line


@dataclass(frozen=True, slots=True)
class Stamp:
    """By which a file is taken for unchanged."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """As it is now. Raises OSError."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Remote:
    """One file on a file system of fsspec's, as its folder listed it."""

    url: str
    fs: Any = field(repr=False, compare=False)
    inside: str = field(repr=False, compare=False)
    """Its path in that file system."""
    stamp: Stamp | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.url

    def read_bytes(self) -> bytes:
        """Raises ImageError: what a remote file system may raise is beyond listing."""
        try:
            data: bytes = self.fs.cat_file(self.inside)
        except Exception as error:
            raise ImageError(f"cannot read {self.url}: {one_line(error)}") from error
        return data


Source: TypeAlias = Path | Remote


def is_remote(text: str) -> bool:
    return "://" in text


def stamp_of(source: Source) -> Stamp | None:
    """A remote file's as it was listed, None where its file system does not tell; or OSError."""
    return source.stamp if isinstance(source, Remote) else Stamp.of(source)


def place(text: str) -> Path | str:
    """What an argument names: a path, which ``file://`` is as well, or a URL."""
    if text.startswith("file://"):
        return Path(url2pathname(urlsplit(text).path))
    return text if is_remote(text) else Path(text)


def source_of(text: str) -> Source:
    """The image that a record's path names. Raises UsageError for a URL nobody can open."""
    if not is_remote(text):
        return Path(text)
    fs, inside = _file_system(text)
    return Remote(text, fs, inside)


def name_of(path: str) -> str:
    """The last part of a path or URL."""
    return path.partition("::")[0].rpartition("/")[2] if is_remote(path) else Path(path).name


def folder_of(path: str) -> str:
    """All but the last part; of a file in an archive, the folder in that archive."""
    if not is_remote(path):
        return str(Path(path).parent)
    inside, archive, rest = path.partition("::")
    return inside.rpartition("/")[0] + archive + rest


def absolute(path: str) -> str:
    """The same from any working folder."""
    return path if is_remote(path) else str(Path(path).absolute())


def files_below(url: str, *, recursive: bool) -> Iterator[tuple[Remote, str]]:
    """All files under a URL with their paths below it, empty for a file that the URL itself names.

    Raises UsageError.
    """
    fs, root = _file_system(url)
    # Of zip://folder::s3://bucket/a.zip each file's URL keeps what comes after the first link.
    chain = url.partition("::")[2]
    try:
        found = fs.find(root, maxdepth=None if recursive else 1, detail=True)
    except Exception as error:
        raise UsageError(f"cannot list {url}: {one_line(error)}") from error
    if not found:
        raise UsageError(f"{url} does not exist or is empty; expected a folder or an image file")
    for inside, told in found.items():
        full = fs.unstrip_protocol(inside) + (f"::{chain}" if chain else "")
        below = inside.removeprefix(root).lstrip("/")
        yield Remote(full, fs, inside, _stamp(fs, inside, told)), below


def put(url: str, local: Path) -> None:
    """Upload a finished file in one go. Raises ArtiMuseError with the reason."""
    fs, inside = _file_system(url)
    try:
        fs.makedirs(fs._parent(inside), exist_ok=True)
        fs.put_file(str(local), inside)
    except Exception as error:
        raise ArtiMuseError(f"cannot write {url}: {one_line(error)}") from error


def _file_system(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError("fsspec", "curate") from error
    try:
        fs, inside = fsspec.core.url_to_fs(url)
    except Exception as error:  # fsspec names the package that is missing for a protocol
        raise UsageError(f"cannot open {url}: {one_line(error)}") from error
    return fs, inside


def _stamp(fs: Any, inside: str, told: dict[str, Any]) -> Stamp | None:
    """Size and time of change as the listing gave them; None where it did not."""
    size = told.get("size")
    when = told.get("LastModified") or told.get("last_modified") or told.get("mtime")
    if when is None:
        try:
            when = fs.modified(inside)
        except Exception:  # many have no notion of it
            return None
    seconds = when.timestamp() if hasattr(when, "timestamp") else when
    if not isinstance(size, int) or not isinstance(seconds, (int, float)):
        return None
    return Stamp(size, int(seconds * 1e9))
