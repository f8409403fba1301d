"""The readout stage: how to score what the tower sees, learnt from a store of what it saw.

Once the tower stands, thousands of views pass through it once, spoiled ones too; projector and
language model then learn from the stored tokens what judges say of them. A clean view is worth the
mean of what two regressions on statistics of its tokens say, whose faults differ: one of the
ratings, the other of what the texture teacher would see, which the teacher itself is then asked
about. They know each picture in several views, mirrored and moved: what differs among these is not
quality. A third, which looks at the mean of the tokens alone, says what spoiled views are worth at
most, as a smooth function of what can be seen: an original's own rating would be noise, for its
copy does not show it. And a fourth says how far off the first two will be, learnt from the
teacher's errors on prompts that it had not seen: the spread to report.

One number a picture says little of how the judges come to it. So the state that the score is told
from has to tell besides, by a linear layer that is thrown away, what the judges go by: what the
teacher would see, and what either of the two says of it.

What copies teach is not true of clean pictures that look like them, so a step sees the clean views
of several batches and the copies of one, and what a copy is worth counts less than what a clean
view is. And a dark picture that is brightened until it clips looks better to what has been learnt
by then, so some batches have the darkest of their pictures overexposed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..artimuse_core.model import ScoringGraph
from ..artimuse_core.score_tokens import ORDERED_100
from .descent import Descent, MovingAverage, RunningMeans, behind_the_tower, course, weigh
from .half_products import fast_products
from .kernel import KernelRegression, Regression
from .score_batches import (
    CLEAN,
    NOISE,
    OVEREXPOSURE,
    UNKNOWN,
    WORTHLESS,
    Batch,
    BatchRecipe,
    Pool,
    clean_views,
    concatenate,
    cut_out,
    draw_batch,
    margin_of,
    soft_target,
)
from .score_terms import MIDDLE, POINTS, highest, score_losses
from .taught_views import Taught
from .texture import PrincipalComponents
from .token_statistics import TokenStatistics
from .vision import Summary, see, see_both_ways

_log = logging.getLogger(__name__)

_SOME = 128
"""Pictures whose tokens tell along which directions tokens vary."""


@dataclass(frozen=True)
class ReadoutRecipe:
    """How many views are stored, and how they are learnt from."""

    batches: int = 160
    """Of views, stored."""
    others: int = 2
    """Batches whose clean views a step sees besides all of one."""
    steps: int = 800
    learning_rate: float = 3e-3
    """Peak; a tenth of the steps warm-up, then a cosine to nothing."""
    matrix_rate: float = 0.02
    """The same of the matrices inside, see :class:`.descent.Descent`."""
    weight_decay: float = 0.1
    ema: float = 0.99
    looks: int = 4
    """Views of a picture that the regressions know."""
    directions: int = 32
    """Of the tokens' variation that the judges of clean pictures look at, see
    :class:`.token_statistics.TokenStatistics`."""
    emphasis: tuple[float, float, float] = (8.0, 4.0, 1.0)
    """How much each number of these statistics counts: means, spreads, what varies together."""
    trust: float = 0.3
    """Share of the teacher's word in what the judges of clean pictures take a rating for."""
    width: float = 0.6
    """Of the kernel of regressions on tokens, see :class:`.kernel.KernelRegression`."""
    ridge: float = 0.1
    doubt: float = 1.0
    """The ridge of the regression of how far off its judges are."""
    loss: float = 0.5
    """Share of its worth that the severest fault takes; a lesser one takes less, by the square."""
    noise_loss: float = 1.0
    """The same of noise, under which no poor picture looks poor: all would rise to one worth."""
    overexposure_loss: float = 0.7
    """The same of overexposure, whose lesser degrees take their part in full, not by the square:
    poor pictures are often dark, and look better when brightened by two stops."""
    margin: float = 0.6
    """By how much a spoiled copy should lie below its original, as a share of ``Batch.margin``."""
    copies: float = 0.3
    """How much it counts what a spoiled copy is worth, beside 1 of other views: it has to lie below
    its original, and by how much is nobody's opinion."""
    exposure: float = 2.0
    """How much what a copy lacks of its margin counts where it is darker or brighter, beside 1
    where its fault is another: these rise most often."""
    expectation: float = 25.0
    correlation: float = 0.5
    rank: float = 8.0
    mirror: float = 0.4
    """Weights of the terms of :func:`.score_terms.score_losses`."""
    reasons: float = 1.0
    """Weight of telling the reasons of :attr:`Judges.clean`."""
    components: int = 64
    """Principal components of the teacher's looks among these."""
    batch: BatchRecipe = field(
        default_factory=lambda: BatchRecipe(
            spoiled=0.6, mirrored=0.2, unrated=8, worthless=6, least=0.35
        )
    )
    dark_batches: int = 50
    """Stored besides, in which the darkest pictures come overexposed."""
    dark_share: float = 0.5
    """Of the steps that learn from these."""
    seed: int = 1


def train_readout(
    graph: ScoringGraph, pool: Pool, taught: Taught, recipe: ReadoutRecipe
) -> dict[str, float]:
    """Train projector and language model of ``graph`` in place; returns the last mean losses."""
    device = pool.images.device
    graph.to(device).eval()
    values = torch.tensor(ORDERED_100.values, device=device)
    torch.manual_seed(recipe.seed)
    some = torch.randperm(len(pool.images))[:_SOME].to(device)
    statistics = TokenStatistics(see(graph, pool.images[some].float() / 255), recipe.directions)
    seen = several_views(graph, pool.images, recipe.looks, recipe.batch.shift, statistics)
    faulty = torch.nonzero(taught.views.kind != UNKNOWN)[:, 0]
    spoiled = see_both_ways(graph, taught.views.pixels, statistics, faulty)
    judges = fit_judges(statistics, seen, spoiled, pool.score, taught, recipe)

    def lessons(count: int, batch: BatchRecipe) -> list[_Lesson]:
        stored = _store(graph, pool, count, batch)
        return [_judged(views, judges, recipe, values) for views in stored]

    views = lessons(recipe.batches, recipe.batch)
    dark = lessons(recipe.dark_batches, replace(recipe.batch, dark=True))
    weights, matrices = behind_the_tower(graph)
    average = MovingAverage(weights, recipe.ema)
    explains = nn.Linear(graph.lm_head.in_features, views[0].reasons.shape[1], device=device)
    nn.init.zeros_(explains.weight)
    descent = Descent(
        [*weights, *explains.parameters()],
        matrices,
        learning_rate=recipe.learning_rate,
        matrix_rate=recipe.matrix_rate,
        weight_decay=recipe.weight_decay,
    )
    means = RunningMeans()
    for step in range(recipe.steps):
        first = _one_of(dark if float(torch.rand(())) < recipe.dark_share else views)
        lesson = _with_clean(first, [_one_of(views) for _ in range(recipe.others)])
        with fast_products(device):
            states = graph.final_states(graph.projector(lesson.batch.pixels.float()))
            logits = graph.tell(states)
        clean = lesson.batch.kind == CLEAN
        losses = score_losses(
            logits, lesson.target, lesson.batch, values, recipe.copies, recipe.exposure
        )
        losses["reasons"] = F.mse_loss(explains(states[clean, -1]), lesson.reasons)
        descent.step(weigh(losses, recipe), course(step, recipe.steps))
        average.follow(step)
        means.follow(losses)
        if (step + 1) % 200 == 0:
            _log.info("readout step %d: %s", step + 1, means)
    average.settle()
    return means.values


@dataclass(frozen=True)
class Judges:
    """What is said of pictures by (B, D) :attr:`statistics` of their tokens, in score points."""

    statistics: TokenStatistics
    clean: Callable[[Tensor], tuple[Tensor, Tensor]]
    """(B,) what clean pictures are worth, 0..100, and (B, R) the reasons: principal components of
    what the teacher would see; what the teacher says of that, and what regression says at once,
    both in units of ``POINTS`` from ``MIDDLE``."""
    spoiled: Regression
    """What spoiled ones are worth."""
    spread: Regression
    """How far off ``clean`` will be, as a standard deviation."""


def fit_judges(
    statistics: TokenStatistics,
    seen: Tensor,
    spoiled: Tensor,
    score: Tensor,
    taught: Taught,
    recipe: ReadoutRecipe,
) -> Judges:
    """Learn what (V, N, D) ``seen`` and (P, D) ``spoiled`` pictures are worth, by ``statistics``.

    Args:
        seen: views of the pictures that the teacher looked at, rated ones first.
        spoiled: the spoiled ones of the views that it was asked about.
        score: (N,) what those pictures are worth to their copies.
    """
    fit = partial(KernelRegression, width=recipe.width, ridge=recipe.ridge)
    known = torch.cat([taught.smoothed(recipe.trust)[:, None], taught.looks], dim=1)
    emphasis = statistics.emphasis(*recipe.emphasis)
    tells = fit(seen.flatten(0, 1), known.repeat(len(seen), 1), emphasis=emphasis)
    components = PrincipalComponents(taught.looks, recipe.components, power=0.5)

    def clean(pictures: Tensor) -> tuple[Tensor, Tensor]:
        told = tells(pictures)
        looks = told[:, 1:]
        points = torch.stack([taught.says(looks), told[:, 0]], dim=1)
        reasons = torch.cat([components(looks), (points - MIDDLE) / POINTS], dim=1)
        return points.mean(1).clamp(0, 100), reasons

    means, faulty = statistics.means(seen), statistics.means(spoiled)
    rows = taught.views.kind != UNKNOWN
    original, severity = score[taught.views.original[rows]], taught.views.severity[rows]
    loss = _share_lost(taught.views.kind[rows], severity, recipe)
    worth = fit(means.flatten(0, 1), score.repeat(len(seen)))(faulty)
    worth = worth.minimum(highest(original, recipe.margin * margin_of(severity)))
    below = fit(faulty, worth.minimum(original * (1 - loss)))
    # The teacher had seen no picture of the prompt, so its errors are those of unseen pictures.
    rated = slice(len(taught.opinion))
    off = (taught.said[rated] - taught.opinion).abs()
    error = fit(means.mean(0)[rated], off, ridge=recipe.doubt)
    return Judges(
        statistics,
        clean,
        lambda seen: clean(seen)[0].minimum(below(statistics.means(seen)).clamp_min(0)),
        lambda seen: error(statistics.means(seen)) * math.sqrt(math.pi / 2),
    )


def _share_lost(kind: Tensor, severity: Tensor, recipe: ReadoutRecipe) -> Tensor:
    """(P,) kinds of faults and how severe they are → shares of a picture's worth that they take."""
    lost = torch.where(kind == NOISE, recipe.noise_loss, recipe.loss) * severity.square()
    return torch.where(kind == OVEREXPOSURE, recipe.overexposure_loss * severity, lost)


@torch.no_grad()
def several_views(
    graph: ScoringGraph,
    images: Tensor,
    count: int,
    shift: int,
    summary: Summary,
    batch: int = 32,
) -> Tensor:
    """(N, 3, H, W) uint8 → (count, N, D) summaries of what the tower sees of each picture.

    Every other view is mirrored; from the third on they are moved by up to ``shift`` pixels.
    """
    views = []
    for view in range(count):
        seen = []
        for rows in torch.arange(len(images)).split(batch):
            pixels = cut_out(images, rows, images.shape[-2:], slack=shift if view > 1 else 0)
            seen.append(summary(see(graph, pixels.flip(-1) if view % 2 else pixels)))
        views.append(torch.cat(seen))
    return torch.stack(views)


@torch.no_grad()
def _store(graph: ScoringGraph, pool: Pool, count: int, recipe: BatchRecipe) -> list[Batch]:
    """``count`` batches; image tokens (B, places, 4 · vision width) fp16 in place of pixels."""
    stores: dict[str, Tensor] = {}
    for index in range(count):
        batch = draw_batch(pool, recipe, graph.input_size)
        tokens = see(graph, batch.pixels)
        for name, kept in (vars(batch) | {"pixels": tokens.half()}).items():
            if name not in stores:
                # All at once: small tensors kept in between would pin the batches' large ones.
                stores[name] = kept.new_empty(count, *kept.shape)
            stores[name][index] = kept
    return [
        Batch(**{name: store[index] for name, store in stores.items()}) for index in range(count)
    ]


@dataclass(frozen=True)
class _Lesson:
    """Stored views, each worth what the judges say."""

    batch: Batch
    target: Tensor
    """(B, K) distributions over the score tokens, of means ``batch.score``."""
    reasons: Tensor
    """(C, R) of the clean views, see :attr:`Judges.clean`."""


def _judged(batch: Batch, judges: Judges, recipe: ReadoutRecipe, values: Tensor) -> _Lesson:
    seen = judges.statistics(batch.pixels)
    clean = batch.kind == CLEAN
    score, spread = batch.score.clone(), judges.spread(seen)
    score[clean], reasons = judges.clean(seen[clean])
    score[batch.spoiled] = judges.spoiled(seen[batch.spoiled])
    spread[batch.kind == WORTHLESS] = 0  # no narrower than a soft target can be
    judged = replace(batch, score=score, margin=recipe.margin * batch.margin)
    return _Lesson(judged, soft_target(score, spread, values), reasons)


def _one_of(lessons: Sequence[_Lesson]) -> _Lesson:
    return lessons[int(torch.randint(len(lessons), ()))]


def _with_clean(lesson: _Lesson, others: Sequence[_Lesson]) -> _Lesson:
    """``lesson``, and behind it the clean views of the ``others``."""
    lent = [other.target[other.batch.kind == CLEAN] for other in others]
    return _Lesson(
        concatenate([lesson.batch, *(clean_views(other.batch) for other in others)]),
        torch.cat([lesson.target, *lent]),
        torch.cat([lesson.reasons, *(other.reasons for other in others)]),
    )
