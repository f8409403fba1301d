"""What nano's tower reads and what it makes of it, while it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..artimuse_core.model import ScoringGraph
from .augment import resize

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Summary = Callable[[Tensor], Tensor]
"""(B, places, 4 · vision width) image tokens → (B, D) what heads and judges look at."""


class Normalise(nn.Module):
    """(B, 3, S, S) in 0..1 → the model's pixel_values."""

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("shift", (-mean / std)[:, None, None])
        self.register_buffer("scale", (1 / std)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        normalised: Tensor = torch.addcmul(self.shift, pixels, self.scale)  # one pass
        return normalised


def image_tokens(graph: ScoringGraph, pixel_values: Tensor) -> Tensor:
    """What the projector reads: (B, 3, S, S) → (B, places, 4 · vision width)."""
    return graph.unshuffle(graph.image_features(pixel_values))


def mean_token(tokens: Tensor) -> Tensor:
    """(B, places, width) → (B, width) fp32."""
    return tokens.float().mean(1)


@torch.no_grad()
def see_both_ways(
    graph: ScoringGraph,
    images: Tensor,
    summary: Summary,
    rows: Tensor | None = None,
    batch: int = 32,
) -> Tensor:
    """(N, 3, H, W) uint8 → (N, D): of each picture and its mirror image together.

    Args:
        rows: (R,) of ``images``, to look at these alone: a copy of them could fill the memory.
    """
    rows = torch.arange(len(images)) if rows is None else rows
    seen = []
    for some in rows.to(images.device).split(batch):
        pixels = images[some].float() / 255
        seen.append((summary(see(graph, pixels)) + summary(see(graph, pixels.flip(-1)))) / 2)
    return torch.cat(seen)


@torch.no_grad()
def see(graph: ScoringGraph, pixels: Tensor) -> Tensor:
    """(B, 3, H, W) in 0..1, of any size → (B, places, 4 · vision width): the image tokens."""
    device = graph.projector.layer_norm.weight.device
    pixel_values = Normalise().to(device)(resize(pixels.to(device), graph.input_size))
    return image_tokens(graph, pixel_values)


@torch.no_grad()
def predict(model: nn.Module, pixels: Iterable[Tensor], device: torch.device) -> Tensor:
    """Batches of (b, 3, S, S) uint8 → (n, K) fp32 logits on the CPU, computed in fp32."""
    normalise = Normalise().to(device)
    logits = [model(normalise(batch.to(device).float() / 255)).cpu() for batch in pixels]
    return torch.cat(logits)
