"""Views that nobody rated, of which the texture teacher says what it sees.

Two thousand rated pictures are learnt by heart before a tower sees what the teacher sees. But the
teacher, unlike people, can be asked about any picture: ones drawn by code, and of these and the
rated ones parts from closer, two put together, other colours, mild faults, all at random. A share
of the views is spoiled outright and names its fault, so that what tells a spoiled copy from a poor
picture is learnt besides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import augment
from .kernel import Regression
from .score_batches import OVEREXPOSURE, UNKNOWN

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ViewRecipe:
    """How many views, and what of."""

    count: int = 15_000
    spoiled: float = 0.4
    """Share of the views that are spoiled copies of pictures as they are otherwise."""
    together: int = 10
    """Views that share the size of their part and the kind of their fault."""
    least_side: float = 0.45
    """Of a part seen from closer, as a share of the picture's."""
    mild: float = 0.25
    """Severity of a mild fault, at most."""
    seed: int = 3


@dataclass
class Views:
    """Views and what is known of them."""

    pixels: Tensor
    """(V, 3, H, W) uint8."""
    looks: Tensor
    """(V, D) what the teacher saw of each."""
    original: Tensor
    """(V,) the picture each shows, most of it if two are put together."""
    kind: Tensor
    """(V,) what each is spoiled by, as :attr:`.Batch.kind`; ``UNKNOWN`` for the others."""
    severity: Tensor
    """(V,) of that fault, 0..1; 0 for the others."""


@dataclass
class Taught:
    """What the texture teacher says, of rated pictures, of drawn ones and of views of both."""

    looks: Tensor
    """(N, D) what it sees of the pictures, rated ones first."""
    opinion: Tensor
    """(R,) what people said of the rated ones, score points."""
    said: Tensor
    """(N,) what it says of each, having seen none of its prompt."""
    says: Regression
    """What it says of anything else, by its looks."""
    views: Views

    def smoothed(self, trust: float) -> Tensor:
        """(N,) ratings, in which the teacher's word has a share of ``trust``; it alone of others.

        What chance and people's taste added to a rating the teacher cannot have seen.
        """
        score = self.said.clone()
        rated = slice(len(self.opinion))
        score[rated] = self.opinion.lerp(score[rated], trust)
        return score


def draw_views(images: Tensor, look: Callable[[Tensor], Tensor], recipe: ViewRecipe) -> Views:
    """Views of (N, 3, H, W) uint8 pictures on the CPU.

    Args:
        look: (B, 3, H, W) uint8 → (B, D) what the teacher sees.
    """
    count = recipe.count
    pixels = images.new_empty(count, *images.shape[1:])
    original, kind = torch.empty(2, count, dtype=torch.long)
    severity, looks = torch.zeros(count), []
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        for rows in torch.arange(count).split(recipe.together):
            if float(torch.rand(())) < recipe.spoiled:
                [fault] = augment.draw_kinds(1)
                original[rows] = _originals(images, len(rows), darker=fault == OVEREXPOSURE)
                kind[rows], severity[rows] = fault, 0.1 + 0.9 * torch.rand(len(rows))
                pictures = images[original[rows]].float() / 255
                pictures = augment.spoil(fault, pictures, severity[rows])
            else:
                original[rows] = _originals(images, len(rows))
                kind[rows] = UNKNOWN
                pictures = _altered(images[original[rows]].float() / 255, images, recipe)
            pixels[rows] = (pictures.clamp(0, 1) * 255).round().to(torch.uint8)
            looks.append(look(pixels[rows]))
            if len(looks) % 100 == 0:
                _log.info("%d of %d views", int(rows[-1]) + 1, count)
    return Views(pixels, torch.cat(looks), original, kind, severity)


def _originals(images: Tensor, count: int, *, darker: bool = False) -> Tensor:
    """(count,) rows at random; the darker half of twice as many, which overexposure harms least."""
    if not darker:
        return torch.randint(len(images), (count,))
    rows = torch.randint(len(images), (2 * count,))
    light = images[rows, :, ::16, ::16].float().mean((1, 2, 3))
    return rows[light.argsort()[:count]]


def _altered(pictures: Tensor, images: Tensor, recipe: ViewRecipe) -> Tensor:
    """From closer, put together, recoloured, with a mild fault: each or all of these at random."""
    closer, together, recoloured, faulty = (torch.rand(4) < 0.5).tolist()
    if closer:
        pictures = _closer(pictures, recipe.least_side)
    if together:
        others = images[torch.randint(len(images), (len(pictures),))].float() / 255
        inside = _rectangles(len(pictures), pictures.shape[-1])
        pictures = torch.where(inside[:, None], others, pictures)
    if recoloured or not (closer or together or faulty):
        pictures = _recoloured(pictures)
    if faulty:
        [fault] = augment.draw_kinds(1)
        pictures = augment.spoil(fault, pictures, recipe.mild * torch.rand(len(pictures)))
    return pictures


def _closer(pictures: Tensor, least: float) -> Tensor:
    """Parts of one size, each from its own place, enlarged to the whole."""
    count, _, height, width = pictures.shape
    share = least + (1 - least) * float(torch.rand(()))
    h, w = round(height * share), round(width * share)
    tops = torch.randint(height - h + 1, (count,)).tolist()
    lefts = torch.randint(width - w + 1, (count,)).tolist()
    parts = [
        picture[:, y : y + h, x : x + w]
        for picture, y, x in zip(pictures, tops, lefts, strict=True)
    ]
    return augment.resize(torch.stack(parts), width)


def _recoloured(pictures: Tensor) -> Tensor:
    """Another gamma, contrast, saturation and tint."""
    gamma, contrast, saturation = (
        2.0 ** (scale * (2 * torch.rand(len(pictures), 1, 1, 1) - 1)) for scale in (0.6, 0.5, 0.8)
    )
    tint = 1 + 0.12 * (2 * torch.rand(len(pictures), 3, 1, 1) - 1)
    pictures = pictures.clamp_min(0) ** gamma * tint
    level = pictures.mean((1, 2, 3), keepdim=True)
    pictures = level + (pictures - level) * contrast
    grey = pictures.mean(1, keepdim=True)
    return (grey + (pictures - grey) * saturation).clamp(0, 1)


def _rectangles(count: int, side: int) -> Tensor:
    """(count, side, side) bool: inside a rectangle of a tenth to most of a square."""
    places = torch.arange(side)
    lengths = (side * (0.3 + 0.6 * torch.rand(2, count, 1))).round().clamp_min(1)
    starts = (torch.rand(2, count, 1) * (side - lengths + 1)).floor()
    rows, columns = (places >= starts) & (places < starts + lengths)
    return rows[:, :, None] & columns[:, None]
