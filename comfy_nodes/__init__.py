"""ComfyUI nodes: thin wrappers over ``artimuse_core``, V3 schema. Imported by ComfyUI only."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .loader import ArtiMuseLoader
from .score import ArtiMuseScore


class ArtiMuseExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [ArtiMuseLoader, ArtiMuseScore]
