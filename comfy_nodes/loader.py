"""The node "ArtiMuse Loader"."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..artimuse_core.engines import DEVICES, DTYPES
from ..artimuse_core.errors import UsageError
from ..artimuse_core.quantize import QUANTIZATIONS
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
                    tooltip="nano is embedded; others are folders in models/artimuse, or published "
                    "checkpoints, downloaded on first use (16 GB; progress in ComfyUI's log).",
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
                io.Combo.Input(
                    "quantize",
                    options=list(QUANTIZATIONS),
                    default="none",
                    optional=True,
                    tooltip="Smaller weights for a checkpoint on a small card, with bitsandbytes; "
                    "they stay on the card until ComfyUI ends.",
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
        cls, model: Any = None, device: Any = None, dtype: Any = None, quantize: Any = None
    ) -> bool | str:
        if model is not None:
            try:
                models.check_name(model)
            except UsageError as error:
                return str(error)
        return validate_options(
            device=(device, DEVICES), dtype=(dtype, DTYPES), quantize=(quantize, QUANTIZATIONS)
        )

    @classmethod
    def execute(
        cls, model: str, device: str = "auto", dtype: str = "auto", quantize: str = "none"
    ) -> io.NodeOutput:
        return io.NodeOutput(models.load(model, device, dtype, quantize))
