"""What is done with a selection. The sources are only ever read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..artimuse_core.errors import UsageError


def check_target(target: Path, roots: Sequence[Path]) -> None:
    """Refuse a target that is, or lies in, a scanned folder: the next run would rank the copies."""
    resolved = target.resolve()
    for root in roots:
        if root.is_dir() and resolved.is_relative_to(root.resolve()):
            raise UsageError(f"--copy-to {target} lies in {root}; choose a folder outside of it")
    if target.exists() and not target.is_dir():
        raise UsageError(f"--copy-to {target} is a file; expected a folder")


def copy_files(sources: Iterable[Path], target: Path) -> tuple[list[Path], list[str]]:
    """Copy files into ``target`` and return the copies and one line for each that failed.

    Times are kept. An equal file already there is left as it is; a different file of the same name
    is never overwritten, the copy is called ``name-2.png`` instead.
    """
    copies, failures = [], []
    for source in sources:
        try:
            target.mkdir(parents=True, exist_ok=True)
            copies.append(_copy(source, target))
        except OSError as error:
            failures.append(f"{source}: not copied: {error.strerror or error}")
    return copies, failures


def _copy(source: Path, target: Path) -> Path:
    attempt = 1
    while True:
        suffix = "" if attempt == 1 else f"-{attempt}"
        destination = target / f"{source.stem}{suffix}{source.suffix}"
        if not os.path.lexists(destination):
            break
        if _same_content(source, destination):
            return destination
        attempt += 1
    partial = target / f".{destination.name}.partial"
    try:
        shutil.copy2(source, partial)
        os.link(partial, destination)  # unlike a rename, fails if somebody took the name meanwhile
    except (NotImplementedError, PermissionError):
        os.replace(partial, destination)  # a file system without hard links
    finally:
        partial.unlink(missing_ok=True)
    return destination


def _same_content(first: Path, second: Path) -> bool:
    if not second.is_file() or first.stat().st_size != second.stat().st_size:
        return False
    with first.open("rb") as a, second.open("rb") as b:
        while chunk := a.read(1 << 20):
            if chunk != b.read(1 << 20):
                return False
    return True
