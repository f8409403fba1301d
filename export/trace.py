"""The scoring graph as an ONNX graph in memory, its weights still where torch has them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..artimuse_core.model import ScoringGraph

OPSETS = (18, 20, 21, 22, 23, 24)
"""What was tried, and gives the same scores."""
OPSET = 20
"""Measured in docs/decisions/0020."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TRACED_IN = DTYPES | {"int8": torch.float32, "int4": torch.float32, "fp8": torch.float16}
"""By precision: what the graph computes in before anything is quantized."""


class _Scorer(nn.Module):
    """fp32 pixels in, fp32 answers out, whatever the weights are."""

    def __init__(self, graph: ScoringGraph) -> None:
        super().__init__()
        self.scoring = graph  # `graph` is a name torch.fx keeps for itself

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        dtype = self.scoring.score_head.dtype
        return self.scoring.score_and_embed(pixel_values.to(dtype))


def trace_scorer(graph: ScoringGraph, *, batch: int = 0, opset: int = OPSET) -> ir.Model:
    """``pixel_values`` (B,3,S,S) → ``score_logits`` (B,K), ``embedding`` (B,W), all fp32.

    ``graph`` is frozen and of the dtype that the artifact computes in; ``batch`` 0 leaves B open.
    """
    size = graph.input_size
    dynamic = {"pixel_values": {0: torch.export.Dim("batch", min=1)}} if not batch else None
    return trace(
        _Scorer(graph),
        (torch.zeros(batch or 2, 3, size, size, device=graph.score_head.device),),
        ["pixel_values"],
        ["score_logits", "embedding"],
        dynamic,
        opset,
    )


def trace(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: dict[str, Any] | None,
    opset: int,
) -> ir.Model:
    """Any module as ONNX, without the exporter's traces of whoever ran it."""
    for chatty in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(chatty).setLevel(logging.ERROR)  # of packages for other models
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        warnings.filterwarnings("ignore", ".*axis name.*will not be used", UserWarning)
        program = torch.onnx.export(
            module.eval(),
            example,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=dynamic_shapes,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for output in node.outputs:
            output.metadata_props.clear()
    return model
