"""A start for the patch embedding: filters that already see frequencies and edges.

A linear map of a 32×32 patch learns slowly from two thousand pictures; drawn at random, its filters
are noise that pictures hardly excite. Half of ours start as the lowest cosine waves (composition,
colour, exposure), half as small Gabor wavelets (edges, grain, compression). Nothing is frozen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .augment import cosine_basis

# Luma and two colour differences: pictures vary along these nearly independently.
_CHANNELS = torch.tensor([[1.0, 1.0, 1.0], [1.0, -0.5, -0.5], [0.0, 1.0, -1.0]])
_CHANNELS = _CHANNELS / _CHANNELS.norm(dim=1, keepdim=True)


def patch_filters(count: int, patch: int, generator: torch.Generator) -> Tensor:
    """(count, 3, patch, patch), each of unit norm."""
    waves = count // 2
    filters = [_cosine(i, patch) for i in range(waves)]
    filters += [_gabor(patch, generator) for _ in range(count - waves)]
    return torch.stack(filters)


def _cosine(index: int, patch: int) -> Tensor:
    """Two luma waves for each wave of either colour difference, by rising frequency."""
    channel, place = ((0, 2 * (index // 4) + index % 4), (1 + index % 2, index // 4))[index % 4 > 1]
    order = sorted(
        ((u, v) for u in range(patch) for v in range(patch)),
        key=lambda wave: (wave[0] ** 2 + wave[1] ** 2, wave),
    )
    u, v = order[place]
    basis = cosine_basis(patch)
    return _CHANNELS[channel][:, None, None] * torch.outer(basis[v], basis[u])


def _gabor(patch: int, generator: torch.Generator) -> Tensor:
    """A wave of 2 to 12 pixels under a Gaussian, anywhere in the patch; mostly luma."""
    r = torch.rand(6, generator=generator).tolist()
    wavelength = 2 * 6 ** r[0]
    angle, phase = math.pi * r[1], 2 * math.pi * r[2]
    centre = [patch * (0.15 + 0.7 * part) for part in r[3:5]]
    y, x = torch.meshgrid(torch.arange(patch), torch.arange(patch), indexing="ij")
    along = (x - centre[0]) * math.cos(angle) + (y - centre[1]) * math.sin(angle)
    distance = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    width = 0.6 * wavelength + 0.5
    wave = torch.exp(-distance / (2 * width**2)) * torch.cos(
        2 * math.pi * along / wavelength + phase
    )
    wave = _CHANNELS[0 if r[5] < 0.75 else 1 + int(r[5] < 0.875)][:, None, None] * wave
    return wave / wave.norm()


def even_out(filters: Tensor, patches: Tensor, spread: float = 0.5) -> Tensor:
    """Scale each filter so that its response to ``patches (n, 3, p, p)`` varies by ``spread``.

    Pictures have far more power at low frequencies; unscaled, the fine filters would drown.
    """
    responses = patches.flatten(1) @ filters.flatten(1).T  # (n, count)
    return filters * (spread / responses.std(dim=0).clamp_min(0.02))[:, None, None, None]
