"""Pictures drawn by code: unrated, to rank above their spoiled copies and to ask a teacher about.

Generated photographs alone would teach that anything unlike them is bad. These widen what the model
has seen: gradients, clouds, discs, stripes and polygons in random palettes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def render(count: int, size: int = 512, seed: int = 0) -> Tensor:
    """(count, 3, size, size) uint8, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.empty(count, 3, size, size, dtype=torch.uint8)
    for i in range(count):
        pictures[i] = (_picture(size, generator) * 255).round().to(torch.uint8)
    return pictures


def _picture(size: int, generator: torch.Generator) -> Tensor:
    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(uniform(1))

    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    palette = uniform(6, 3) ** between(0.5, 1.5)
    angle = between(0, math.pi)
    ramp = (x * math.cos(angle) + y * math.sin(angle)).mul(0.5).add(0.5).clamp(0, 1)
    picture = _blend(palette[0][:, None, None].expand(3, size, size), palette[1], ramp)
    if between(0, 1) < 0.7:
        picture = _blend(picture, palette[2], _clouds(size, uniform, between(0.4, 0.7)))
    for _ in range(int(between(2, 14))):
        colour = palette[int(between(2, 6))] * between(0.6, 1.0)
        cx, cy, radius = between(-1, 1), between(-1, 1), between(0.08, 0.6)
        turn, kind = between(0, 2 * math.pi), between(0, 1)
        u = (x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)
        v = (y - cy) * math.cos(turn) - (x - cx) * math.sin(turn)
        if kind < 0.4:  # disc, shaded like a ball half of the time
            distance = (u**2 + v**2).sqrt()
            if kind < 0.2:
                colour = colour * 0.6
                shade = (1 - ((u + 0.4 * radius) ** 2 + v**2).sqrt() / radius).clamp(0, 1)
                picture = _blend(picture, colour, _edge(radius - distance, size))
                inside = _edge(radius - distance, size)
                picture = picture + 0.5 * shade * inside
            else:
                picture = _blend(picture, colour, _edge(radius - distance, size))
        elif kind < 0.7:  # rectangle
            inside = torch.minimum(radius - u.abs(), radius * between(0.1, 1.0) - v.abs())
            picture = _blend(picture, colour, _edge(inside, size))
        elif kind < 0.85:  # stripes or ripples
            wave = u if kind < 0.78 else (u**2 + v**2).sqrt()
            stripes = (wave * between(10, 90)).sin()
            window = torch.exp(-(u**2 + v**2) / (2 * radius**2))
            picture = _blend(picture, colour, window * (stripes * between(1, 6)).sigmoid())
        else:  # mountain line
            ridge = 0.3 * (x * between(2, 6)).sin() + 0.1 * (x * between(8, 30)).sin() + cy
            picture = _blend(picture, colour, _edge(y - ridge, size))
    if between(0, 1) < 0.5:  # texture
        picture = picture * (1 + between(0.05, 0.3) * (_clouds(size, uniform, 0.9) - 0.5))
    return picture.clamp(0, 1)


def _blend(picture: Tensor, colour: Tensor, alpha: Tensor) -> Tensor:
    return picture * (1 - alpha) + colour[:, None, None] * alpha


def _edge(inside: Tensor, size: int) -> Tensor:
    """Signed distance (1 = half a picture) to coverage, smooth over about a pixel."""
    return (inside * size / 2 + 0.5).clamp(0, 1)


def _clouds(size: int, uniform: object, persistence: float) -> Tensor:
    """Value noise, octave upon octave, in 0..1."""
    assert callable(uniform)
    total = torch.zeros(size, size)
    weight = norm = 1.0
    cells = 4
    while cells <= size // 2:
        layer = F.interpolate(
            uniform(1, 1, cells, cells), size=(size, size), mode="bicubic", align_corners=False
        )
        total += weight * (layer[0, 0] - 0.5)
        weight, norm, cells = weight * persistence, norm + weight * persistence, cells * 2
    return (total / norm * 2.5 + 0.5).clamp(0, 1)
