"""A dense look at texture: what a small tower cannot afford to see, as a teacher of it.

Small patches of a picture at several scales are compared with a dictionary learnt from patches
alone (whitened, k-means: Coates, Lee and Ng 2011), and how strongly each atom answers is averaged
over the picture; which differences of pixels lie side by side is counted besides
(:mod:`.residuals`). Kernel regression on that, and if asked to on which generator it seems to come
from, knows quality from two thousand ratings better than a network trained from nothing, at many
times nano's cost. A model learns from it: the ratings of the training pictures are smoothed by
what the regression says of each when it has seen no picture of its prompt, and a head that is
thrown away learns to tell the principal components, of these pictures and of views that nobody
rated (:mod:`.taught_views`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .datasets.base import hashed
from .kernel import GroupRegression, KernelRegression, Regression, Standard
from .residuals import cooccurrences

SIDE = 7
"""Of a patch, pixels."""
SCALES = 4
"""The first has the picture's own pixels, each further one half as many."""
QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_CONTRAST = 0.01
"""Variance below which a patch counts as flat; the range is 0..1."""
_WHITENING = 0.05
_THRESHOLD = 0.7
"""An answer below this is noise; answers have a spread of about 1."""


@dataclass(frozen=True)
class TextureRecipe:
    """What the teacher sees, and how far it is believed."""

    atoms: tuple[int, ...] = (256, 32, 32, 32)
    """Of the dictionary at each scale, the picture's own pixels first; as many again are learnt
    and left, for what fewer patches share is more definite."""
    strides: tuple[int, ...] = (4, 3, 2, 1)
    """Pixels between patches at each scale."""
    floor: float | None = 0.02
    """Added to a picture's averages before their logarithm; None leaves them as they are."""
    patches: int = 40_000
    """That each scale's dictionary is learnt from."""
    trust: float = 0.6
    """Share of the teacher's word in the score that is learnt; the rest is what people said."""
    folds: int = 10
    """Parts of the prompts; the teacher of each has seen the others."""
    rounds: int = 3
    """Ways to cut the prompts, over which its word is averaged."""
    width: float = 0.1
    """Of the kernel: exp(-width · mean squared difference of standardised features)."""
    ridge: float = 0.02
    group_width: float | None = 0.03
    """The same of which generator a picture seems to come from, see :class:`.GroupRegression`;
    None asks nothing about generators."""
    group_ridge: float = 0.005
    group_folds: int = 5
    """Parts of the prompts; of each, generators are told by what was learnt from the others."""
    seed: int = 0


@dataclass(frozen=True)
class Labels:
    """What is known of R rated pictures."""

    score: Tensor
    """(R,) score points."""
    prompts: Sequence[str]
    """What each was made from."""
    groups: Tensor
    """(R,) by what it was made, numbered from 0."""

    def of(self, rows: Tensor) -> Labels:
        """Those that (R,) bool ``rows`` choose."""
        prompts = [self.prompts[row] for row in torch.nonzero(rows)[:, 0].tolist()]
        return Labels(self.score[rows], prompts, self.groups[rows])

    def to(self, device: torch.device) -> Labels:
        """The same on ``device``."""
        return Labels(self.score.to(device), self.prompts, self.groups.to(device))


@dataclass(frozen=True)
class Atoms:
    """The dictionary of one scale, whitening included."""

    filters: Tensor
    """(atoms, 3, SIDE, SIDE), for patches of mean 0 and spread 1."""
    offset: Tensor
    """(atoms,) what the mean patch answers."""
    stride: int
    floor: float | None
    """Of the averages of their answers; both see :class:`TextureRecipe`."""

    def averages(self, answers: Tensor) -> Tensor:
        """Averages of answers as the teacher sees them."""
        return answers if self.floor is None else (answers + self.floor).log()


def pyramid(images: Tensor) -> list[Tensor]:
    """(B, 3, H, W) → that and each halved again, one entry a scale."""
    scales = [images]
    for _ in range(SCALES - 1):
        scales.append(F.avg_pool2d(scales[-1], 2))
    return scales


@torch.no_grad()
def learn_atoms(images: Tensor, recipe: TextureRecipe) -> list[Atoms]:
    """A dictionary for each scale from (N, 3, H, W) uint8 pictures."""
    generator = torch.Generator().manual_seed(recipe.seed)
    few = images[:: max(1, len(images) // 500)]
    each = -(-recipe.patches // len(few))
    drawn: list[list[Tensor]] = [[] for _ in range(SCALES)]
    for image in few:
        for patches, scale in zip(drawn, pyramid(image[None].cpu().float() / 255), strict=True):
            places = scale[0].unfold(1, SIDE, 1).unfold(2, SIDE, 1)  # (3, rows, columns, …), a view
            rows, columns = (
                torch.randint(size, (each,), generator=generator) for size in places.shape[1:3]
            )
            patches.append(places[:, rows, columns].transpose(0, 1).flatten(1))
    return [
        Atoms(
            *(kept[:count] for kept in _filters(torch.cat(patches), 2 * count, generator)),
            stride,
            recipe.floor,
        )
        for patches, count, stride in zip(drawn, recipe.atoms, recipe.strides, strict=True)
    ]


def _filters(
    patches: Tensor, count: int, generator: torch.Generator, rounds: int = 15
) -> tuple[Tensor, Tensor]:
    """Whiten (n, d) patches and find ``count`` directions among them (spherical k-means).

    Returns ``filters`` and ``offset`` of :class:`Atoms`.
    """
    patches = patches - patches.mean(1, keepdim=True)
    patches = patches / (patches.var(1, correction=0, keepdim=True) + _CONTRAST).sqrt()
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T.double()))
    whitening = (vectors * (values.clamp_min(0) + _WHITENING).rsqrt() @ vectors.T).float()
    white = (patches - mean) @ whitening
    centres = F.normalize(white[torch.randperm(len(white), generator=generator)[:count]], dim=1)
    for _ in range(rounds):
        nearest = (white @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, white)
        lonely = sums.norm(dim=1) < 1e-6
        again = torch.randint(len(white), (int(lonely.sum()),), generator=generator)
        sums[lonely] = white[again]
        centres = F.normalize(sums, dim=1)
    directions = centres @ whitening  # (count, d)
    return directions.reshape(-1, 3, SIDE, SIDE), directions @ mean


@torch.no_grad()
def look(images: Tensor, dictionary: Sequence[Atoms], batch: int = 8) -> Tensor:
    """What the teacher sees of (N, 3, H, W) uint8 pictures: (N, D) fp32, on the CPU.

    A picture and its mirror image look the same to it.
    """
    rows = []
    for chunk in images.split(batch):
        pixels = chunk.cpu().float() / 255
        averages = (_averages(pixels, dictionary) + _averages(pixels.flip(-1), dictionary)) / 2
        rows.append(torch.cat([averages, cooccurrences(chunk.cpu())], dim=1))
    return torch.cat(rows)


def _averages(pixels: Tensor, dictionary: Sequence[Atoms]) -> Tensor:
    """(B, 3, H, W) in 0..1 → (B, D): how strongly atoms answer, contrast and colours."""
    parts = []
    levels = torch.tensor(QUANTILES)
    for atoms, scale in zip(dictionary, pyramid(pixels), strict=True):
        mean = F.avg_pool2d(scale.mean(1, keepdim=True), SIDE, atoms.stride)
        power = F.avg_pool2d(scale.square().mean(1, keepdim=True), SIDE, atoms.stride)
        variance = (power - mean.square()).clamp_min(0)
        answers = F.conv2d(scale, atoms.filters, stride=atoms.stride)
        answers = answers - mean * atoms.filters.sum((1, 2, 3))[:, None, None]
        answers = answers / (variance + _CONTRAST).sqrt() - atoms.offset[:, None, None]
        contrast = (variance + 1e-6).sqrt()
        for strong in (F.relu(answers - _THRESHOLD), F.relu(-answers - _THRESHOLD)):
            parts.append(atoms.averages(strong.mean((2, 3))))
            parts.append(atoms.averages(strong.square().mean((2, 3)).sqrt()))
        parts.append(torch.log((answers.abs() * contrast).mean((2, 3)) + 1e-4))
        parts.append(torch.quantile(contrast.log().flatten(1), levels, dim=1).T)
    shrunk = F.adaptive_avg_pool2d(pixels, 64).flatten(2)
    parts.append(torch.quantile(shrunk, levels, dim=2).permute(1, 2, 0).flatten(1))
    return torch.cat(parts, dim=1)


def out_of_fold(features: Tensor, labels: Labels, recipe: TextureRecipe) -> Tensor:
    """(R,) what regression on (R, D) features says of each picture's score.

    Nothing that is asked of a picture was learnt from one of the same prompt.
    """
    said = torch.zeros(len(labels.score))
    for round_ in range(recipe.rounds):
        fold = _folds(labels, str(round_), recipe.folds, recipe)
        for part in range(recipe.folds):
            asked, known = fold == part, fold != part
            if asked.any() and known.any():
                learnt = regression(features[known], labels.of(known), recipe)
                said[asked] += learnt(features[asked])
    return said / recipe.rounds


def regression(features: Tensor, labels: Labels, recipe: TextureRecipe) -> Regression:
    """Scores learnt from (R, D) features of rated pictures."""
    width, ridge = recipe.width, recipe.ridge
    if recipe.group_width is None:
        return KernelRegression(features, labels.score, width=width, ridge=ridge)
    return GroupRegression(
        features,
        labels.score,
        labels.groups,
        _folds(labels, "groups", recipe.group_folds, recipe),
        width=width,
        ridge=ridge,
        group_width=recipe.group_width,
        group_ridge=recipe.group_ridge,
    )


def _folds(labels: Labels, purpose: str, count: int, recipe: TextureRecipe) -> Tensor:
    """(R,) in which of ``count`` parts the prompts fall."""
    places = [hashed(f"{recipe.seed}:{purpose}:{prompt}") % count for prompt in labels.prompts]
    return torch.tensor(places, device=labels.score.device)


class PrincipalComponents:
    """(B, D) → (B, count) fp32: what most tells the known pictures apart, the largest first.

    Args:
        known: (N, D) features, which set means, spreads and directions; outliers are cut.
        power: components spread by their own spread to this: all alike at 0, as the features have
            them at 1. Their mean square is 1 over the known ones.
    """

    def __init__(self, known: Tensor, count: int, *, power: float) -> None:
        self.standard = Standard(known)
        features = self.standard(known)
        self.mean = features.mean(0)
        _, spread, directions = torch.linalg.svd(features - self.mean, full_matrices=False)
        weight = spread[:count] ** power
        weight *= len(known) ** 0.5 / weight.square().mean().sqrt()
        self.directions = directions[:count].T * (weight / spread[:count])

    def __call__(self, features: Tensor) -> Tensor:
        return ((self.standard(features) - self.mean) @ self.directions).float()
