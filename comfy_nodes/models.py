"""Which models ComfyUI can offer, and the loaded ones."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import folder_paths

from ..artimuse_core.errors import UsageError
from ..artimuse_core.scorer import NANO, Scorer

FOLDER = "artimuse"
"""Name of our folder below ComfyUI's ``models``; each subfolder is one model."""


def model_folders() -> dict[str, Path]:
    """Models by name: the subfolders of every ``models/artimuse`` ComfyUI knows."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir, FOLDER)))
    found: dict[str, Path] = {}
    for root in map(Path, folder_paths.get_folder_paths(FOLDER)):
        if root.is_dir():
            for folder in sorted(path for path in root.iterdir() if path.is_dir()):
                found.setdefault(folder.name, folder)
    return found


def model_names() -> list[str]:
    return [NANO, *(name for name in model_folders() if name != NANO)]


@lru_cache(maxsize=2)
def load(name: str, device: str, dtype: str) -> Scorer:
    """A scorer by one of :func:`model_names`; kept, so that a second run does not load again.

    ComfyUI does not check a combo's value against its options, so a workflow could name any path:
    only names that are offered are looked up.
    """
    folders = model_folders()
    if name != NANO and name not in folders:
        raise UsageError(f"unknown model {name!r}; known: {', '.join(model_names())}")
    return Scorer.load(folders.get(name, NANO), device, dtype)
