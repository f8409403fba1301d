"""What the stages that train nano share: the rate's course, the weights' average, weighed terms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def cosine_rate(step: int, steps: int, peak: float, *, warmup: float, floor: float = 0.0) -> float:
    """Linear over the first share ``warmup`` of the steps, then a cosine to ``floor`` · peak."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


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
