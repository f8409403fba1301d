"""How a small language model learns to see whether a picture is symmetric.

Shown pictures and the word for each, it learns the pictures by heart: it never finds out that a
place is to be compared with its mirror image, though its image tokens hold what that would tell. So
the first head of its first block is taught to look there, the pictures come folded, which makes any
of them as symmetric as one likes, so that knowing a picture no longer tells the word, and what the
word stands for is asked for as a number. It takes all three.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..artimuse_core.decoder import causal_mask, rotate, split_heads
from ..artimuse_core.model import ScoringGraph
from .augment import per_image


def fold(images: Tensor) -> Tensor:
    """(B, 3, H, W) more or less symmetric, or not although it looks as if.

    Three in ten are put together from two halves, the others laid over one another, the second
    half as strong as the first at most; what lies there is a picture's own mirror image, or in four
    of ten another's.
    """

    def drawn() -> Tensor:
        return per_image(torch.rand(len(images), device=images.device))

    mirrored = torch.where(drawn() < 0.6, images, images.roll(1, 0)).flip(-1)
    strength = drawn() / 2
    middle = images.shape[-1] // 2
    halves = torch.cat([images[..., :middle], mirrored[..., middle:]], dim=-1)
    return torch.where(drawn() < 0.3, halves, images.lerp(mirrored, strength))


def mirror_loss(graph: ScoringGraph, image: Tensor, keys: Tensor) -> Tensor:
    """Cross-entropy of the first head's attention: from each place to its mirror image.

    Args:
        image: (B, tokens, LLM width), whose right half looks at the left half before it.
        keys: (B, KV heads, prefix + tokens, head dim) of the first block, as ``prefill_tokens``
            makes them of ``image``.
    """
    side = round(image.shape[1] ** 0.5)
    places = torch.arange(side * side, device=image.device)
    right = places[places % side >= (side + 1) // 2]
    start = keys.shape[2] - len(places)
    layer, shape = graph.decoder.layers[0], graph.shape
    queries = split_heads(layer.self_attn.q_proj(layer.input_layernorm(image)), shape.heads)
    q = rotate(queries[:, :1], *shape.rope(start + places))
    alike = q @ keys[:, :1].mT / shape.head_dim**0.5
    alike = alike.masked_fill(~causal_mask(start, len(places), image.device), float("-inf"))
    mirrored = start + right + side - 1 - 2 * (right % side)
    return -alike.log_softmax(-1)[:, 0, right, mirrored].mean()
