"""The patch embedding in whole numbers: pixels have 8 bits, so nothing of them need be rounded.

Where patches are large and the model is small, most of the time on a CPU goes into multiplying
pixels with patch filters (nano: two fifths). Instructions for 8-bit products do that several times
as fast as for fp32. The pixels are whole numbers before they are normalised, and become so again
exactly; a filter is the sum of three 7-bit tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..artimuse_core.errors import ModelError
from ..artimuse_core.preprocess import IMAGENET_MEAN, IMAGENET_STD

SAID = "pixels and patch filters in whole numbers"
"""What a manifest says of such a graph."""
TABLES = 3
"""Filters answer small differences of large numbers: with two tables nano's scores are up to 0.02
points off, with three 0.0003."""
LARGEST = 63
"""Of a table's entries. CPUs without 8-bit dot products add two products in 16 bits, which
2 · 255 · 64 just fits."""
MIDDLE = 128
"""Grey: pixels are multiplied as differences from it, which are small."""

Doubles = npt.NDArray[np.float64]


def embed_whole_pixels(model: ir.Model) -> ir.Model:
    """Replace the patch embedding's convolution in an fp32 graph of ``pixel_values``, in place.

    Input that is not of 8-bit pixels is rounded to such. Raises ModelError where the graph has no
    convolution without overlap over its pixels.
    """
    graph = model.graph
    convolution = next((node for node in graph if node.op_type == "Conv"), None)
    if convolution is None or convolution.inputs[0] not in graph.inputs:
        raise ModelError("this graph has no patch embedding over its pixels")
    pixels, weight, bias = (*convolution.inputs, None)[:3]  # a bias of zeros is left out
    assert pixels is not None
    assert pixels.shape is not None
    assert weight is not None
    assert weight.const_value is not None
    filters = weight.const_value.numpy().astype(np.float64)  # (F, 3, p, p), for normalised pixels
    count, channels, patch, _ = filters.shape
    if list(convolution.attributes["strides"].as_ints()) != [patch, patch]:
        raise ModelError("this graph's patches overlap; they can't be cut out of the pixels")
    size = pixels.shape[-1]
    assert isinstance(size, int)
    side = size // patch
    std = 255 * np.array(IMAGENET_STD, np.float64)[:, None, None]
    mean = 255 * np.array(IMAGENET_MEAN, np.float64)[:, None, None]
    filters /= std
    tables, steps = in_tables(filters)
    dark = (filters * (MIDDLE - mean)).sum((1, 2, 3))  # what grey answers

    write = _Writer(graph, convolution, "whole_pixels")
    lifted = write("Add", [pixels, write.constant("shift", (mean / std).astype(np.float32))])
    whole = write(
        "QuantizeLinear",
        [
            lifted,
            write.constant("step", (1 / std).astype(np.float32).ravel()),
            write.constant("black", np.zeros(channels, np.uint8)),
        ],
        {"axis": 1},
    )
    cut = write("Reshape", [whole, write.shape("cut", -1, channels, side, patch, side, patch)])
    cut = write("Transpose", [cut], {"perm": [0, 2, 4, 1, 3, 5]})
    rows = write("Reshape", [cut, write.shape("rows", -1, side**2, channels * patch**2)])
    columns = np.ascontiguousarray(tables.reshape(TABLES * count, -1).T)
    products = write(
        "MatMulInteger",
        [
            rows,
            write.constant("tables", columns),
            write.constant("grey", np.array(MIDDLE, np.uint8)),
        ],
    )
    products = write("Cast", [products], {"to": ir.DataType.FLOAT.value})
    scaled = write("Mul", [products, write.constant("steps", steps.ravel().astype(np.float32))])
    each = write("Reshape", [scaled, write.shape("each", 0, 0, TABLES, count)])
    answers = write("ReduceSum", [each, write.shape("tables_axis", 2)], {"keepdims": 0})
    answers = write("Add", [answers, write.constant("dark", dark.astype(np.float32))])
    if bias is not None:
        answers = write("Add", [answers, bias])
    answers = write("Transpose", [answers], {"perm": [0, 2, 1]})
    answers = write("Reshape", [answers, write.shape("squares", 0, count, side, side)])
    answers.shape, answers.type = convolution.outputs[0].shape, convolution.outputs[0].type
    ir.convenience.replace_all_uses_with(convolution.outputs[0], answers)
    graph.remove(convolution, safe=True)
    if not weight.uses():
        del graph.initializers[str(weight.name)]
    return model


def in_tables(filters: Doubles) -> tuple[npt.NDArray[np.int8], Doubles]:
    """(F, C, p, p) filters → (TABLES, F, C, p, p) numbers up to ``LARGEST``, and (TABLES, F) steps.

    The tables times their steps add up to the filters, each being what those before it leave. What
    the last would round off is handed on to the next pixel, so that it cancels over a plane.
    """
    planes = filters.reshape(*filters.shape[:2], -1)
    step = np.abs(planes).max((1, 2)).clip(np.finfo(np.float32).tiny) / LARGEST
    tables, steps = [], []
    for last in (*[False] * (TABLES - 1), True):
        left = planes / step[:, None, None]
        sums = left.cumsum(2).round()
        table = np.diff(sums, axis=2, prepend=0) if last else left.round()
        tables.append(table.astype(np.int8).reshape(filters.shape))
        steps.append(step)
        planes = planes - table * step[:, None, None]
        step = step / (2 * (LARGEST - 1))  # half a step at most is left, and one is handed on
    return np.stack(tables), np.stack(steps)


class _Writer:
    """Adds operators in front of a node, and their constants to its graph."""

    def __init__(self, graph: ir.Graph, before: ir.Node, prefix: str) -> None:
        self.graph, self.before, self.prefix = graph, before, prefix

    def __call__(
        self, op: str, inputs: Sequence[ir.Value], attributes: Mapping[str, Any] | None = None
    ) -> ir.Value:
        node = ir.node(op, inputs, attributes or {})
        self.graph.insert_before(self.before, node)
        return node.outputs[0]

    def constant(self, name: str, values: npt.NDArray[Any]) -> ir.Value:
        tensor = ir.tensor(values, name=f"{self.prefix}.{name}")
        value = ir.val(tensor.name, const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def shape(self, name: str, *sizes: int) -> ir.Value:
        return self.constant(name, np.array(sizes, np.int64))
