"""What the stages that train nano share: the rate's course, the weights' average, weighed terms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..artimuse_core.model import ScoringGraph


def course(step: int, steps: int, *, warmup: float = 0.1) -> float:
    """Share of the peak rate: linear over the share ``warmup`` of the steps, then a cosine to 0."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def weigh(losses: Mapping[str, Tensor], recipe: object, unit: str = "tokens") -> Tensor:
    """``unit`` plus the other terms, each times the recipe's field of its name."""
    total: Tensor = losses[unit] + sum(
        getattr(recipe, name) * value for name, value in losses.items() if name != unit
    )
    return total


class MovingAverage:
    """Exponential average of ``weights``, which follows closely over the first steps."""

    def __init__(self, weights: Sequence[nn.Parameter], decay: float) -> None:
        self.weights, self.decay = weights, decay
        self.values = [weight.detach().clone() for weight in weights]

    def follow(self, step: int) -> None:
        """Take in what the weights became; ``step`` counts those before."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [w.detach() for w in self.weights], 1 - decay)

    @torch.no_grad()
    def settle(self) -> None:
        """Put the average into the weights."""
        for weight, value in zip(self.weights, self.values, strict=True):
            weight.copy_(value)


class RunningMeans:
    """Of each term's value, a step weighing ``share``; the first step counts as all before it."""

    def __init__(self, share: float = 0.01) -> None:
        self.share = share
        self.values: dict[str, float] = {}

    def follow(self, losses: Mapping[str, Tensor]) -> None:
        for name, value in losses.items():
            now = float(value.detach())
            mean = self.values.get(name, now)
            self.values[name] = mean + self.share * (now - mean)

    def __str__(self) -> str:
        return " ".join(f"{name} {value:.3f}" for name, value in self.values.items())


class Descent:
    """AdamW, and Muon for the matrices inside, whose steps are orthogonalised (Jordan et al. 2024).

    A step of Adam moves every weight alike, so what it does to an answer grows with the number of
    inputs: filters of thousands of pixels learn slower in proportion (Yang et al. 2021).

    Args:
        weights: all that learn.
        matrices: those of them that Muon moves, two-dimensional.
        learning_rate: AdamW's, at its peak.
        matrix_rate: Muon's, at its peak.
        weight_decay: on matrices only.
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], matrices: Iterable[nn.Parameter], *,
        learning_rate: float, matrix_rate: float, weight_decay: float,
    ) -> None:  # fmt: skip
        inner = list(matrices)
        mine = {id(matrix) for matrix in inner}
        self.others = [weight for weight in weights if id(weight) not in mine]
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for p in self.others:
            slower = len(p) / p[0].numel() if p.ndim == 4 else 1.0
            matrix = p.ndim == 2 and min(p.shape) > 1
            rate = learning_rate * min(1.0, slower)
            groups.setdefault((rate, weight_decay if matrix else 0.0), []).append(p)
        adam = [
            {"params": params, "peak": rate, "weight_decay": decay}
            for (rate, decay), params in groups.items()
        ]
        muon = [{"params": inner, "peak": matrix_rate}]
        self.optimizers = [
            torch.optim.AdamW(adam, betas=(0.9, 0.98)),
            torch.optim.Muon(muon, weight_decay=weight_decay),
        ]

    def step(self, loss: Tensor, share: float) -> None:
        """Move the weights down ``loss`` at this ``share`` of the peak rates."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.others, 1.0)  # Muon looks at directions only
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * group["peak"]
            optimizer.step()


def inner_matrices(module: nn.Module) -> list[nn.Parameter]:
    """Weights of the linear layers of ``module``."""
    return [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]


def behind_the_tower(graph: ScoringGraph) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Let all of ``graph`` learn but its tower; returns what learns, and the matrices inside."""
    graph.requires_grad_(False)
    parts = [graph.projector, graph.decoder, graph.lm_head]
    weights = [*nn.ModuleList(parts).requires_grad_(True).parameters()]
    return weights, inner_matrices(nn.ModuleList(parts[:-1]))
