"""ComfyUI nodes: thin wrappers over ``artimuse_core``, V3 schema. Imported by ComfyUI only."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .best import ArtiMuseBestOfN
from .critique import ArtiMuseCritique
from .gate import ArtiMuseGate
from .loader import ArtiMuseLoader
from .plot import ArtiMuseScorePlot
from .save import ArtiMuseSaveImage
from .score import ArtiMuseScore
from .selection import ArtiMuseSelect


class ArtiMuseExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            ArtiMuseLoader,
            ArtiMuseScore,
            ArtiMuseCritique,
            ArtiMuseSelect,
            ArtiMuseGate,
            ArtiMuseSaveImage,
            ArtiMuseScorePlot,
            ArtiMuseBestOfN,
        ]
