"""The readout stage: how to score what the tower sees, learnt from a store of what it saw.

By the end of the score stage a kernel regression on the means and spreads of the image tokens ranks
pictures better than the language model that reads them: it has the exact solution where gradient
descent is still on its way. Here the tower stands still, so thousands of views, spoiled ones too,
pass through it once; projector and language model then learn from the stored tokens, a step at a
seventh of the price. Their lessons are the score stage's, but that a clean view is worth what the
regression says of it, and so is a view put together from two, which nobody has rated.

A dark picture that is brightened until it clips looks better to what has been learnt by then. To
teach it otherwise costs agreement with people, so that is learnt in steps of its own, and where
they end is averaged with where they begin, as Wortsman et al. do in "Robust fine-tuning of
zero-shot models" (2022): most of the lesson stays, hardly any of its price.
"""

from __future__ import annotations

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
from .score_batches import CLEAN, UNKNOWN, Batch, BatchRecipe, Pool, draw_batch, soft_target
from .score_stage import Normalise, score_losses

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadoutRecipe:
    """How many views are stored, and how they are learnt from."""

    batches: int = 300
    """Of views, stored; each is a step's."""
    steps: int = 1600
    learning_rate: float = 1e-3
    """Peak; a tenth of the steps warm-up, then a cosine to nothing."""
    weight_decay: float = 0.1
    ema: float = 0.998
    trust: float = 0.7
    """Share of the regression's word in the score of a clean view."""
    width: float = 0.6
    """Of the regression's kernel, see :class:`.kernel.KernelRegression`."""
    ridge: float = 0.1
    composed: int = 32
    """Views of a step put together from two others."""
    expectation: float = 2.0
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
    dark: float = 0.7
    """Share of these in ``dark_steps``."""
    dark_steps: int = 800
    """Learnt on after ``steps``, with a course of the rate of their own; 0 to end before."""
    kept: float = 1 / 3
    """Weight of where they begin, in the average with where they end."""
    seed: int = 1


def train_readout(graph: ScoringGraph, pool: Pool, recipe: ReadoutRecipe) -> dict[str, float]:
    """Train projector and language model of ``graph`` in place; returns the last mean losses."""
    device = pool.images.device
    graph.to(device).eval()
    values = torch.tensor(ORDERED_100.values, device=device)
    torch.manual_seed(recipe.seed)
    regression = _fit(graph, pool, recipe)
    views = _store(graph, pool, recipe.batches, recipe.batch, values)
    weights = [*graph.projector.parameters(), *graph.decoder.parameters()]
    weights += [*graph.lm_head.parameters()]
    for weight in weights:
        weight.requires_grad_(True)

    def lesson(dark: Sequence[Batch] = ()) -> Batch:
        store = dark if dark and float(torch.rand(())) < recipe.dark else views
        drawn = store[int(torch.randint(len(store), ()))]
        return _lesson(drawn, regression, recipe, values)

    losses = _learn(graph, weights, lesson, recipe.steps, recipe, values)
    if not recipe.dark_steps:
        return losses
    dark = _store(graph, pool, recipe.dark_batches, replace(recipe.batch, dark=True), values)
    begun = [weight.detach().clone() for weight in weights]
    losses = _learn(graph, weights, lambda: lesson(dark), recipe.dark_steps, recipe, values)
    with torch.no_grad():
        torch._foreach_lerp_(weights, begun, recipe.kept)
    return losses


def _learn(
    graph: ScoringGraph, weights: Sequence[nn.Parameter], lesson: Callable[[], Batch], steps: int,
    recipe: ReadoutRecipe, values: Tensor,
) -> dict[str, float]:  # fmt: skip
    """Descend ``steps`` steps, each on a ``lesson``; returns the last mean losses."""
    average = MovingAverage(weights, recipe.ema)
    optimizer = torch.optim.AdamW(_groups(weights, recipe), betas=(0.9, 0.98))
    sums: dict[str, float] = {}
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(step, steps, recipe.learning_rate, warmup=0.1)
        batch = lesson()
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


@torch.no_grad()
def _fit(graph: ScoringGraph, pool: Pool, recipe: ReadoutRecipe) -> KernelRegression:
    """Kernel regression on whole rated pictures, each averaged with its mirror image."""
    normalise = Normalise().to(pool.images.device)
    rated = torch.nonzero(~pool.score.isnan())[:, 0]
    seen = []
    for rows in rated.split(32):
        pixels = normalise(resize(pool.images[rows].float() / 255, graph.input_size))
        sides = [_summary(_tokens(graph, side)) for side in (pixels, pixels.flip(-1))]
        seen.append((sides[0] + sides[1]) / 2)
    return KernelRegression(
        torch.cat(seen), pool.score[rated], width=recipe.width, ridge=recipe.ridge
    )


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


def _summary(tokens: Tensor) -> Tensor:
    """(B, places, width) → (B, 2 · width): mean and spread over the places."""
    tokens = tokens.float()
    return torch.cat([tokens.mean(1), tokens.std(1)], dim=1)


@torch.no_grad()
def _lesson(
    batch: Batch, regression: KernelRegression, recipe: ReadoutRecipe, values: Tensor
) -> Batch:
    """A stored batch with what the regression says of clean views, and composed ones behind it."""
    tokens, score = batch.pixels.float(), batch.score.clone()
    clean = torch.nonzero((batch.kind == CLEAN) & ~score.isnan())[:, 0]
    said = regression(_summary(tokens[clean])).clamp(0, 100)
    score[clean] = score[clean].lerp(said, recipe.trust)
    spread = _spread(batch.target, values)
    first, second = (clean[torch.randint(len(clean), (recipe.composed,))] for _ in range(2))
    inside = _rectangles(recipe.composed, math.isqrt(tokens.shape[1])).to(tokens.device)
    composed = torch.where(inside[:, :, None], tokens[first], tokens[second])
    worth = regression(_summary(composed)).clamp(0, 100)
    spread = torch.cat([spread, (spread[first] + spread[second]) / 2])
    score = torch.cat([score, worth])
    unknown = torch.full_like(first, UNKNOWN)
    return replace(
        batch,
        pixels=torch.cat([tokens, composed]),
        score=score,
        target=soft_target(score, spread, values).nan_to_num(0.0),
        source=torch.cat([batch.source, unknown]),
        kind=torch.cat([batch.kind, unknown]),
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
