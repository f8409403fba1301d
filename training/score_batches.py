"""Batches to learn scores from: rated pictures, spoiled copies of them, and worthless ones.

Pictures stay on the device as one uint8 tensor; cropping, spoiling and resizing happen there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from . import augment

CLEAN, WORTHLESS = 0, 1 + len(augment.FAULTS)
"""Classes of ``Batch.kind``; those of the distortions, ``augment.FAULTS``, lie between."""
KINDS = WORTHLESS + 1
NOISE, UNDEREXPOSURE, OVEREXPOSURE = (
    augment.FAULTS[name] for name in ("noise", "underexposure", "overexposure")
)
UNKNOWN = -1
"""A class label that no loss looks at."""


@dataclass
class Pool:
    """Everything to draw from, on one device."""

    images: Tensor
    """(N, 3, H, W) uint8, H and W multiples of 16."""
    score: Tensor
    """(N,) 0..100 to learn: what people said and a teacher; NaN until either did."""
    opinion: Tensor
    """(N,) 0..100, what people said; NaN for pictures nobody rated."""
    texture: Tensor
    """(N, F) what a teacher saw of each whole picture, or its mirror image; F is 0 without one."""


@dataclass
class Batch:
    """Inputs and targets; the first ``Pair`` rows of what is spoiled are named by index."""

    pixels: Tensor
    """(B, 3, S, S) in 0..1."""
    score: Tensor
    """(B,) 0..100, NaN where nobody knows: of spoiled copies, too."""
    kind: Tensor
    """(B,) class of the distortion."""
    texture: Tensor
    """(B, F) what the teacher saw; NaN where it has seen no such picture."""
    original: Tensor
    """(P,) rows of the originals …"""
    spoiled: Tensor
    """(P,) … and of their spoiled copies."""
    margin: Tensor
    """(P,) how many points the copy should lie below, at least."""
    seen: Tensor
    """(M,) rows …"""
    mirrored: Tensor
    """(M,) … and the rows of the same pictures mirrored."""


@dataclass(frozen=True)
class BatchRecipe:
    """What a batch is made of."""

    rated: int = 48
    """Rated pictures."""
    spoiled: float = 0.4
    """Share of the rated pictures that also come as a spoiled copy."""
    mirrored: float = 0.1
    """Share of the rated pictures that also come mirrored."""
    unrated: int = 4
    """Unrated pictures, each with a spoiled copy."""
    worthless: int = 4
    least: float = 0.1
    """Severity of a spoiled copy's fault, at least."""
    groups: int = 4
    """Pictures of one group share the size of their crop and the kind of distortion."""
    min_crop: float = 0.75
    """Least side of a crop, as a share of the picture's."""
    shift: int = 15
    """Pixels by which whole pictures are moved, at most."""
    jitter: float = 0.06
    """Greatest relative change of brightness, contrast and saturation."""
    dark: bool = False
    """Groups go from dark to light, and overexposure falls on the darkest, which it harms least."""


def soft_target(score: Tensor, std: Tensor, values: Tensor) -> Tensor:
    """(B,) scores and spreads → (B, K) normal distributions over the score tokens' values."""
    z = (values[None] - score[:, None]) / std[:, None].clamp_min(2.0)
    return torch.softmax(-0.5 * z**2, dim=1)


def margin_of(severity: Tensor) -> Tensor:
    """Points by which a copy spoiled by ``severity`` in 0..1 should lie below its original."""
    return 4 + 12 * severity


def draw_batch(pool: Pool, recipe: BatchRecipe, size: int) -> Batch:
    """Draw a batch with torch's global random generator; ``size`` is the model's input side."""
    device = pool.images.device
    rated = torch.nonzero(~pool.opinion.isnan())[:, 0]
    unrated = torch.nonzero(pool.opinion.isnan())[:, 0]
    rated = rated[torch.randperm(len(rated))[: recipe.rated].to(device)]
    unrated = unrated[torch.randperm(len(unrated))[: recipe.unrated].to(device)]
    parts: list[Batch] = []
    kinds = augment.draw_kinds(recipe.groups)
    if recipe.dark:
        light = pool.images[rated, :, ::16, ::16].float().mean((1, 2, 3))
        rated = rated[light.argsort()]
        kinds = [OVEREXPOSURE, *(kind for kind in kinds if kind != OVEREXPOSURE)][: recipe.groups]
    for i, (a, b) in enumerate(
        zip(rated.chunk(recipe.groups), _chunks(unrated, recipe.groups), strict=True)
    ):
        parts.append(_group(pool, recipe, size, a, b, kinds[i]))
    if recipe.worthless:
        parts.append(_worthless(recipe.worthless, size, pool))
    return concatenate(parts)


def _group(
    pool: Pool, recipe: BatchRecipe, size: int, rated: Tensor, unrated: Tensor, kind: int
) -> Batch:
    paired = round(len(rated) * recipe.spoiled)
    rows = torch.cat([unrated, rated])  # the first `pairs` rows also come spoiled
    pairs = len(unrated) + paired
    full, whole = _crop(pool.images, rows, recipe, size)
    clean = _fit(full, size)
    augment.flip_some(clean)
    clean = augment.jitter(clean, recipe.jitter)
    severity = recipe.least + (1 - recipe.least) * torch.rand(pairs, device=clean.device)
    if not pairs:
        spoiled = clean[:0]
    elif float(torch.rand(())) < 0.7:
        spoiled = _fit(augment.spoil(kind, full[:pairs], severity), size)
        augment.flip_some(spoiled)
    else:  # faults as fine as the model's own pixels, as a small picture would show them
        spoiled = augment.spoil(kind, clean[:pairs], severity)
    score = pool.score[rows]
    texture = pool.texture[rows] if whole else _unseen(pool, len(rows))
    index = torch.arange(pairs, device=clean.device)
    seen = torch.arange(pairs, min(pairs + round(len(rated) * recipe.mirrored), len(rows)))
    seen = seen.to(clean.device)
    kinds = torch.full((len(rows) + pairs + len(seen),), CLEAN, device=clean.device)
    kinds[len(rows) : len(rows) + pairs] = kind
    return Batch(
        pixels=torch.cat([clean, spoiled, clean[seen].flip(-1)]),
        score=torch.cat([score, torch.full_like(severity, torch.nan), score[seen]]),
        kind=kinds,
        texture=torch.cat([texture, _unseen(pool, pairs), texture[seen]]),
        original=index,
        spoiled=len(rows) + index,
        margin=margin_of(severity),
        seen=seen,
        mirrored=len(rows) + pairs + torch.arange(len(seen), device=clean.device),
    )


def _unseen(pool: Pool, count: int) -> Tensor:
    """``texture`` of pictures that the teacher has not seen."""
    return pool.texture.new_full((count, pool.texture.shape[1]), torch.nan)


def _crop(images: Tensor, rows: Tensor, recipe: BatchRecipe, size: int) -> tuple[Tensor, bool]:
    """Crops of one common size at random places → (b, 3, h, w) float in 0..1; are they whole?

    Whole ones are moved by ``recipe.shift``, so that patches begin anywhere.
    """
    height, width = images.shape[-2:]
    sides = _crop_sides(height, width, recipe.min_crop, size)
    whole = sides == (height, width)
    return cut_out(images, rows, sides, slack=recipe.shift if whole else 0), whole


def cut_out(images: Tensor, rows: Tensor, sides: tuple[int, int], *, slack: int = 0) -> Tensor:
    """Parts of ``sides`` from random places of (N, 3, H, W) uint8 → (b, 3, h, w) float in 0..1.

    Args:
        slack: pixels by which a part may reach over the edge, where the picture goes on mirrored.
    """
    (height, width), (h, w) = images.shape[-2:], sides
    tops = torch.randint(-slack, height - h + slack + 1, (len(rows),))
    lefts = torch.randint(-slack, width - w + slack + 1, (len(rows),))
    crops = torch.empty(len(rows), 3, h, w, device=images.device)
    for crop, row, top, left in zip(
        crops, rows.tolist(), tops.tolist(), lefts.tolist(), strict=True
    ):
        picture = images[row : row + 1]
        if slack:
            picture = F.pad(picture.float(), (slack,) * 4, mode="reflect")
        y, x = top + slack, left + slack
        crop.copy_(picture[0, :, y : y + h, x : x + w])
    return crops.div_(255)


def _crop_sides(height: int, width: int, min_crop: float, size: int) -> tuple[int, int]:
    """The whole picture, the model's own size or anything between, a third of the time each."""
    choice = int(torch.randint(0, 3, ()))
    if choice == 0:  # what inference sees
        return height, width
    if choice == 1 and min_crop * max(height, width) <= size <= min(height, width):
        return size, size  # pixels as they are, and no resizing to pay for
    return _side(height, min_crop), _side(width, min_crop)


def _side(full: int, min_crop: float) -> int:
    blocks = int(torch.randint(round(full * min_crop / 16), full // 16 + 1, ()))
    return 16 * blocks


def _fit(images: Tensor, size: int) -> Tensor:
    """Resized to the model's input; a copy, so that what follows may change it in place."""
    fitted = augment.resize(images, size)
    return fitted.clone() if fitted is images else fitted


def _worthless(count: int, size: int, pool: Pool) -> Batch:
    device = pool.images.device
    score = torch.zeros(count, device=device)
    none = torch.zeros(0, dtype=torch.long, device=device)
    return Batch(
        pixels=augment.worthless(count, size, device),
        score=score,
        kind=torch.full((count,), WORTHLESS, device=device),
        texture=_unseen(pool, count),
        original=none,
        spoiled=none,
        margin=score[:0],
        seen=none,
        mirrored=none,
    )


def clean_views(batch: Batch) -> Batch:
    """Those alone, none of them with its copy or mirror image."""
    rows, none = batch.kind == CLEAN, batch.original[:0]
    return Batch(
        pixels=batch.pixels[rows],
        score=batch.score[rows],
        kind=batch.kind[rows],
        texture=batch.texture[rows],
        original=none,
        spoiled=none,
        margin=batch.margin[:0],
        seen=none,
        mirrored=none,
    )


def concatenate(parts: list[Batch]) -> Batch:
    """One batch of all their rows, one behind the other; the parts stay as they are."""
    first = [0, *accumulate(len(part.pixels) for part in parts)]
    fields = {name: [getattr(part, name) for part in parts] for name in Batch.__dataclass_fields__}
    for name in ("original", "spoiled", "seen", "mirrored"):
        fields[name] = [rows + start for rows, start in zip(fields[name], first, strict=False)]
    return Batch(**{name: torch.cat(values) for name, values in fields.items()})


def _chunks(rows: Tensor, count: int) -> list[Tensor]:
    """Exactly ``count`` pieces, some of them empty if need be."""
    return [rows[i::count] for i in range(count)]
