"""An fp32 graph in fewer bits, by onnxruntime's own tools."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

PRECISIONS = ("fp32", "fp16", "int8", "int4")
BLOCK = 32
"""Weights that share a scale in int4. Smaller is more exact; 32 is the least there is."""


def reduce_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The same graph with fp16 computation, or int8 or int4 weights; inputs and outputs stay fp32.

    int8 quantizes activations too, as the CPU computes with them; int4 is weight-only.
    """
    if precision == "fp32":
        return model
    if precision == "fp16":
        converted = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
        converted.topological_sort()  # the casts of the inputs come last otherwise
        return converted.model
    if precision == "int8":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            quantize_dynamic(
                model, path, op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True, weight_type=QuantType.QInt8,
            )  # fmt: skip
            return onnx.load(path)
    if precision == "int4":
        quantizer = MatMulNBitsQuantizer(model, bits=4, block_size=BLOCK, is_symmetric=False)
        quantizer.process()
        return quantizer.model.model
    raise ValueError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
