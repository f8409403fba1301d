"""The node "ArtiMuse Loader"."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..artimuse_core.engines import DEVICES, DTYPES
from ..artimuse_core.errors import UsageError
from . import models
from .schema import describe, validate_options
from .scoring import ArtiMuseModel


class ArtiMuseLoader(io.ComfyNode):
    """Model name, device and dtype → a model that scores, and perhaps writes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return describe(
            node_id="ArtiMuseLoader",
            display_name="ArtiMuse Loader",
            description="Loads a model that scores image aesthetics from 0 to 100.",
            search_aliases=["aesthetic model", "checkpoint"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=models.model_names(),
                    default="nano",
                    tooltip="nano is embedded; others are folders in models/artimuse.",
                ),
                io.Combo.Input(
                    "device",
                    options=list(DEVICES),
                    default="auto",
                    optional=True,
                    tooltip="auto: where ComfyUI computes; ONNX models: a GPU if onnxruntime has "
                    "one.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    optional=True,
                    tooltip="auto: bf16 on a GPU, fp32 on the CPU; an ONNX model's is fixed.",
                ),
            ],
            outputs=[
                ArtiMuseModel.Output(
                    "artimuse_model", display_name="model", tooltip="For the other ArtiMuse nodes."
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls, model: Any = None, device: Any = None, dtype: Any = None
    ) -> bool | str:
        if model is not None:
            try:
                models.find(model)
            except UsageError as error:
                return str(error)
        return validate_options(device=(device, DEVICES), dtype=(dtype, DTYPES))

    @classmethod
    def execute(cls, model: str, device: str = "auto", dtype: str = "auto") -> io.NodeOutput:
        return io.NodeOutput(models.load(model, device, dtype))
