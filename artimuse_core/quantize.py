"""Weights in 8 or 4 bits for cards that the bf16 model does not fit, through bitsandbytes.

Only the linear layers of the blocks: embeddings, norms, projector and the score head stay as they
are. A large model is compute-bound, so this saves memory, not time.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from .errors import MissingExtraError, UsageError

QUANTIZATIONS = ("none", "int8", "nf4")

_SIDE = 64
"""bitsandbytes' kernels want both sides in multiples of this; other layers stay as they are."""


def quantize_blocks(blocks: nn.Module, kind: str, device: torch.device) -> None:
    """Replace every linear layer below ``blocks`` in place, moving each to ``device``.

    Args:
        kind: ``int8`` (LLM.int8(), outliers in 16 bits) or ``nf4`` (4-bit, groups of 64).
    """
    for parent in list(blocks.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and not any(side % _SIDE for side in layer.weight.shape):
                setattr(parent, name, _quantized(layer, kind, device))


def _quantized(layer: nn.Linear, kind: str, device: torch.device) -> nn.Module:
    try:
        import bitsandbytes as bnb
    except ImportError as error:
        raise MissingExtraError("bitsandbytes", "quantize") from error
    # It warns of fp32 inputs for every layer of every batch.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    sizes: tuple[int, int] = (layer.in_features, layer.out_features)
    weight, has_bias = layer.weight.data, layer.bias is not None
    replacement: Any
    if kind == "int8":
        replacement = bnb.nn.Linear8bitLt(*sizes, bias=has_bias, has_fp16_weights=False)
        replacement.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    elif kind == "nf4":
        replacement = bnb.nn.Linear4bit(
            *sizes, bias=has_bias, compute_dtype=weight.dtype, quant_type="nf4"
        )
        replacement.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
    else:
        raise UsageError(f"unknown quantization {kind!r}; known: {', '.join(QUANTIZATIONS)}")
    replacement.bias = layer.bias
    moved: nn.Module = replacement.to(device).eval()  # this is when it quantizes
    return moved
