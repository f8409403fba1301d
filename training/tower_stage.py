"""The tower stage: the vision tower alone goes on learning, from whole pictures.

The score stage asks many things of few weights at once (generators, maps, mixed and cropped
pictures, the language model's wishes) and lets the tower change slowly, lest it forget what it
starts with. That done, it learns for some minutes at five times that rate only what counts: what
the texture teacher saw of the whole picture, and what the picture is worth. Both are told by a head
of two layers that is thrown away; a linear one cannot turn averages of tokens into the logarithms
of averages that the teacher speaks in.

Some of the pictures also come spoiled. Without them the tower unlearns what tells a spoiled copy
from a poor picture, and no readout can tell them apart again. A copy is worth what the model said
of it before, or a little less than its original if that is less.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..artimuse_core.model import ScoringGraph
from ..artimuse_core.score_tokens import ORDERED_100
from .descent import MovingAverage, RunningMeans, cosine_rate, weigh
from .score_batches import KINDS, BatchRecipe, Pool, draw_batch
from .score_stage import (
    Normalise,
    class_loss,
    expected_score,
    fast_products,
    known_error,
    parameter_groups,
    set_rates,
    spoiled_worth,
    tokens_at,
)
from .texture import principal_components

_log = logging.getLogger(__name__)

_MIDDLE, _POINTS = 50.0, 25.0
"""The head tells a score as (score - _MIDDLE) / _POINTS, so that it starts in the middle."""


@dataclass(frozen=True)
class TowerRecipe:
    """How long and how fast to learn, and from what."""

    steps: int = 1000
    head_steps: int = 50
    """The first of them, in which the head alone learns, lest it pull at random."""
    learning_rate: float = 1e-3
    """Peak; a tenth of the steps warm-up, then a cosine to a hundredth."""
    weight_decay: float = 0.1
    ema: float = 0.98
    hidden: int = 512
    """Units of the head between its two layers."""
    components: int = 40
    """Principal components of what the teacher saw; their errors count by the components' own
    spreads: the first differ most from picture to picture, and tell most of quality."""
    score: float = 2.0
    """Weight of the squared error of the score, in units of (25 points)²."""
    kind: float = 0.2
    """Weight of telling what a picture is spoiled by."""
    margin: float = 0.6
    """By how much a spoiled copy should lie below its original, as a share of ``Batch.margin``."""
    batch: BatchRecipe = field(
        default_factory=lambda: BatchRecipe(
            rated=24, spoiled=0.34, mirrored=0, unrated=0, worthless=1, groups=3, min_crop=1,
            jitter=0, mix=0,
        )
    )  # fmt: skip
    """Whole pictures, as the teacher saw them."""
    seed: int = 2


class TowerHead(nn.Module):
    """What the mean of the image tokens tells: the teacher's components, the score, the fault."""

    def __init__(self, width: int, recipe: TowerRecipe) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, recipe.hidden),
            nn.GELU(),
            nn.Linear(recipe.hidden, recipe.components + 1 + KINDS),
        )
        self.sizes = [recipe.components, 1, KINDS]

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, width) → components (B, C), score (B,) in points, logits of the fault (B, KINDS)."""
        texture, score, kind = self.layers(pooled).split(self.sizes, dim=1)
        return texture, score[:, 0] * _POINTS + _MIDDLE, kind

    @torch.no_grad()
    def score(self, pooled: Tensor) -> Tensor:
        """(B, width) → (B,) score points."""
        said: Tensor = self(pooled)[1]
        return said


def train_tower(
    graph: ScoringGraph, before: ScoringGraph, pool: Pool, recipe: TowerRecipe
) -> Callable[[Tensor], Tensor]:
    """Train the vision tower of ``graph`` in place; needs a pool that a teacher looked at.

    Args:
        before: a frozen copy of the graph, whose word counts for spoiled copies.

    Returns:
        What the head learnt to say: (B, width) means of image tokens → (B,) score points.
    """
    device = pool.images.device
    before.to(device)
    graph.to(device).eval()
    torch.manual_seed(recipe.seed)
    rated = ~pool.score.isnan()
    wanted = principal_components(pool.looks[rated], int(rated.sum()), recipe.components, power=0.5)
    texture = wanted.new_full((len(rated), recipe.components), torch.nan)
    texture[rated] = wanted
    pool = replace(pool, texture=texture, cells=pool.cells[:, :, :0])
    head = TowerHead(graph.projector.layer_norm.normalized_shape[0], recipe).to(device)
    values = torch.tensor(ORDERED_100.values, device=device)
    normalise, places = Normalise().to(device), torch.arange(graph.image_tokens, device=device)
    tower = [*graph.vision.requires_grad_(True).parameters()]
    average = MovingAverage([*tower, *head.parameters()], recipe.ema)
    groups = parameter_groups(tower, head.parameters(), recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    means = RunningMeans(share=0.02)
    for step in range(recipe.steps):
        rate = cosine_rate(step, recipe.steps, recipe.learning_rate, warmup=0.1, floor=0.01)
        set_rates(optimizer, rate, min(1.0, max(0, step - recipe.head_steps) / 25))
        with torch.no_grad():
            batch = draw_batch(pool, recipe.batch, graph.input_size, values)
            pixel_values = normalise(batch.pixels)
            said = expected_score(before(pixel_values[batch.spoiled]), values)
            batch.score[batch.spoiled] = spoiled_worth(
                said, batch.score[batch.original], recipe.margin * batch.margin
            )
        with fast_products(device):
            tokens = tokens_at(graph, pixel_values, places)
        texture, score, kind = head(tokens.float().mean(1))
        losses = {
            "texture": known_error(texture, batch.texture),
            "score": F.mse_loss(score / _POINTS, batch.score / _POINTS),
            "kind": class_loss(kind, batch.kind),
        }
        optimizer.zero_grad(set_to_none=True)
        weigh(losses, recipe, unit="texture").backward()
        nn.utils.clip_grad_norm_(tower, 1.0)
        optimizer.step()
        average.follow(step)
        means.follow(losses)
        if (step + 1) % 100 == 0:
            _log.info("tower step %d: %s", step + 1, means)
    average.settle()
    return head.eval().score
