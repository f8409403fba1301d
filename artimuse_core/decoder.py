"""A forward pass through Qwen2's blocks over a cache of keys and values, written out.

One function serves the scoring graph, the shared image prefix and the critiques branching from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each (B or 1, kv_heads, tokens, head_dim); keys are rotated."""

Rope = tuple[Tensor, Tensor]
"""cos and sin of the positions, fp32: (T, head_dim), or (B, 1, T, head_dim)."""


TAIL = 16
"""Positions that the last block carries to the end, of which the last is wanted.

One would do, but matrix products of a single row take other kernels than those of many, and round
differently: in bf16 an image scored alone then differs from the same image in a batch.
"""


@dataclass(frozen=True)
class DecoderShape:
    """What the blocks' weights do not say themselves."""

    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float

    @classmethod
    def of(cls, text_config: Any) -> DecoderShape:
        """From transformers' configuration of the language model."""
        heads = text_config.num_attention_heads
        # transformers 5.x moved the base frequency into `rope_parameters`.
        parameters = getattr(text_config, "rope_parameters", None)
        theta = parameters["rope_theta"] if parameters else text_config.rope_theta
        return cls(
            heads=heads,
            kv_heads=text_config.num_key_value_heads,
            head_dim=getattr(text_config, "head_dim", None) or text_config.hidden_size // heads,
            rope_theta=float(theta),
        )

    def rope(self, positions: Tensor) -> Rope:
        """Rotary angles of positions (T,) or, a row for each sequence, (B, T)."""
        pairs = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=positions.device)
        frequencies = self.rope_theta ** (-pairs / self.head_dim)
        angles = positions[..., None].float() * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        if positions.ndim == 2:
            angles = angles[:, None]  # the same for all heads
        return angles.cos(), angles.sin()


def causal_mask(past: int, length: int, device: torch.device | None = None) -> Tensor:
    """(length, past + length) bool: each new token sees the past, its forerunners and itself.

    Explicit, because SDPA's ``is_causal`` aligns upper-left: wrong for fewer queries than keys.
    """
    positions = torch.arange(past + length, device=device)
    return positions[None, :] <= positions[past:, None]


def run_blocks(
    layers: Any,
    shape: DecoderShape,
    hidden: Tensor,
    past: Sequence[KeyValue],
    rope: Rope,
    mask: Tensor,
    *,
    last_only: bool = False,
    collect: list[KeyValue] | None = None,
) -> Tensor:
    """Run embeddings (B, T, width) through all blocks behind ``past``; no final norm.

    Args:
        mask: bool, (T, past + T) or (B, 1, T, past + T); True may be attended to.
        last_only: the last block computes queries and MLP for the final ``TAIL`` positions alone,
            and the answer is (B, TAIL, width), or (B, T, width) where T is smaller.
        collect: receives the new tokens' keys and values, a pair a layer.
    """
    cos, sin = rope
    groups = shape.heads // shape.kv_heads
    final = len(layers) - 1
    for index, (layer, (past_keys, past_values)) in enumerate(zip(layers, past, strict=True)):
        normed = layer.input_layernorm(hidden)
        attention = layer.self_attn
        k = rotate(split_heads(attention.k_proj(normed), shape.kv_heads), cos, sin)
        v = split_heads(attention.v_proj(normed), shape.kv_heads)
        if collect is not None:
            collect.append((k, v))
        if last_only and index == final:
            hidden, normed = hidden[:, -TAIL:], normed[:, -TAIL:]
            cos, sin, mask = (part[..., -TAIL:, :] for part in (cos, sin, mask))
        q = rotate(split_heads(attention.q_proj(normed), shape.heads), cos, sin)
        k, v = join((past_keys, past_values), (k, v))
        # Repeated, so that each query head has a key head of its own.
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        hidden = hidden + attention.o_proj(merge_heads(mixed))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return hidden


def join(past: KeyValue, new: KeyValue) -> KeyValue:
    """Append new keys and values to cached ones, which may be shared by the whole batch."""
    keys, values = (
        torch.cat([old.expand(fresh.shape[0], -1, -1, -1), fresh], dim=2)
        for old, fresh in zip(past, new, strict=True)
    )
    return keys, values


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, width) → (B, heads, T, head_dim)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, T, head_dim) → (B, T, width)."""
    return x.transpose(1, 2).flatten(2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, half-split layout."""
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat([-second, first], dim=-1)
    return x * cos.to(x.dtype) + rotated * sin.to(x.dtype)
