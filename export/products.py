"""The matrix products of a graph with weights: which are quantized, and which stay as they are."""

from __future__ import annotations

import onnx_ir as ir

FIRST_BLOCK = 6
"""Matrix products of a vision block: query, key, value, their projection, and two of the MLP."""


def quantized_products(model: ir.Model) -> list[ir.Node]:
    """Those whose activations are quantized as well, in the graph's order: all but
    :func:`first_block`'s."""
    return weighted_products(model)[FIRST_BLOCK:]


def first_block(model: ir.Model) -> list[str]:
    """Names of the products of the first vision block, whose activations are left alone.

    What comes straight from the pixels has outliers, and a scale made for them drowns the rest
    (nano: 10 score points at most with that block in int8, half a point without).
    """
    return [str(node.name) for node in weighted_products(model)[:FIRST_BLOCK]]


def weighted_products(model: ir.Model) -> list[ir.Node]:
    """All of them, in the graph's order."""
    return [
        node
        for node in model.graph
        if node.op_type in ("MatMul", "Gemm") and any(v and v.is_initializer() for v in node.inputs)
    ]
