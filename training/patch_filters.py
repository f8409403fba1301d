"""A start for the tower: filters that see frequencies and edges, a first block that sees energy.

A linear map of a 32×32 patch learns slowly from two thousand pictures; drawn at random, its filters
are noise that pictures hardly excite. Ours start as the lowest cosine waves (composition, colour,
exposure) and as small Gabor wavelets (edges, grain, compression), every other one of them set down
all over the patch with random signs, whose answer tells how much of it there is anywhere. What
tells quality is how strong a wavelet's answers are, whatever their sign, so the first MLP starts as
their absolute value; and a few channels start constant, so that layer norm cannot hide a patch's
contrast. Nothing is frozen.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .augment import cosine_basis

# Luma and two colour differences: pictures vary along these nearly independently.
_CHANNELS = torch.tensor([[1.0, 1.0, 1.0], [1.0, -0.5, -0.5], [0.0, 1.0, -1.0]])
_CHANNELS = _CHANNELS / _CHANNELS.norm(dim=1, keepdim=True)


WAVES = 12
"""Channels that start as cosine waves."""
REFERENCES = 4
"""Channels that start without a filter, constant at every place."""
_REFERENCE = 4.5
"""Their size, against a spread of 0.5 in the others: most of what layer norm divides by."""


def wavelet_channels(count: int) -> range:
    """Which of ``count`` channels start as Gabor wavelets: those after waves and references."""
    return range(WAVES + REFERENCES, count)


def patch_filters(count: int, patch: int, generator: torch.Generator) -> Tensor:
    """(count, 3, patch, patch), each of unit norm; zeros for the references."""
    wavelets = wavelet_channels(count)
    filters = [_cosine(i, patch) for i in range(WAVES)]
    filters += [torch.zeros(3, patch, patch)] * REFERENCES
    filters += [_gabor(patch, generator, everywhere=i % 2 > 0) for i in wavelets]
    return torch.stack(filters)


def reference_levels(count: int) -> Tensor:
    """(count,) what to add to every place: alternating in sign, so that the mean stays."""
    levels = torch.zeros(count)
    end = wavelet_channels(count).start
    levels[end - REFERENCES : end] = _REFERENCE * (1 - 2 * (torch.arange(REFERENCES) % 2)).float()
    return levels


def absolute_values(mlp: Any, gain: float = 3.0) -> None:
    """Let a vision MLP add ``|x|`` to the wavelet channels ``x``, with the units it takes.

    Each channel takes two hidden units, GELU of ``x`` and of ``-x``; the others stay as drawn.
    """
    first, second = mlp.fc1, mlp.fc2
    channels = list(wavelet_channels(first.in_features))[: first.out_features // 2]
    for unit, channel in enumerate(channels):
        for hidden, sign in ((2 * unit, gain), (2 * unit + 1, -gain)):
            first.weight[hidden] = 0
            first.weight[hidden, channel] = sign
            first.bias[hidden] = 0
            second.weight[:, hidden] = 0
            second.weight[channel, hidden] = 1


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


def _gabor(patch: int, generator: torch.Generator, *, everywhere: bool) -> Tensor:
    """A wave of 2 to 12 pixels under a Gaussian, mostly luma: somewhere in the patch, or all over
    it, each time with a sign of its own."""
    r = torch.rand(6, generator=generator).tolist()
    wavelength = 2 * 6 ** r[0]
    width = 0.6 * wavelength + 0.5
    centre = [patch * (0.15 + 0.7 * part) for part in r[3:5]]
    centres, signs = torch.tensor([centre]), torch.ones(1)
    if everywhere:
        apart = 2 * width
        along = [torch.arange(c % apart - apart, patch + apart, apart) for c in centre]
        centres = torch.cartesian_prod(*along)
        signs = torch.randint(0, 2, (len(centres),), generator=generator) * 2.0 - 1
    places = torch.cartesian_prod(torch.arange(patch), torch.arange(patch)).float()
    offsets = places - centres[:, None]  # (centres, patch², 2) columns and rows
    angle, phase = math.pi * r[1], 2 * math.pi * r[2]
    along_wave = offsets @ torch.tensor([math.cos(angle), math.sin(angle)])
    wave = torch.exp(-offsets.square().sum(2) / (2 * width**2)) * torch.cos(
        2 * math.pi * along_wave / wavelength + phase
    )
    wave = (signs @ wave).unflatten(0, (patch, patch)).T
    wave = _CHANNELS[0 if r[5] < 0.75 else 1 + int(r[5] < 0.875)][:, None, None] * wave
    return wave / wave.norm()


def even_out(filters: Tensor, patches: Tensor, spread: float = 0.5) -> Tensor:
    """Scale each filter so that its response to ``patches (n, 3, p, p)`` varies by ``spread``.

    Pictures have far more power at low frequencies; unscaled, the fine filters would drown.
    """
    responses = patches.flatten(1) @ filters.flatten(1).T  # (n, count)
    return filters * (spread / responses.std(dim=0).clamp_min(0.02))[:, None, None, None]
