"""What a tower sees in a picture, wherever it is: statistics of its tokens over all patches."""

from __future__ import annotations

import torch
from torch import Tensor

_JOINED = 4
"""Patches that pixel unshuffle joins to a token."""
_LEAST = 1e-4
"""Spread below which a channel is as good as constant."""


class TokenStatistics:
    """(B, places, 4 · width) image tokens → (B, D) fp32.

    Of each channel the mean over all 4 · places patches, then the logarithm of the spread over
    them, then how the ``directions`` first principal components vary together, whitened:
    D = 2 · width + directions · (directions + 1) / 2.

    Args:
        known: (N, places, 4 · width) tokens of some pictures, which tell the components.
        directions: at most ``width``.
    """

    def __init__(self, known: Tensor, directions: int) -> None:
        patches = _patches(known)
        self.width = patches.shape[-1]
        values, vectors = torch.linalg.eigh(torch.cov(patches.flatten(0, 1).T).double())
        first = values[-directions:].clamp_min(_LEAST**2).rsqrt() * vectors[:, -directions:]
        self.whitening = first.float()
        self.rows, self.columns = torch.triu_indices(directions, directions, device=known.device)

    def __call__(self, tokens: Tensor) -> Tensor:
        patches = _patches(tokens)
        mean = patches.mean(1)
        spread = patches.std(1).clamp_min(_LEAST).log()
        components = (patches - mean[:, None]) @ self.whitening
        together = components.transpose(1, 2) @ components / (patches.shape[1] - 1)
        return torch.cat([mean, spread, together[:, self.rows, self.columns]], dim=1)

    def means(self, statistics: Tensor) -> Tensor:
        """(..., D) → (..., width): the channels' means alone."""
        return statistics[..., : self.width]

    def emphasis(self, mean: float, spread: float, together: float) -> Tensor:
        """(D,) by how much a regression counts each number, 1 on average.

        See :class:`.kernel.KernelRegression`; each argument is what a number of its part counts.
        """
        sizes = torch.tensor([self.width, self.width, len(self.rows)])
        parts = torch.tensor([mean, spread, together], dtype=torch.float32)
        numbers = parts.repeat_interleave(sizes)
        return numbers / numbers.mean()


def _patches(tokens: Tensor) -> Tensor:
    """(B, places, 4 · width) → (B, 4 · places, width) fp32, in no order that matters."""
    return tokens.float().unflatten(-1, (_JOINED, -1)).flatten(1, 2)
