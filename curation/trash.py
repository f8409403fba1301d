"""The system's trash: send2trash puts files there, and what it put there can come back."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import unquote

from ..artimuse_core.errors import ArtiMuseError, MissingExtraError
from . import files


def check() -> None:
    """Raise MissingExtraError where send2trash is not installed."""
    try:
        import send2trash  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("send2trash", "curate") from error


def send(path: Path) -> str:
    """Put a file into the trash; returns where it lies now, empty where the system does not say."""
    import send2trash

    if not path.is_file():
        raise FileNotFoundError(2, "the file is gone")
    send2trash.send2trash(str(path))
    return find(path)


def find(path: Path) -> str:
    """Where a trashed file lies, on systems with the freedesktop trash; else an empty string."""
    for place in _places(path):  # mostly it keeps its name; a large trash is slow to search
        info = place / "info" / f"{path.name}.trashinfo"
        trashed = place / "files" / path.name
        if info.is_file() and trashed.exists() and _original(info) == str(path):
            return str(trashed)
    newest: tuple[float, Path] | None = None
    for info in (i for place in _places(path) for i in (place / "info").glob("*.trashinfo")):
        if _original(info) == str(path):
            trashed = info.parent.parent / "files" / info.name.removesuffix(".trashinfo")
            if trashed.exists():
                newest = max(newest or (0.0, trashed), (info.stat().st_mtime, trashed))
    return str(newest[1]) if newest else ""


def restore(path: Path, where: str) -> None:
    """Bring a trashed file back to ``path``. Raises ArtiMuseError where this cannot be done."""
    where = where or find(path)
    if not where:
        system = {"win32": "the Recycle Bin", "darwin": "the Trash"}.get(sys.platform, "the trash")
        raise ArtiMuseError(f"restore it from {system} by hand")
    trashed = Path(where)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.move(trashed, path)
    info = trashed.parent.parent / "info" / (trashed.name + ".trashinfo")
    info.unlink(missing_ok=True)


def _places(path: Path) -> list[Path]:
    """The home trash and the trash of the disk a path lies on."""
    if sys.platform in ("win32", "darwin"):
        return []
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    places = [Path(home) / "Trash"]
    top = path.parent
    while not os.path.ismount(top):
        top = top.parent
    return [*places, top / ".Trash" / str(os.getuid()), top / f".Trash-{os.getuid()}"]


def _original(info: Path) -> str:
    """The path that a trash entry names; those on other disks are relative to the disk's top."""
    for line in info.read_text("utf-8", "replace").splitlines():
        if line.startswith("Path="):
            path = Path(unquote(line[5:]))
            if path.is_absolute():
                return str(path)
            trash = info.parent.parent
            top = trash.parent.parent if trash.parent.name == ".Trash" else trash.parent
            return str(top / path)
    return ""
