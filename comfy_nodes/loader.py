"""The node "ArtiMuse Loader"."""

from __future__ import annotations

from comfy_api.latest import io

from ..artimuse_core.engines import DEVICES, DTYPES
from . import models

ArtiMuseModel = io.Custom("ARTIMUSE_MODEL")


class ArtiMuseLoader(io.ComfyNode):
    """Model name, device and dtype → a scorer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ArtiMuseLoader",
            display_name="ArtiMuse Loader",
            category="ArtiMuse",
            description="Loads a model that scores image aesthetics from 0 to 100.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=models.model_names(),
                    default="nano",
                    tooltip="nano is embedded; others are folders in models/artimuse.",
                ),
                io.Combo.Input("device", options=list(DEVICES), default="auto", optional=True),
                io.Combo.Input("dtype", options=list(DTYPES), default="auto", optional=True),
            ],
            outputs=[ArtiMuseModel.Output("artimuse_model", display_name="model")],
        )

    @classmethod
    def execute(cls, model: str, device: str = "auto", dtype: str = "auto") -> io.NodeOutput:
        return io.NodeOutput(models.load(model, device, dtype))
