"""An ONNX graph on disk: in one file, or its weights in further ones, written tensor by tensor."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from ..artimuse_core.bundle import sha256

INLINE_BYTES = 1_500_000_000
"""Weights up to this lie in the graph's own file; protobuf ends at 2 GiB."""
SHARD_BYTES = 4_000_000_000
_SMALL = 1024
"""Bytes; tensors up to this stay in the graph's file in any case."""


def store(
    model: ir.Model,
    directory: Path,
    name: str,
    *,
    inline_bytes: int = INLINE_BYTES,
    shard_bytes: int = SHARD_BYTES,
    standard: bool = True,
) -> dict[str, str]:
    """Write ``directory/name`` and the data files it needs; SHA-256 by file name, the graph first.

    Tensors are read from wherever they lie (torch's memory, a file) one at a time, so that no
    second copy of the weights is ever held. ``standard``: whether it is ONNX all through, and to be
    checked to be so; onnxruntime's fusions are known to nobody else.
    """
    path = directory / name
    weights = [v.const_value for v in model.graph.initializers.values() if v.const_value]
    if sum(tensor.nbytes for tensor in weights) > inline_bytes:
        ir.external_data.unload_from_model(
            model,
            directory,
            f"{path.stem}.data",
            size_threshold_bytes=_SMALL,
            max_shard_size_bytes=shard_bytes,
        )
    else:
        ir.external_data.load_to_model(model)  # what was read from a quantizer's files
    ir.save(model, path)
    if standard:
        onnx.checker.check_model(path)
    data = sorted(
        {
            str(value.const_value.location)
            for value in model.graph.initializers.values()
            if isinstance(value.const_value, ir.ExternalTensor)
        }
    )
    return {file: sha256(directory / file) for file in (name, *data)}


def store_as_fp16(model: ir.Model) -> None:
    """Halve the file: keep fp32 weights that are exactly fp16 as fp16, and cast them back.

    onnxruntime folds the casts when it loads the graph, so the computation stays fp32 throughout.
    """
    graph = model.graph
    casts = []
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or not _fits_fp16(tensor):
            continue
        half = ir.LazyTensor(
            partial(_as_fp16, tensor),
            dtype=ir.DataType.FLOAT16,
            shape=ir.Shape(tensor.shape.numpy()),
            name=f"{name}_fp16",
        )
        stored = ir.val(half.name, const_value=half)
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT.value}, num_outputs=1)
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        del graph.initializers[name]
        cast.outputs[0].name = name
        cast.outputs[0].shape, cast.outputs[0].type = value.shape, value.type
        graph.register_initializer(stored)
        casts.append(cast)
    if casts:
        graph.insert_before(graph[0], casts)


def _fits_fp16(tensor: ir.TensorProtocol) -> bool:
    if tensor.size < 64:
        return False
    values = tensor.numpy()
    head = values.ravel()[:256]  # tells for nearly all; the rest is not converted for nothing
    return all(np.array_equal(_half(part).astype(np.float32), part) for part in (head, values))


def _as_fp16(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(_half(tensor.numpy()))


def _half(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # beyond fp16's range becomes inf, and so is not equal
        return values.astype(np.float16)
