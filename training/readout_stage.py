"""The readout stage: how to score what the tower sees, learnt from a store of what it saw.

By the end of the score stage the language model ranks pictures about as well as a kernel regression
of people's ratings on the mean of the image tokens, and as one that first tells from these tokens
what the texture teacher would see, and then asks the teacher; but their faults differ, and the mean
of the three is better than any. Here the tower stands still, so thousands of views, spoiled ones
too, pass through it once; projector and language model then learn from the stored tokens, a step at
a third of the price, what that mean says of clean views and of views put together from two, which
nobody has rated.

Spoiled copies are worth what they are said to be, or a little less than their original if that is
less. In the score stage they are worth a share of it; that teaches the tower to see faults, but
held on to it costs agreement with people, whose poorest pictures look much like spoiled ones. A
dark picture that is brightened until it clips looks better to what has been learnt by then, so some
batches have the darkest of their pictures overexposed.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..artimuse_core.model import ScoringGraph
from ..artimuse_core.score_tokens import ORDERED_100
from .augment import resize
from .descent import MovingAverage, cosine_rate, weigh
from .kernel import KernelRegression
from .score_batches import (
    CLEAN,
    UNKNOWN,
    WORTHLESS,
    Batch,
    BatchRecipe,
    Pool,
    draw_batch,
    soft_target,
)
from .score_stage import ROOM, Normalise, expected_score, score_losses
from .texture import TextureRecipe, regression

_log = logging.getLogger(__name__)

Regression = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ReadoutRecipe:
    """How many views are stored, and how they are learnt from."""

    batches: int = 300
    """Of views, stored; each is a step's."""
    steps: int = 600
    learning_rate: float = 1.5e-3
    """Peak; a tenth of the steps warm-up, then a cosine to nothing."""
    weight_decay: float = 0.1
    ema: float = 0.995
    own: float = 1 / 3
    """Share of what the score stage's language model says in what a view is worth."""
    width: float = 0.6
    """Of the kernel of regressions on tokens, see :class:`.kernel.KernelRegression`."""
    ridge: float = 0.1
    composed: int = 64
    """Views of a step put together from two others."""
    margin: float = 0.6
    """By how much a spoiled copy should lie below its original, as a share of ``Batch.margin``."""
    expectation: float = 10.0
    correlation: float = 0.5
    within: float = 0.25
    rank: float = 2.0
    mirror: float = 0.5
    """Weights of the terms of :func:`.score_stage.score_losses`."""
    batch: BatchRecipe = field(
        default_factory=lambda: BatchRecipe(spoiled=0.6, mirrored=0.2, worthless=6, mix=0)
    )
    dark_batches: int = 100
    """Stored besides, in which the darkest pictures come overexposed."""
    dark_share: float = 0.45
    """Of the steps that learn from these."""
    seed: int = 1


def train_readout(
    graph: ScoringGraph, pool: Pool, recipe: ReadoutRecipe, teacher: TextureRecipe | None = None
) -> dict[str, float]:
    """Train projector and language model of ``graph`` in place; returns the last mean losses.

    ``teacher`` is the recipe of who looked at the pool, the usual one if None.
    """
    device = pool.images.device
    graph.to(device).eval()
    values = torch.tensor(ORDERED_100.values, device=device)
    torch.manual_seed(recipe.seed)
    judge = Judge(graph, _fit(graph, pool, recipe, teacher), recipe.own, values)
    views = _store(graph, pool, recipe.batches, recipe.batch, values)
    dark = _store(graph, pool, recipe.dark_batches, replace(recipe.batch, dark=True), values)
    weights = [*graph.projector.parameters(), *graph.decoder.parameters()]
    weights += [*graph.lm_head.parameters()]
    for weight in weights:
        weight.requires_grad_(True)
    average = MovingAverage(weights, recipe.ema)
    optimizer = torch.optim.AdamW(_groups(weights, recipe), betas=(0.9, 0.98))
    sums: dict[str, float] = {}
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(step, recipe.steps, recipe.learning_rate, warmup=0.1)
        store = dark if float(torch.rand(())) < recipe.dark_share else views
        batch = _lesson(store[int(torch.randint(len(store), ()))], judge, recipe, values)
        logits = graph.read(graph.projector(batch.pixels))
        losses = score_losses(logits, batch, values)
        optimizer.zero_grad(set_to_none=True)
        weigh(losses, recipe).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        average.follow(step)
        for name, value in losses.items():
            now = float(value.detach())
            sums[name] = 0.99 * sums.get(name, now) + 0.01 * now
        if (step + 1) % 200 == 0:
            terms = " ".join(f"{name} {value:.3f}" for name, value in sums.items())
            _log.info("readout step %d: %s", step + 1, terms)
    average.settle()
    return sums


class Judge:
    """What views are worth, from (B, places, width) image tokens: (B,) score points.

    ``graph`` speaks as it is when the judge is made, whatever it learns later.
    """

    def __init__(
        self, graph: ScoringGraph, regressions: Sequence[Regression], own: float, values: Tensor
    ) -> None:
        self.graph, self.regressions = copy.deepcopy(graph).freeze(), regressions
        self.own, self.values = own, values

    def clean(self, tokens: Tensor) -> Tensor:
        """The graph's word, whose share is ``own``, and the mean of the regressions'."""
        pooled = _pooled(tokens)
        said = torch.stack([says(pooled) for says in self.regressions]).mean(0)
        return said.lerp(self.spoiled(tokens), self.own).clamp(0, 100)

    @torch.no_grad()
    def spoiled(self, tokens: Tensor) -> Tensor:
        """The graph's word: the regressions know nothing of spoiled pictures."""
        return expected_score(self.graph.read(self.graph.projector(tokens)), self.values)


@torch.no_grad()
def _fit(
    graph: ScoringGraph, pool: Pool, recipe: ReadoutRecipe, teacher: TextureRecipe | None = None
) -> list[Regression]:
    """People's ratings by whole pictures, each averaged with its mirror image.

    One from what the tower sees; where a teacher has looked, another from what that tells of its
    look: (B, width) means of tokens → (B,) score points.
    """
    normalise = Normalise().to(pool.images.device)
    rated = torch.nonzero(~pool.score.isnan())[:, 0]
    seen = []
    for rows in rated.split(32):
        pixels = normalise(resize(pool.images[rows].float() / 255, graph.input_size))
        sides = [_pooled(_tokens(graph, side)) for side in (pixels, pixels.flip(-1))]
        seen.append((sides[0] + sides[1]) / 2)
    tokens, people, looks = torch.cat(seen), pool.opinion[rated], pool.looks[rated]
    direct = KernelRegression(tokens, people, width=recipe.width, ridge=recipe.ridge)
    if not looks.shape[1]:
        return [direct]
    told = KernelRegression(tokens, looks, width=recipe.width, ridge=recipe.ridge)
    asked = regression(looks, people, teacher or TextureRecipe())
    return [direct, lambda pooled: asked(told(pooled))]


@torch.no_grad()
def _store(
    graph: ScoringGraph, pool: Pool, count: int, recipe: BatchRecipe, values: Tensor
) -> list[Batch]:
    """``count`` batches; image tokens (B, places, 4 · vision width) fp16 in place of pixels."""
    normalise = Normalise().to(pool.images.device)
    blind = replace(pool, texture=pool.texture[:, :0], cells=pool.cells[:, :, :0])
    stores: dict[str, Tensor] = {}
    for index in range(count):
        batch = draw_batch(blind, recipe, graph.input_size, values)
        tokens = _tokens(graph, normalise(batch.pixels))
        for name, kept in (vars(batch) | {"pixels": tokens.half()}).items():
            if name not in stores:
                # All at once: small tensors kept in between would pin the batches' large ones.
                stores[name] = kept.new_empty(count, *kept.shape)
            stores[name][index] = kept
    return [
        Batch(**{name: store[index] for name, store in stores.items()}) for index in range(count)
    ]


def _tokens(graph: ScoringGraph, pixel_values: Tensor) -> Tensor:
    """What the projector reads."""
    return graph.unshuffle(graph.image_features(pixel_values))


def _pooled(tokens: Tensor) -> Tensor:
    """(B, places, width) → (B, width): what the regression looks at, the mean over the places."""
    return tokens.float().mean(1)


@torch.no_grad()
def _lesson(batch: Batch, judge: Judge, recipe: ReadoutRecipe, values: Tensor) -> Batch:
    """A stored batch, each clean view worth what the judge says, and composed ones behind it.

    A spoiled copy is worth what the judge says too, or less, so that it lies below its original.
    """
    tokens, margin = batch.pixels.float(), recipe.margin * batch.margin
    clean = torch.nonzero((batch.kind == CLEAN) & ~batch.score.isnan())[:, 0]
    score = torch.where(batch.kind == WORTHLESS, batch.score, torch.nan)
    score[clean] = judge.clean(tokens[clean])
    original = score[batch.original]  # NaN where nobody rated it, and so is its copy
    below = original - torch.minimum(margin, ROOM * original)
    score[batch.spoiled] = torch.minimum(judge.spoiled(tokens[batch.spoiled]), below)
    spread = _spread(batch.target, values)
    first, second = (clean[torch.randint(len(clean), (recipe.composed,))] for _ in range(2))
    inside = _rectangles(recipe.composed, math.isqrt(tokens.shape[1])).to(tokens.device)
    composed = torch.where(inside[:, :, None], tokens[first], tokens[second])
    spread = torch.cat([spread, (spread[first] + spread[second]) / 2])
    score = torch.cat([score, judge.clean(composed)])
    unknown = torch.full_like(first, UNKNOWN)
    return replace(
        batch,
        pixels=torch.cat([tokens, composed]),
        score=score,
        target=soft_target(score, spread, values).nan_to_num(0.0),
        source=torch.cat([batch.source, unknown]),
        kind=torch.cat([batch.kind, unknown]),
        margin=margin,
    )


def _spread(target: Tensor, values: Tensor) -> Tensor:
    """(B, K) distributions → (B,) their standard deviations."""
    mean = target @ values
    return (target @ values.square() - mean.square()).clamp_min(0).sqrt()


def _rectangles(count: int, side: int) -> Tensor:
    """(count, side²) bool: places inside a rectangle of a tenth to most of the picture."""
    places = torch.arange(side)
    lengths = (side * (0.3 + 0.6 * torch.rand(2, count, 1))).round().clamp_min(1)
    starts = (torch.rand(2, count, 1) * (side - lengths + 1)).floor()
    rows, columns = (places >= starts) & (places < starts + lengths)
    return (rows[:, :, None] & columns[:, None]).flatten(1)


def _groups(weights: Sequence[nn.Parameter], recipe: ReadoutRecipe) -> list[dict[str, object]]:
    return [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
