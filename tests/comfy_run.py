"""Runs a node over the stand-in of ComfyUI's API, as ComfyUI would."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import torch

from . import comfy_stub
from .fakes import brightness_scorer


def nodes() -> dict[str, type]:
    import artimuse

    extension = asyncio.run(artimuse.comfy_entrypoint())
    return {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}


class Run:
    """A node's answer by output id, after checking that it has the shape its schema promises."""

    def __init__(self, node_id: str, **inputs: object) -> None:
        node = nodes()[node_id]
        schema = node.define_schema()
        node.hidden = SimpleNamespace(
            unique_id="7", prompt={"1": {}}, extra_pnginfo={"workflow": 1}
        )
        for socket in schema.inputs:
            if "default" in socket.options and not socket.options.get("force_input"):
                inputs.setdefault(socket.id, socket.options["default"])
        if schema.is_input_list:
            inputs = {k: v if isinstance(v, list) else [v] for k, v in inputs.items()}
        output = node.execute(**inputs)
        assert len(output.args) == len(schema.outputs)
        self.values = {}
        for socket, value in zip(schema.outputs, output.args, strict=True):
            if socket.options.get("is_output_list"):
                assert isinstance(value, (list, comfy_stub.ExecutionBlocker)), socket.id
            self.values[socket.id] = value
        assert all(isinstance(value, list) for value in (output.ui or {}).values())
        self.ui = output.ui

    def __getitem__(self, name: str) -> object:
        return self.values[name]

    def blocks(self, name: str) -> bool:
        return isinstance(self.values[name], comfy_stub.ExecutionBlocker)


def grey(*percents: float, size: int = 8) -> torch.Tensor:
    """ComfyUI's IMAGE: (B, H, W, C) floats in 0..1."""
    return torch.stack([torch.full((size, size, 3), percent / 100) for percent in percents])


def brightness(images: list[torch.Tensor]) -> list[int]:
    assert all(len(image) == 1 for image in images)
    return [round(float(image.mean()) * 100) for image in images]


def brightness_model():
    """An ARTIMUSE_MODEL whose score is the brightness in percent."""
    from artimuse.comfy_nodes.models import LoadedModel

    return LoadedModel(brightness_scorer(), Path())
