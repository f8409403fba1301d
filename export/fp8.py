"""fp8 as TensorRT takes it: an fp16 graph with E4M3 weights and the scales written into it.

TensorRT quantizes where the graph says so, by QuantizeLinear and DequantizeLinear with one scale a
tensor and no offset (its "explicit quantization"). onnxruntime's CPU provider computes the same
graph, which is how it is verified without a GPU. onnxruntime's own quantizer chooses fp8 scales by
a tensor's standard deviation and cuts off what lies beyond; activations of transformers have
outliers that must not be, so a scale here is that of the largest value.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ..artimuse_core import providers
from ..artimuse_core.engines import onnx_session, onnxruntime_providers
from ..artimuse_core.pictures import render_pictures
from ..artimuse_core.preprocess import preprocess_batch
from .products import quantized_products

LARGEST = 448.0
"""Of E4M3."""
CALIBRATION = 64
"""Pictures that the ranges of activations are measured on, none of which is verified on."""
_SEED = 1
_FP8 = ir.DataType.FLOAT8E4M3FN


def quantize_fp8(stored: Path, device: str = "cpu") -> ir.Model:
    """The fp16 graph in ``stored`` with its products in E4M3, but for the first vision block's.

    The directory of ``stored`` is scratch space, which the answer's weights are read from.
    ``device`` is where the ranges of the activations are measured.
    """
    return insert_scales(ir.load(stored), _largest(stored, device))


def insert_scales(model: ir.Model, largest: Mapping[str, float] | None = None) -> ir.Model:
    """Change an fp16 graph in place into an fp8 one; returns it.

    ``largest`` has the largest magnitude of each activation; without it they are all ``LARGEST``,
    which is enough to see what operators there are.
    """
    rounded: dict[str, ir.Value] = {}
    for node in quantized_products(model):
        activation, weight = node.inputs[:2]
        assert activation is not None
        assert weight is not None
        name = _name(activation)
        if name not in rounded:
            most = largest[name] if largest else LARGEST
            rounded[name] = _rounded(model.graph, activation, most, before=node)
        node.replace_input_with(0, rounded[name])
        node.replace_input_with(1, _in_fp8(model.graph, weight, before=node))
        if not weight.uses():
            del model.graph.initializers[_name(weight)]
    return model


def _largest(stored: Path, device: str) -> dict[str, float]:
    """The largest magnitude that what is to be rounded takes on the calibration pictures."""
    model = ir.load(stored)
    activations = {_name(node.inputs[0]): node.inputs[0] for node in quantized_products(model)}
    sizes = []
    for activation in activations.values():
        wide = ir.node("Cast", [activation], {"to": ir.DataType.FLOAT.value})
        positive = ir.node("Abs", wide.outputs)
        most = ir.node("ReduceMax", positive.outputs, {"keepdims": 0})
        most.outputs[0].type, most.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
        model.graph.extend([wide, positive, most])
        sizes.append(most.outputs[0])
    model.graph.outputs[:] = sizes
    measuring = stored.with_name("ranges.onnx")
    ir.save(model, measuring)
    asked = providers.choose(device, onnxruntime_providers())
    index = int(device.partition(":")[2] or 0)
    session = onnx_session(measuring, stored.parent, asked, index=index)
    providers.started(asked, session.get_providers(), device)
    (pixel_values,) = session.get_inputs()
    batch, *_, side = pixel_values.shape
    found = np.zeros(len(sizes), np.float32)
    for picture in render_pictures(CALIBRATION, seed=_SEED):
        pixels = preprocess_batch([picture], side).repeat(batch if isinstance(batch, int) else 1, 0)
        found = np.maximum(found, session.run(None, {pixel_values.name: pixels}))
    measuring.unlink()
    return dict(zip(activations, found.tolist(), strict=True))


def _rounded(graph: ir.Graph, activation: ir.Value, largest: float, *, before: ir.Node) -> ir.Value:
    """What E4M3 leaves of an activation; ``before`` is the first to read it."""
    scale = _scale(graph, activation, largest)
    zero = _zero(graph)
    there = ir.node("QuantizeLinear", [activation, scale, zero])
    there.outputs[0].type = ir.TensorType(_FP8)
    back = ir.node("DequantizeLinear", [there.outputs[0], scale, zero])
    back.outputs[0].type = ir.TensorType(scale.dtype) if scale.dtype else None
    graph.insert_before(before, [there, back])
    return back.outputs[0]


def _in_fp8(graph: ir.Graph, weight: ir.Value, *, before: ir.Node) -> ir.Value:
    """The weights, a quarter of fp32's size in the file, as the product reads them."""
    stored = weight.const_value
    assert stored is not None
    scale = _scale(graph, weight, float(np.abs(stored.numpy()).max()))
    assert scale.const_value is not None
    step = float(scale.const_value.numpy())

    def rounded() -> ir.TensorProtocol:
        values = np.clip(stored.numpy().astype(np.float32) / step, -LARGEST, LARGEST)
        return ir.tensor(values.astype(ml_dtypes.float8_e4m3fn), name=name)

    name = f"{_name(weight)}.fp8"
    assert weight.shape is not None
    lazy = ir.LazyTensor(rounded, _FP8, weight.shape.copy(), name=name)
    quantized = _initializer(graph, lazy)
    back = ir.node("DequantizeLinear", [quantized, scale, _zero(graph)])
    back.outputs[0].type, back.outputs[0].shape = weight.type, weight.shape
    graph.insert_before(before, back)
    return back.outputs[0]


def _scale(graph: ir.Graph, value: ir.Value, largest: float) -> ir.Value:
    """Of the value's own type, as opset 20 wants it; what it rounds to is what is used."""
    assert value.dtype is not None
    smallest = np.finfo(value.dtype.numpy()).tiny  # of a tensor of zeros as well
    scale = np.asarray(max(largest / LARGEST, float(smallest)), value.dtype.numpy())
    return _initializer(graph, ir.tensor(scale, name=f"{_name(value)}.scale"))


def _zero(graph: ir.Graph) -> ir.Value:
    """There is none, but its type says what is quantized to."""
    name = "fp8.zero"
    if name in graph.initializers:
        return graph.initializers[name]
    return _initializer(graph, ir.tensor(np.zeros((), ml_dtypes.float8_e4m3fn), name=name))


def _initializer(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.val(tensor.name, const_value=tensor)
    graph.register_initializer(value)
    return value


def _name(value: ir.Value | None) -> str:
    assert value is not None
    assert value.name
    return value.name
