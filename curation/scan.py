"""Find the images in files and folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..artimuse_core.errors import UsageError
from ..artimuse_core.images import EXTENSIONS


def scan(
    roots: Iterable[Path], *, recursive: bool = True, may_be_empty: bool = False
) -> list[Path]:
    """All image files under ``roots``, each once, sorted by path.

    Folders are searched for known image extensions (hidden ones are passed over); a file named
    outright is taken whatever its extension. Raises UsageError for a root that does not exist, and
    when there is no image at all (unless that ``may_be_empty``).
    """
    roots = list(roots)
    found: dict[str, Path] = {}
    for root in roots:
        if root.is_dir():
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
            if name[0] != "." and os.path.splitext(name)[1].lower() in EXTENSIONS:
                yield Path(folder, name)


def _known_extensions() -> str:
    return " ".join(sorted(extension.lstrip(".") for extension in EXTENSIONS))
