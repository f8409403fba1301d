"""Fewer bits a weight: int8 and int4 by onnxruntime's own tools, fp8 by :mod:`.fp8`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx
import onnx_ir as ir

from .fp8 import quantize_fp8
from .products import first_block, weighted_products

PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}
"""Metadata by which onnxruntime's quantizer knows that shapes are inferred, as the exporter does;
without it, it advises everybody to do so."""
BLOCK = 32
"""Weights that share a scale where weights alone are quantized. Smaller is more exact; 32 is the
least there is."""


@dataclass(frozen=True)
class Staged:
    """A graph on disk that is to be quantized."""

    path: Path
    """Its directory is scratch space; what is made there may be read from until it is stored."""
    external: bool
    """Whether its weights exceed one file."""
    device: str = "cpu"
    """Where the ranges of its activations are measured, for fp8."""


@dataclass(frozen=True)
class Way:
    """One way to make a precision."""

    quantization: str
    """What is kept in how many bits, in words."""
    make: Callable[[Staged], ir.Model]


def _int8_activations(staged: Staged) -> ir.Model:
    with _root_logger_kept():
        from onnxruntime.quantization import QuantType, quantize_dynamic
    made = staged.path.with_name("int8.onnx")
    quantize_dynamic(
        staged.path, made, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
        weight_type=QuantType.QInt8, use_external_data_format=staged.external,
        nodes_to_exclude=first_block(ir.load(staged.path)),
    )  # fmt: skip
    model: ir.Model = ir.load(made)
    return model


def _weights_alone(staged: Staged, bits: int, share: float = 1.0) -> ir.Model:
    """``share`` of the products, the last ones, in ``bits`` a weight, and those before in 8.

    What is rounded off early is carried through every block that follows.
    """
    with _root_logger_kept():
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            DefaultWeightOnlyQuantConfig,
            MatMulNBitsQuantizer,
        )
    products = [
        node.name
        for node in weighted_products(ir.load(staged.path))
        if node.op_type == "MatMul"  # the quantizer takes no other
    ]
    exact = products[: len(products) - round(share * len(products))]
    model = onnx.load(staged.path)
    for width, left in ((bits, exact), (8, [])):  # the second finds what the first has left
        config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=False, bits=width)
        quantizer = MatMulNBitsQuantizer(model, nodes_to_exclude=left, algo_config=config)
        quantizer.process()
        model = quantizer.model.model
    made: ir.Model = ir.from_proto(model)
    return made


def _fp8(staged: Staged) -> ir.Model:
    return quantize_fp8(staged.path, staged.device)


WAYS: dict[str, tuple[Way, ...]] = {
    "int8": (
        Way("weights and activations in int8, the first vision block in fp32", _int8_activations),
        Way("weights in int8, activations in fp32", partial(_weights_alone, bits=8)),
    ),
    "int4": (
        Way("weights in int4, activations in fp32", partial(_weights_alone, bits=4)),
        *(
            Way(
                f"weights of the last {share:.0%} of the products in int4, of the others in int8, "
                "activations in fp32",
                partial(_weights_alone, bits=4, share=share),
            )
            for share in (0.75, 0.5, 0.25, 0.125)
        ),
    ),
    "fp8": (Way("weights and activations in fp8, the first vision block in fp16", _fp8),),
}
"""By precision, the fastest first; the next is for models that do not keep their ranking with it.
Inputs and outputs of the graph stay fp32."""


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
