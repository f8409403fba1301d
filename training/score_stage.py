"""The score stage (paper Sec. 4.3): Token As Score learnt from ratings and from spoiled copies.

Six terms: cross-entropy between the softmax over the score tokens and the distribution of human
opinions; the expectation's squared error and correlation, overall and inside each generator; a
margin by which a picture must outrank its own spoiled copy; and, through heads that are thrown away
afterwards, telling generators and distortions apart from the image tokens, and what a denser look
at texture saw (:mod:`.texture`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..artimuse_core.model import ScoringGraph
from ..artimuse_core.score_tokens import ORDERED_100
from . import half_products
from .descent import MovingAverage, cosine_rate, weigh
from .local_features import MAPS, local_features
from .score_batches import KINDS, UNKNOWN, Batch, BatchRecipe, Pool, draw_batch

_log = logging.getLogger(__name__)

TOWER_WARMUP = 50
"""Steps from when the tower is let go until it learns at its full rate."""
ROOM = 0.8
"""Share of a picture's score by which a margin may lie below it: a poor one has little room."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ScoreRecipe:
    """How long, how fast and with which weights to learn."""

    steps: int = 4600
    readout_steps: int = 150
    """The first of them, in which the tower stays as it starts: it sees well enough to begin with,
    and a step costs a third."""
    tower_rate: float = 0.2
    """The tower learns slower by this factor, lest it forget what it starts with."""
    learning_rate: float = 2e-3
    """Peak; linear warm-up, then a cosine to a hundredth."""
    warmup: float = 0.06
    """Share of the steps."""
    weight_decay: float = 0.1
    """On matrices and convolutions only."""
    ema: float = 0.995
    """Decay of the weights' moving average, which is what is kept."""
    drop_path: float = 0.1
    """Probability of skipping a vision branch, rising linearly to this at the last layer."""
    expectation: float = 2.0
    """Weight of the squared error of the score, in units of (25 points)²."""
    correlation: float = 0.5
    within: float = 0.25
    """Weight of the correlation inside each generator."""
    rank: float = 0.75
    auxiliary: float = 0.2
    maps: float = 0.5
    """Weight of the squared error towards the local features, a unit being their variance."""
    texture: float = 0.5
    """Weight of the squared error towards what the texture teacher saw, if there is one."""
    cells: float = 0.5
    """The same for what it saw at the place of each token."""
    places: float = 0.5
    """Share of the image tokens, other ones at each step, that most steps look at: half of a
    picture tells its texture nearly as well as all of it, at half the price (Li et al.,
    "Scaling Language-Image Pre-training via Masking", 2023)."""
    whole: float = 0.1
    """Share of the steps, the last ones, that look at whole pictures, as inference does."""
    mapped: int = 10
    """Pictures of a batch whose local features are computed."""
    mirror: float = 0.5
    """Weight of the squared difference to a mirrored picture's score, in units of (5 points)²."""
    seed: int = 0
    batch: BatchRecipe = field(default_factory=BatchRecipe)


class AuxiliaryHeads(nn.Module):
    """Which generator, which distortion, what texture? Thrown away after training."""

    def __init__(self, width: int, sources: int, textures: int, cells: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.source = nn.Linear(width, sources)
        self.kind = nn.Linear(width, KINDS)
        self.maps = nn.Linear(width, 4 * MAPS)
        self.texture = nn.Linear(width, textures) if textures else None
        self.cells = nn.Linear(width, cells) if cells else None

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """(B, places, width) → logits ``source`` (B, sources), ``kind`` (B, KINDS); ``maps``
        (B, places, 4·MAPS); ``texture`` (B, F); ``cells`` (B, places, C)."""
        tokens = tokens.float()
        pooled, each = self.norm(tokens.mean(dim=1)), self.norm(tokens)
        return {
            "source": self.source(pooled),
            "kind": self.kind(pooled),
            "maps": self.maps(each),
            "texture": self.texture(pooled) if self.texture else pooled[:, :0],
            "cells": self.cells(each) if self.cells else each[..., :0],
        }


class ScoreTrainer:
    """One run of the score stage: graph, moving average, optimizer and the step they are at.

    The vision tower stays as it is for ``recipe.readout_steps``; the auxiliary heads see what the
    projector reads. Training runs on the pool's device.
    """

    def __init__(self, graph: ScoringGraph, pool: Pool, recipe: ScoreRecipe) -> None:
        self.recipe, self.pool, self.step = recipe, pool, 0
        self.device = pool.images.device
        self.graph = graph.to(self.device)
        add_drop_path(graph, recipe.drop_path)
        torch.manual_seed(recipe.seed)
        width = graph.projector.layer_norm.normalized_shape[0]
        sources, textures = int(pool.source.max()) + 1, pool.texture.shape[1]
        self.heads = AuxiliaryHeads(width, sources, textures, pool.cells.shape[2]).to(self.device)
        self.values = torch.tensor(ORDERED_100.values, device=self.device)
        self.normalise = Normalise().to(self.device)
        self.weights = [p for p in graph.parameters() if p.requires_grad]
        self.average = MovingAverage(self.weights, recipe.ema)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(
                [*graph.vision.parameters()],
                [*_others(graph), *self.heads.parameters()],
                recipe.weight_decay,
                recipe.tower_rate,
            ),
            betas=(0.9, 0.98),
            fused=self.device.type == "cuda",
        )

    def run(self, checkpoint: Path | None = None, every: int = 200, resume: bool = False) -> None:
        """Train to the last step; ``checkpoint`` is written every ``every`` steps."""
        if resume and checkpoint and checkpoint.exists():
            self.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
            _log.info("resumed at step %d", self.step)
        started, first = time.monotonic(), self.step
        while self.step < self.recipe.steps:
            losses = self.train_step()
            if self.step % every == 0 or self.step == self.recipe.steps:
                rate = (time.monotonic() - started) / (self.step - first)
                terms = " ".join(f"{name} {float(value):.3f}" for name, value in losses.items())
                _log.info("step %d, %.2f s a step: %s", self.step, rate, terms)
                if checkpoint:
                    checkpoint.parent.mkdir(parents=True, exist_ok=True)
                    partial = checkpoint.with_suffix(".partial")
                    torch.save(self.state_dict(), partial)
                    partial.replace(checkpoint)

    def train_step(self) -> dict[str, Tensor]:
        """One optimizer step. The seed depends on the step alone, so a resumed run repeats it."""
        recipe = self.recipe
        torch.manual_seed(recipe.seed * 1_000_003 + self.step)
        thawed = min(1.0, max(0, self.step - recipe.readout_steps) / TOWER_WARMUP)
        rate = cosine_rate(
            self.step, recipe.steps, recipe.learning_rate, warmup=recipe.warmup, floor=0.01
        )
        set_rates(self.optimizer, rate, thawed)
        self.graph.vision.requires_grad_(self.step >= recipe.readout_steps)
        self.graph.train()
        with torch.no_grad():
            batch = draw_batch(self.pool, recipe.batch, self.graph.input_size, self.values)
            pixel_values = self.normalise(batch.pixels)
        places = self._places()
        with fast_products(self.device):
            tokens = tokens_at(self.graph, pixel_values, places)
            logits = self.graph.read(self.graph.projector(tokens))
        losses = score_losses(logits, batch, self.values)
        told = self.heads(tokens)
        losses["auxiliary"] = class_loss(told["source"], batch.source)
        losses["auxiliary"] += class_loss(told["kind"], batch.kind)
        side = math.isqrt(self.graph.image_tokens)
        losses["texture"] = known_error(told["texture"], batch.texture)
        losses["cells"] = known_error(told["cells"], _tokens_like(batch.cells, side)[:, places])
        some = torch.randperm(len(batch.pixels))[: recipe.mapped].to(self.device)
        wanted = local_features(batch.pixels[some], side)
        wanted = wanted.flatten(2).transpose(1, 2)[:, places]
        losses["maps"] = F.mse_loss(told["maps"][some], wanted)
        total = weigh(losses, recipe)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.step += 1
        self.average.follow(self.step)
        return {name: value.detach() for name, value in losses.items()} | {"total": total.detach()}

    def _places(self) -> Tensor:
        """Which of the image tokens this step looks at, in order."""
        count = self.graph.image_tokens
        if self.step < (1 - self.recipe.whole) * self.recipe.steps:
            count = math.ceil(self.recipe.places * count)
        return torch.randperm(self.graph.image_tokens)[:count].sort().values.to(self.device)

    def finish(self) -> None:
        """Put the moving average into the graph and leave it in eval mode."""
        self.average.settle()
        self.graph.eval()

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "weights": self.weights,
            "average": self.average.values,
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        for mine, saved in (
            (self.weights, state["weights"]),
            (self.average.values, state["average"]),
        ):
            for tensor, value in zip(mine, saved, strict=True):
                tensor.copy_(value)
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])


def fast_products(device: torch.device) -> AbstractContextManager[Any]:
    """bf16 where the device multiplies it faster than fp32."""
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return half_products.HalfProducts() if half_products.supported() else nullcontext()


def tokens_at(graph: ScoringGraph, pixel_values: Tensor, places: Tensor) -> Tensor:
    """What the projector reads at some ``places`` of pictures, the rest of which is not looked at.

    Args:
        pixel_values: (B, 3, S, S).
        places: (T,) of the image tokens, row by row; each is 2×2 patches.

    Returns:
        (B, T, 4 · vision width); for all places that of :meth:`.ScoringGraph.unshuffle`.
    """
    embeddings = graph.vision.embeddings
    filters = embeddings.patch_embeddings.projection
    patch, side = filters.kernel_size[0], math.isqrt(graph.image_tokens)
    rows, columns = places // side, places % side
    patches = pixel_values.unflatten(3, (side, 2, patch)).unflatten(2, (side, 2, patch))
    patches = patches.permute(2, 5, 0, 3, 6, 1, 4, 7)[rows, columns]  # (T, B, 2, 2, 3, p, p)
    patches = patches.transpose(0, 1).flatten(4).flatten(1, 3)  # (B, 4T, 3p²)
    x = F.linear(patches, filters.weight.flatten(1), filters.bias)
    at_class, at_patches = embeddings.position_embeddings[0].split([1, 4 * graph.image_tokens])
    grid = at_patches.unflatten(0, (side, 2, side, 2)).transpose(1, 2)[rows, columns]
    first = (embeddings.cls_token[0] + at_class).expand(len(x), -1, -1)
    x = graph.encode(torch.cat([first, x + grid.flatten(0, 2)], dim=1))
    return x.reshape(len(x), len(places), -1)


def _others(graph: ScoringGraph) -> Iterator[nn.Parameter]:
    """What of the graph is not its vision tower."""
    for module in (graph.projector, graph.decoder, graph.lm_head):
        yield from module.parameters()


def parameter_groups(
    tower: Iterable[nn.Parameter],
    others: Iterable[nn.Parameter],
    weight_decay: float,
    tower_rate: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups for the optimizer: each has its ``rate``, a factor on the learning rate.

    A step of Adam moves every weight alike, so what it does to an answer grows with the number of
    inputs: filters of thousands of pixels learn slower in proportion (Yang et al. 2021).
    """
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for in_tower, weights in ((True, tower), (False, others)):
        for p in weights:
            matrix = p.ndim > 1 and min(p.shape[:2]) > 1
            slower = len(p) / p[0].numel() if p.ndim == 4 else 1.0
            rate = min(1.0, slower) * (tower_rate if in_tower else 1.0)
            decay = weight_decay if matrix and p.ndim == 2 else 0.0
            groups.setdefault((in_tower, rate, decay), []).append(p)
    return [
        {"params": params, "tower": in_tower, "rate": rate, "weight_decay": decay}
        for (in_tower, rate, decay), params in groups.items()
    ]


def set_rates(optimizer: torch.optim.Optimizer, rate: float, thawed: float) -> None:
    """Of :func:`parameter_groups`; the tower learns at the share ``thawed`` of its own."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"] * (thawed if group["tower"] else 1.0)


class Normalise(nn.Module):
    """(B, 3, S, S) in 0..1 → the model's pixel_values."""

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("shift", (-mean / std)[:, None, None])
        self.register_buffer("scale", (1 / std)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        normalised: Tensor = torch.addcmul(self.shift, pixels, self.scale)  # one pass
        return normalised


def add_drop_path(graph: ScoringGraph, rate: float) -> None:
    """Stochastic depth on the vision branches, by hooks that do nothing in eval mode."""
    layers = graph.vision.encoder.layer
    for index, layer in enumerate(layers):
        hook = _drop_path(rate * index / max(len(layers) - 1, 1))
        layer.attention.projection_layer.register_forward_hook(hook)
        layer.mlp.register_forward_hook(hook)


def _drop_path(rate: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(module: nn.Module, _inputs: Any, branch: Tensor) -> Tensor:
        if not module.training or rate == 0:
            return branch
        keep = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= rate
        return branch * keep.to(branch.dtype) / (1 - rate)

    return hook


def expected_score(logits: Tensor, values: Tensor) -> Tensor:
    """(B, K) logits of the score tokens, (K,) what they are worth → (B,) score points."""
    return torch.softmax(logits, dim=1) @ values


def score_losses(logits: Tensor, batch: Batch, values: Tensor) -> dict[str, Tensor]:
    """Unweighted terms from (B, K) fp32 logits; rows without a rating count in ``rank`` alone."""
    rated = ~batch.score.isnan()
    expected = expected_score(logits, values)
    cross_entropy = -(batch.target * F.log_softmax(logits, dim=1)).sum(1)
    predicted, human = expected[rated], batch.score[rated]
    original, spoiled = expected[batch.original], expected[batch.spoiled]
    margin = torch.minimum(batch.margin, ROOM * original.detach())
    return {
        "tokens": cross_entropy[rated].mean(),
        "expectation": ((predicted - human) / 25).square().mean(),
        "correlation": 1 - _correlation(predicted, human),
        "within": _within(expected, batch),
        "mirror": ((expected[batch.seen] - expected[batch.mirrored]) / 5).square().mean()
        if len(batch.seen)
        else expected.new_zeros(()),
        "rank": F.relu(margin - (original - spoiled)).mean() / 10
        if len(margin)
        else expected.new_zeros(()),
    }


def spoiled_worth(said: Tensor, original: Tensor, margin: Tensor) -> Tensor:
    """(P,) what spoiled copies are worth: what is ``said`` of them, or less, to lie below."""
    return torch.minimum(said, original - torch.minimum(margin, ROOM * original))


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a - a.mean(), b - b.mean(), dim=0, eps=1e-6)


def _within(expected: Tensor, batch: Batch) -> Tensor:
    """1 - correlation of what is left when each generator's mean is taken out."""
    known = batch.source != UNKNOWN
    if int(known.sum()) < 2:
        return expected.new_zeros(())
    member = F.one_hot(batch.source[known]).to(expected.dtype)  # (n, sources)
    count = member.sum(0).clamp_min(1)
    a, b = expected[known], batch.score[known]
    a, b = (x - member @ ((member.T @ x) / count) for x in (a, b))
    return 1 - F.cosine_similarity(a, b, dim=0, eps=1e-6)


def class_loss(logits: Tensor, label: Tensor) -> Tensor:
    if bool((label == UNKNOWN).all()):
        return logits.new_zeros(())
    return F.cross_entropy(logits, label, ignore_index=UNKNOWN, label_smoothing=0.1)


def _tokens_like(cells: Tensor, side: int) -> Tensor:
    """(B, C, g, g) → (B, side², C): averaged to the places of image tokens."""
    if not cells.shape[1]:
        return cells.new_empty(len(cells), side**2, 0)
    return F.adaptive_avg_pool2d(cells, side).flatten(2).transpose(1, 2)


def known_error(told: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error where something is ``wanted``; 0 where nothing is."""
    known = ~wanted.isnan()
    return F.mse_loss(told[known], wanted[known]) if bool(known.any()) else told.new_zeros(())


@torch.no_grad()
def predict(model: nn.Module, pixels: Iterator[Tensor], device: torch.device) -> Tensor:
    """Batches of (b, 3, S, S) uint8 → (n, K) fp32 logits on the CPU, computed in fp32."""
    normalise = Normalise().to(device)
    logits = [model(normalise(batch.to(device).float() / 255)).cpu() for batch in pixels]
    return torch.cat(logits)
