"""ArtiMuse: image aesthetics, scored from 0 to 100.

Importing this package loads nothing heavy; the public names below are imported when first used.
The repository's root is this package, and ComfyUI loads a clone of it under another name: all
imports inside are relative.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artimuse_core.errors import ArtiMuseError
    from .artimuse_core.results import ScoreResult
    from .artimuse_core.reward import Reward
    from .artimuse_core.scorer import Scorer

__version__ = "0.1.0"

WEB_DIRECTORY = "./comfy_nodes/web"
"""Where ComfyUI finds the nodes' script and help pages."""

_PUBLIC = {
    "ArtiMuseError": ".artimuse_core.errors",
    "Reward": ".artimuse_core.reward",
    "ScoreResult": ".artimuse_core.results",
    "Scorer": ".artimuse_core.scorer",
}

__all__ = ["ArtiMuseError", "Reward", "ScoreResult", "Scorer", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


async def comfy_entrypoint() -> Any:
    """ComfyUI's door to the nodes; imported here, so that nobody else pays for them."""
    try:
        from .comfy_nodes import ArtiMuseExtension
    except Exception:
        # ComfyUI prints one line without a traceback; leave the whole reason in its log.
        logging.getLogger(__name__).exception("ArtiMuse's nodes could not be loaded")
        raise
    return ArtiMuseExtension()
