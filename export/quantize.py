"""An fp32 graph with fewer bits a weight, by onnxruntime's own tools."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

QUANTIZED = ("int8", "int4")
BLOCK_PRODUCTS = 6
"""Matrix products of a vision block: query, key, value, their projection, and two of the MLP."""
BLOCK = 32
"""Weights that share a scale in int4. Smaller is more exact; 32 is the least there is."""


def quantize(stored: Path, precision: str, work: Path, *, external: bool) -> ir.Model:
    """The graph in ``stored`` with int8 or int4 weights; inputs and outputs stay fp32.

    int8 quantizes activations too, as the CPU computes with them, all but those of the first vision
    block: what comes straight from the pixels has outliers, and a scale made for them drowns the
    rest (nano: 10 score points at most with that block quantized). int4 is weight-only. ``work`` is
    a directory for files the answer may read from; ``external`` where the weights exceed one.
    """
    with _root_logger_kept():
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    if precision == "int8":
        path = work / "int8.onnx"
        quantize_dynamic(
            stored, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
            weight_type=QuantType.QInt8, use_external_data_format=external,
            nodes_to_exclude=_first_block(stored),
        )  # fmt: skip
        model: ir.Model = ir.load(path)
        return model
    if precision == "int4":
        quantizer = MatMulNBitsQuantizer(
            onnx.load(stored), bits=4, block_size=BLOCK, is_symmetric=False
        )
        quantizer.process()
        model = ir.from_proto(quantizer.model.model)
        return model
    raise ValueError(f"unknown precision {precision!r}; known: {', '.join(QUANTIZED)}")


def _first_block(stored: Path) -> list[str]:
    """Names of the matrix products with the first vision block's weights."""
    graph = onnx.load(stored, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    products = [
        node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and weights.intersection(node.input)
    ]
    return products[:BLOCK_PRODUCTS]


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """onnxruntime.quantization turns everybody's logging up when it is imported."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
        logging.getLogger("onnxruntime.quantization").setLevel(logging.WARNING)
