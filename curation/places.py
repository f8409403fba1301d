"""Where curation keeps what must outlive a run."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Scores and thumbnails; may be deleted at any time. ``ARTIMUSE_CACHE`` chooses another."""
    return _folder("ARTIMUSE_CACHE", platformdirs.user_cache_path("artimuse"))


def state_folder() -> Path:
    """Journals of what was copied and moved. ``ARTIMUSE_STATE`` chooses another."""
    return _folder("ARTIMUSE_STATE", platformdirs.user_state_path("artimuse"))


def _folder(variable: str, default: Path) -> Path:
    chosen = os.environ.get(variable)
    return Path(chosen).expanduser() if chosen else default
