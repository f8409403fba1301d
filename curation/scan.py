"""Find the images in files and folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..artimuse_core.errors import UsageError
from ..artimuse_core.images import EXTENSIONS
from .sources import Source, files_below


def scan(
    roots: Iterable[Path | str], *, recursive: bool = True, may_be_empty: bool = False
) -> list[Source]:
    """All image files under ``roots``, each once, sorted by path.

    Folders, and the URLs that are strings, are searched for known image extensions (hidden ones
    are passed over); a file named outright is taken whatever its extension. Raises UsageError for
    a root that does not exist, and when there is no image at all (unless that ``may_be_empty``).
    """
    roots = list(roots)
    found: dict[str, Source] = {}
    for root in roots:
        if isinstance(root, str):
            for remote, below in files_below(root, recursive=recursive):
                if not below or _is_image(below.split("/")):
                    found.setdefault(remote.url, remote)
        elif root.is_dir():
            for path in _walk(root, recursive):
                found.setdefault(os.path.abspath(path), path)
        elif root.exists():
            found.setdefault(os.path.abspath(root), root)
        else:
            raise UsageError(f"{root} does not exist; expected a folder or an image file")
    if not found and not may_be_empty:
        names = ", ".join(str(root) for root in roots)
        deeper = "" if recursive else " (subfolders are left out: --no-recursive)"
        raise UsageError(f"no image in {names}{deeper}; known are {_known_extensions()}")
    return sorted(found.values(), key=str)


def _walk(root: Path, recursive: bool) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error

    for folder, subfolders, files in os.walk(root, onerror=refuse):
        # In place, so that os.walk does not descend: hidden folders hold thumbnails and caches.
        subfolders[:] = sorted(name for name in subfolders if recursive and name[0] != ".")
        for name in files:
            if _is_image([name]):
                yield Path(folder, name)


def _is_image(parts: Sequence[str]) -> bool:
    """By a path below the root: no part of it hidden, its extension a known one."""
    hidden = any(part.startswith(".") for part in parts)
    return not hidden and os.path.splitext(parts[-1])[1].lower() in EXTENSIONS


def _known_extensions() -> str:
    return " ".join(sorted(extension.lstrip(".") for extension in EXTENSIONS))
