"""The readout stage: how to score what the tower sees, learnt from a store of what it saw.

The language model, as the score stage left it, ranks pictures less well than those who look at the
mean of the image tokens and know of nothing but clean pictures: a kernel regression of the ratings,
another that first tells from these tokens what the texture teacher would see and then asks the
teacher, and the head that the tower learnt with. Their faults differ. Here the tower stands still,
so thousands of views, spoiled ones too, pass through it once; projector and language model then
learn from the stored tokens what the mean of the three says: of clean views, and of more that
nobody has rated, put together from two and moved at random in directions in which pictures differ.
Without these, what is learnt holds near two thousand pictures only.

Spoiled copies are worth what the score stage's model says of them, or a little less than their
original if that is less. In the score stage they are worth a share of it; that teaches the tower to
see faults, but held on to it costs agreement with people, whose poorest pictures look much like
spoiled ones. A dark picture that is brightened until it clips looks better to what has been learnt
by then, so some batches have the darkest of their pictures overexposed.
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
from .descent import MovingAverage, RunningMeans, cosine_rate, weigh
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
from .score_stage import (
    Normalise,
    expected_score,
    fast_products,
    parameter_groups,
    score_losses,
    spoiled_worth,
)
from .texture import TextureRecipe, regression

_log = logging.getLogger(__name__)

Regression = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ReadoutRecipe:
    """How many views are stored, and how they are learnt from."""

    batches: int = 300
    """Of views, stored; each is a step's."""
    steps: int = 1600
    learning_rate: float = 3e-3
    """Peak; a tenth of the steps warm-up, then a cosine to nothing."""
    weight_decay: float = 0.1
    ema: float = 0.995
    width: float = 0.6
    """Of the kernel of regressions on tokens, see :class:`.kernel.KernelRegression`."""
    ridge: float = 0.1
    composed: int = 128
    """Views of a step put together from two others, and moved."""
    moved: float = 0.4
    """How far at most: by this many of the standard deviations in which pictures' means differ."""
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
    graph: ScoringGraph,
    pool: Pool,
    recipe: ReadoutRecipe,
    *,
    teacher: TextureRecipe | None = None,
    before: ScoringGraph | None = None,
    judges: Sequence[Regression] = (),
) -> dict[str, float]:
    """Train projector and language model of ``graph`` in place; returns the last mean losses.

    Args:
        teacher: the recipe of who looked at the pool, the usual one if None.
        before: frozen, whose word counts for spoiled copies; the graph as it comes if None.
        judges: of clean pictures, besides the regressions: (B, width) means of image tokens →
            (B,) score points.
    """
    device = pool.images.device
    graph.to(device).eval()
    before = before.to(device) if before else copy.deepcopy(graph).freeze()
    values = torch.tensor(ORDERED_100.values, device=device)
    torch.manual_seed(recipe.seed)
    seen, regressions = _fit(graph, pool, recipe, teacher)
    judge = _mean_of([*regressions, *judges])
    differences = (seen - seen.mean(0)) / len(seen) ** 0.5
    views = _store(graph, before, pool, recipe.batches, recipe.batch, values)
    darker = replace(recipe.batch, dark=True)
    dark = _store(graph, before, pool, recipe.dark_batches, darker, values)
    weights = [*graph.projector.parameters(), *graph.decoder.parameters()]
    weights += [*graph.lm_head.parameters()]
    for weight in weights:
        weight.requires_grad_(True)
    average = MovingAverage(weights, recipe.ema)
    groups = parameter_groups([], weights, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    means = RunningMeans()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(step, recipe.steps, recipe.learning_rate, warmup=0.1)
        store = dark if float(torch.rand(())) < recipe.dark_share else views
        stored = store[int(torch.randint(len(store), ()))]
        batch = _lesson(stored, judge, differences, recipe, values)
        with fast_products(device):
            logits = graph.read(graph.projector(batch.pixels))
        losses = score_losses(logits, batch, values)
        optimizer.zero_grad(set_to_none=True)
        weigh(losses, recipe).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        average.follow(step)
        means.follow(losses)
        if (step + 1) % 200 == 0:
            _log.info("readout step %d: %s", step + 1, means)
    average.settle()
    return means.values


def _mean_of(judges: Sequence[Regression]) -> Regression:
    """What they say on average, inside the scale."""
    return lambda pooled: torch.stack([says(pooled) for says in judges]).mean(0).clamp(0, 100)


@torch.no_grad()
def _fit(
    graph: ScoringGraph, pool: Pool, recipe: ReadoutRecipe, teacher: TextureRecipe | None = None
) -> tuple[Tensor, list[Regression]]:
    """What the tower sees of rated pictures (N, width), and regressions of their ratings on it.

    Each picture is whole, and averaged with its mirror image. Where a teacher has looked, ratings
    are as it smoothed them: a function without the wrinkles of single ratings is easier to follow.
    Another regression then asks it about what the tokens tell of its look.
    """
    normalise = Normalise().to(pool.images.device)
    rated = torch.nonzero(~pool.score.isnan())[:, 0]
    seen = []
    for rows in rated.split(32):
        pixels = normalise(resize(pool.images[rows].float() / 255, graph.input_size))
        sides = [_pooled(_tokens(graph, side)) for side in (pixels, pixels.flip(-1))]
        seen.append((sides[0] + sides[1]) / 2)
    tokens, looks = torch.cat(seen), pool.looks[rated]
    direct = KernelRegression(tokens, pool.score[rated], width=recipe.width, ridge=recipe.ridge)
    if not looks.shape[1]:
        return tokens, [direct]
    told = KernelRegression(tokens, looks, width=recipe.width, ridge=recipe.ridge)
    asked = regression(looks, pool.opinion[rated], teacher or TextureRecipe())
    return tokens, [direct, lambda pooled: asked(told(pooled))]


@torch.no_grad()
def _store(
    graph: ScoringGraph,
    before: ScoringGraph,
    pool: Pool,
    count: int,
    recipe: BatchRecipe,
    values: Tensor,
) -> list[Batch]:
    """``count`` batches; image tokens (B, places, 4 · vision width) fp16 in place of pixels.

    Spoiled copies have the ``score`` that the graph of ``before`` gives them.
    """
    normalise = Normalise().to(pool.images.device)
    blind = replace(pool, texture=pool.texture[:, :0], cells=pool.cells[:, :, :0])
    stores: dict[str, Tensor] = {}
    for index in range(count):
        batch = draw_batch(blind, recipe, graph.input_size, values)
        pixel_values = normalise(batch.pixels)
        batch.score[batch.spoiled] = expected_score(before(pixel_values[batch.spoiled]), values)
        tokens = _tokens(graph, pixel_values)
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
    """(B, places, width) → (B, width): what the judges look at, the mean over the places."""
    return tokens.float().mean(1)


@torch.no_grad()
def _lesson(
    batch: Batch, judge: Regression, differences: Tensor, recipe: ReadoutRecipe, values: Tensor
) -> Batch:
    """A stored batch, each clean view worth what the judge says, and composed ones behind it.

    A spoiled copy is worth what it was, or less, so that it lies below its original. Composed views
    are moved, all places alike, by random sums of the ``differences`` (N, width) between pictures.
    """
    tokens, margin = batch.pixels.float(), recipe.margin * batch.margin
    clean = torch.nonzero((batch.kind == CLEAN) & ~batch.score.isnan())[:, 0]
    score = torch.where(batch.kind == WORTHLESS, batch.score, torch.nan)
    score[clean] = judge(_pooled(tokens[clean]))
    original = score[batch.original]  # NaN where nobody rated it, and so is its copy
    score[batch.spoiled] = spoiled_worth(batch.score[batch.spoiled], original, margin)
    spread = _spread(batch.target, values)
    first, second = (clean[torch.randint(len(clean), (recipe.composed,))] for _ in range(2))
    inside = _rectangles(recipe.composed, math.isqrt(tokens.shape[1])).to(tokens.device)
    composed = torch.where(inside[:, :, None], tokens[first], tokens[second])
    noise = (
        recipe.moved
        * torch.rand(recipe.composed, 1)
        * torch.randn(recipe.composed, len(differences))
    )
    composed += (noise.to(tokens.device) @ differences)[:, None]
    spread = torch.cat([spread, (spread[first] + spread[second]) / 2])
    score = torch.cat([score, judge(_pooled(composed))])
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
