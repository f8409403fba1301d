"""Pictures drawn by code: unrated, to rank above their spoiled copies and to ask a teacher about.

Generated photographs alone would teach that anything unlike them is bad, and that what is fine and
regular is a fault. These widen what the model has seen: gradients, clouds, discs, stripes and
polygons in random palettes, and on every other one fine patterns, from flow lines to lettering.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def render(count: int, size: int = 512, seed: int = 0) -> Tensor:
    """(count, 3, size, size) uint8, the same for the same seed."""
    canvas = Canvas(size, torch.Generator().manual_seed(seed))
    pictures = torch.empty(count, 3, size, size, dtype=torch.uint8)
    for i in range(count):
        pictures[i] = (_picture(canvas) * 255).round().to(torch.uint8)
    return pictures


class Canvas:
    """A square of -1..1 both ways, and the dice."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator
        line = torch.linspace(-1, 1, size)
        self.y, self.x = torch.meshgrid(line, line, indexing="ij")

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.uniform(1))

    def happens(self, chance: float) -> bool:
        return self.between(0, 1) < chance

    def one_of(self, choices: Sequence[Any] | Tensor) -> Any:
        return choices[int(self.between(0, len(choices)))]

    def turned(self, x: float = 0.0, y: float = 0.0) -> tuple[Tensor, Tensor]:
        """Coordinates around a point, turned at random."""
        turn = self.between(0, 2 * math.pi)
        u = (self.x - x) * math.cos(turn) + (self.y - y) * math.sin(turn)
        v = (self.y - y) * math.cos(turn) - (self.x - x) * math.sin(turn)
        return u, v

    def covered(self, inside: Tensor) -> Tensor:
        """Signed distance (1 = half a picture) to coverage, smooth over about a pixel."""
        return (inside * self.size / 2 + 0.5).clamp(0, 1)

    def clouds(self, persistence: float, cells: int = 4) -> Tensor:
        """Value noise from ``cells`` a side on, octave upon octave, in 0..1."""
        total = torch.zeros(self.size, self.size)
        weight = norm = 1.0
        while cells <= self.size // 2:
            layer = F.interpolate(
                self.uniform(1, 1, cells, cells),
                size=(self.size, self.size),
                mode="bicubic",
                align_corners=False,
            )
            total += weight * (layer[0, 0] - 0.5)
            weight, norm, cells = weight * persistence, norm + weight * persistence, cells * 2
        return (total / norm * 2.5 + 0.5).clamp(0, 1)


def _picture(canvas: Canvas) -> Tensor:
    between = canvas.between
    palette = canvas.uniform(6, 3)[..., None, None] ** between(0.5, 1.5)
    if canvas.happens(0.5):  # colours that go together
        palette = palette.lerp(palette.mean(0), between(0.2, 0.8))
    u, _ = canvas.turned()
    ground = palette[0].expand(3, canvas.size, canvas.size)
    picture = _blend(ground, palette[1], u.mul(0.5).add(0.5).clamp(0, 1))
    if canvas.happens(0.7):
        picture = _blend(picture, palette[2], canvas.clouds(between(0.4, 0.7)))
    patterned = canvas.happens(0.5)
    if patterned and canvas.happens(0.5):
        picture = _patterned(picture, palette, canvas)
    for _ in range(int(between(0, 6) if patterned else between(2, 14))):
        picture = _with_shape(picture, canvas.one_of(palette[2:]) * between(0.6, 1.0), canvas)
    if patterned:
        picture = _patterned(picture, palette, canvas)
    if canvas.happens(0.5):
        picture = picture * (1 + between(0.05, 0.3) * (canvas.clouds(0.9) - 0.5))
    return picture.clamp(0, 1)


def _with_shape(picture: Tensor, colour: Tensor, canvas: Canvas) -> Tensor:
    between = canvas.between
    cx, cy, radius, kind = between(-1, 1), between(-1, 1), between(0.08, 0.6), between(0, 1)
    u, v = canvas.turned(cx, cy)
    if kind < 0.4:
        inside = canvas.covered(radius - torch.hypot(u, v))
        if kind < 0.2:  # shaded like a ball
            shade = (1 - torch.hypot(u + 0.4 * radius, v) / radius).clamp(0, 1)
            return _blend(picture, colour * 0.6, inside) + 0.5 * shade * inside
        return _blend(picture, colour, inside)
    if kind < 0.7:  # rectangle
        inside = torch.minimum(radius - u.abs(), radius * between(0.1, 1.0) - v.abs())
        return _blend(picture, colour, canvas.covered(inside))
    if kind < 0.85:  # stripes or ripples
        wave = u if kind < 0.78 else torch.hypot(u, v)
        stripes = (wave * between(10, 90)).sin()
        window = torch.exp(-(u**2 + v**2) / (2 * radius**2))
        return _blend(picture, colour, window * (stripes * between(1, 6)).sigmoid())
    ridge = 0.3 * (canvas.x * between(2, 6)).sin() + 0.1 * (canvas.x * between(8, 30)).sin() + cy
    return _blend(picture, colour, canvas.covered(canvas.y - ridge))  # mountains


def _patterned(picture: Tensor, palette: Tensor, canvas: Canvas) -> Tensor:
    """One fine pattern over all of the picture or a part, in one colour or all of the palette."""
    pattern = canvas.one_of(PATTERNS)(canvas)
    where = torch.ones_like(pattern)
    if canvas.happens(0.4):
        where = canvas.covered(0.3 * (canvas.clouds(0.4) - canvas.between(0.3, 0.6)))
    if canvas.happens(0.5):
        return _blend(picture, canvas.one_of(palette[2:]), where * pattern)
    colours = palette[..., 0, 0]
    place = pattern * (len(palette) - 1)
    before = place.long().clamp_max(len(palette) - 2)
    share = (place - before)[..., None]
    coloured = _blend(colours[before], colours[before + 1], share)
    return _blend(picture, coloured.permute(2, 0, 1), where)


def _wave(phase: Tensor, canvas: Canvas) -> Tensor:
    """Lines where ``phase`` in radians goes round, from soft to sharp and from thin to thick."""
    return _inked(phase.sin(), 0.8, canvas)


def _inked(wave: Tensor, most: float, canvas: Canvas) -> Tensor:
    """Where ``wave`` in -1..1 lies above a level of up to ``most`` either way, soft or sharp."""
    level = canvas.between(-most, most)
    return ((wave + level) * math.exp(canvas.between(0, 2.5))).sigmoid()


def _fineness(canvas: Canvas) -> float:
    """Radians to half a picture: three to forty lines."""
    return 2 * math.pi * math.exp(canvas.between(math.log(3), math.log(40)))


def _flow(canvas: Canvas) -> Tensor:
    """Stripes bent by clouds, as of hair, wood or water."""
    u, _ = canvas.turned()
    bend = canvas.between(0.1, 1.0) * canvas.clouds(canvas.between(0.2, 0.4), cells=3)
    return _wave((u + bend) * _fineness(canvas), canvas)


def _level_lines(canvas: Canvas) -> Tensor:
    """As a map has them, of smooth to rugged land."""
    land = canvas.clouds(canvas.between(0.2, 0.6), cells=3)
    return _wave(land * _fineness(canvas), canvas)


def _coast(canvas: Canvas) -> Tensor:
    """Land and sea, with bays in every bay."""
    height = canvas.clouds(canvas.between(0.5, 0.8)) - canvas.between(0.4, 0.6)
    return canvas.covered(height * math.exp(canvas.between(-3, 0)))


def _mesh(canvas: Canvas) -> Tensor:
    """Two sets of lines across each other: dots, checks, weaves."""
    u, v = canvas.turned()
    lines = (u * _fineness(canvas)).sin(), (v * _fineness(canvas)).sin()
    crossed = lines[0] * lines[1] if canvas.happens(0.5) else torch.maximum(*lines)
    return _inked(crossed, 0.6, canvas)


def _arms(canvas: Canvas) -> Tensor:
    """Rays or spirals around a point, the finer the nearer."""
    u, v = canvas.turned(canvas.between(-0.7, 0.7), canvas.between(-0.7, 0.7))
    arms, winding = round(canvas.between(1, 24)), canvas.between(-12, 12)
    phase = arms * torch.atan2(v, u) + winding * torch.hypot(u, v).clamp_min(0.01).log()
    return _wave(phase, canvas)


def _lettering(canvas: Canvas) -> Tensor:
    """Lines of what could be letters, each in 5 by 7 places, and spaces."""
    scale = round(canvas.size / 512 * canvas.between(1, 5)) or 1
    rows, columns = canvas.size // (10 * scale) + 1, canvas.size // (6 * scale) + 1
    stem, bar, letter = (canvas.uniform(rows, columns) < share for share in (0.5, 0.5, 0.8))
    places = canvas.uniform(rows, 7, columns, 5) < 0.25
    places[..., 0] |= stem[:, None]
    places[:, int(canvas.between(0, 7))] |= bar[..., None]
    places &= letter[:, None, :, None]
    page = F.pad(places.float(), (0, 1, 0, 0, 1, 2)).flatten(2).flatten(0, 1)
    page = page.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    return page[: canvas.size, : canvas.size]


def _curves(canvas: Canvas) -> Tensor:
    """Thin lines that swing across the picture, each a little on from the one before."""
    u, v = canvas.turned()
    count, slow, fast = round(canvas.between(5, 50)), canvas.between(1, 5), canvas.between(4, 16)
    swing, ripple, width = (canvas.between(0, top) for top in (0.4, 0.12, 0.006))
    drift, spread = canvas.between(0.2, 4), canvas.between(0.2, 1.2)
    lines = torch.zeros_like(u)
    for line in torch.linspace(-1, 1, count).tolist():
        across = swing * (u * slow + line * drift).sin() + ripple * (u * fast - line * drift).sin()
        lines = lines.maximum(canvas.covered(0.002 + width - (v - across - spread * line).abs()))
    return lines


def _blend(picture: Tensor, colour: Tensor, alpha: Tensor) -> Tensor:
    return picture * (1 - alpha) + colour * alpha


PATTERNS = (_flow, _level_lines, _coast, _mesh, _arms, _lettering, _curves)
"""Each draws on a canvas, (size, size) in 0..1: how much of its colour there is."""
