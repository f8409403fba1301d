"""The tower stage: the vision tower learns, by itself, to see what the texture teacher sees.

Two thousand rated pictures, some drawn ones and views that nobody rated, all of which the teacher
looked at, pass whole through the tower; what it saw of them, what they are worth and what they are
spoiled by is told from the mean of the image tokens by a head that is thrown away. The teacher's
components and the score are told in two layers, for no linear one turns averages of tokens into the
logarithms of averages that the teacher speaks in; the fault is told in one, so that whoever reads
the tokens afterwards can tell it without effort from what makes a picture poor.

Of a spoiled copy the teacher says what it sees, too, but not what it is worth, which only has to be
less than its original. Told more, the tower would see people's poorest pictures as spoiled ones.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..artimuse_core.model import ScoringGraph
from . import augment
from .descent import Descent, MovingAverage, RunningMeans, course, inner_matrices, weigh
from .half_products import fast_products
from .score_batches import KINDS, UNKNOWN, BatchRecipe, Pool, cut_out, draw_batch, margin_of
from .score_terms import MIDDLE, POINTS, class_loss, highest, known_error
from .taught_views import Taught
from .texture import PrincipalComponents
from .vision import Normalise, image_tokens, mean_token

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TowerRecipe:
    """How long and how fast to learn, and from what."""

    steps: int = 9000
    learning_rate: float = 1e-3
    """Peak; a tenth of the steps warm-up, then a cosine to nothing."""
    matrix_rate: float = 0.007
    """The same of the tower's matrices, see :class:`.descent.Descent`."""
    weight_decay: float = 0.1
    ema: float = 0.98
    hidden: int = 512
    """Units of the head between its two layers."""
    components: int = 64
    """Principal components of what the teacher saw; their errors count by the components' own
    spreads: the first differ most from picture to picture, and tell most of quality."""
    score: float = 2.0
    """Weight of the squared error of the score, in units of (25 points)²."""
    kind: float = 1.0
    """Weight of telling what a picture is spoiled by."""
    margin: float = 0.6
    """By how much a spoiled copy should lie below its original, as a share of ``Batch.margin``."""
    batch: BatchRecipe = field(
        default_factory=lambda: BatchRecipe(
            rated=3, spoiled=0, mirrored=0, unrated=2, worthless=1, groups=3, min_crop=1,
            jitter=0,
        )
    )  # fmt: skip
    """Whole pictures, as the teacher saw them."""
    views: int = 30
    """Of a step, moved as ``batch`` moves pictures."""
    seed: int = 2


class TowerHead(nn.Module):
    """What the mean of the image tokens tells: the teacher's components, the score, the fault."""

    def __init__(self, width: int, recipe: TowerRecipe) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(
            nn.Linear(width, recipe.hidden),
            nn.GELU(),
            nn.Linear(recipe.hidden, recipe.components + 1),
        )
        self.kind = nn.Linear(width, KINDS)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, width) → components (B, C), score (B,) in points, logits of the fault (B, KINDS)."""
        pooled = self.norm(pooled)
        told = self.layers(pooled)
        return told[:, :-1], told[:, -1] * POINTS + MIDDLE, self.kind(pooled)


@dataclass
class _Lesson:
    """Whole pictures and what is known of them."""

    pixels: Tensor
    """(B, 3, S, S) in 0..1."""
    texture: Tensor
    """(B, C) components of what the teacher saw, NaN where it has not looked."""
    score: Tensor
    """(B,) points, NaN where nobody knows."""
    ceiling: Tensor
    """(B,) what it is worth at most."""
    kind: Tensor
    """(B,) as :attr:`.Batch.kind`."""


class _Lessons:
    """Pictures and spoiled copies of some, drawn anew, and stored views."""

    def __init__(self, pool: Pool, taught: Taught, recipe: TowerRecipe, size: int) -> None:
        views = taught.views
        self.recipe, self.size, self.views = recipe, size, views
        components = PrincipalComponents(taught.looks, recipe.components, power=0.5)
        self.pool = replace(pool, texture=components(taught.looks))
        self.texture = components(views.looks)
        spoiled, own = views.kind != UNKNOWN, pool.score[views.original]
        self.score = taught.says(views.looks).masked_fill(spoiled, torch.nan)
        below = highest(own, recipe.margin * margin_of(views.severity))
        self.ceiling = torch.where(spoiled, below, torch.inf)

    def draw(self) -> _Lesson:
        batch = draw_batch(self.pool, self.recipe.batch, self.size)
        rows = torch.randint(len(self.views.kind), (self.recipe.views,))
        stored = self.views.pixels
        pixels = cut_out(stored, rows, stored.shape[-2:], slack=self.recipe.batch.shift)
        augment.flip_some(pixels)
        ceiling = torch.full_like(batch.score, torch.inf)
        margin = self.recipe.margin * batch.margin
        ceiling[batch.spoiled] = highest(batch.score[batch.original], margin)
        parts = [
            (batch.pixels, augment.resize(pixels.to(batch.pixels.device), self.size)),
            (batch.texture, self.texture[rows]),
            (batch.score, self.score[rows]),
            (ceiling, self.ceiling[rows]),
            (batch.kind, self.views.kind[rows]),
        ]
        return _Lesson(*(torch.cat([drawn, stored.to(drawn)]) for drawn, stored in parts))


def train_tower(graph: ScoringGraph, pool: Pool, taught: Taught, recipe: TowerRecipe) -> None:
    """Train the vision tower of ``graph`` in place."""
    device = pool.images.device
    graph.to(device).eval()
    torch.manual_seed(recipe.seed)
    lessons = _Lessons(pool, taught, recipe, graph.input_size)
    head = TowerHead(graph.projector.layer_norm.normalized_shape[0], recipe).to(device)
    normalise = Normalise().to(device)
    tower = [*graph.vision.requires_grad_(True).parameters()]
    average = MovingAverage(tower, recipe.ema)
    descent = Descent(
        [*tower, *head.parameters()],
        inner_matrices(graph.vision),
        learning_rate=recipe.learning_rate,
        matrix_rate=recipe.matrix_rate,
        weight_decay=recipe.weight_decay,
    )
    means = RunningMeans(share=0.02)
    for step in range(recipe.steps):
        lesson = lessons.draw()
        with fast_products(device):
            tokens = image_tokens(graph, normalise(lesson.pixels))
        texture, score, kind = head(mean_token(tokens))
        # What nobody knows is worth what is said of it, or the most it can be if that is less.
        worth = torch.where(lesson.score.isnan(), score.detach(), lesson.score)
        losses = {
            "texture": known_error(texture, lesson.texture),
            "score": F.mse_loss(score, worth.minimum(lesson.ceiling)) / POINTS**2,
            "kind": class_loss(kind, lesson.kind),
        }
        descent.step(weigh(losses, recipe, unit="texture"), course(step, recipe.steps))
        average.follow(step)
        means.follow(losses)
        if (step + 1) % 100 == 0:
            _log.info("tower step %d: %s", step + 1, means)
    average.settle()
