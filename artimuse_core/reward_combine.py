"""Several rewards as one: a weighted sum, with gates that close terms below a floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import UsageError
from .reward import Floats, Rewards, as_output, check_output, log_failures

RewardFunction = Callable[[Any, Any, Any], Any]
"""``(images, prompts, metadata) -> (B,)`` numbers, or a pair of those and anything else."""


@dataclass(frozen=True)
class Term:
    """One reward of a combination."""

    reward: RewardFunction
    """A :class:`Reward`, a client, or any trainer's reward function."""
    weight: float = 1.0
    """0: computed for gates alone."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise UsageError(f"expected a finite weight, got {self.weight}")


@dataclass(frozen=True)
class Gate:
    """Where a term is below the floor, other terms earn nothing."""

    term: str
    """The term that decides, by its value before weighting."""
    floor: float
    closes: tuple[str, ...] = ()
    """The terms that earn nothing; all others if empty."""


class CombinedReward:
    """``CombinedReward({"beauty": Term(Reward(), 0.7), …}, gates=[Gate("quality", 40.0)])``.

    The reward is the sum of weight × value over the terms that no gate closes. An image for which
    any term (or gate) has no finite value gets NaN and a reason that names the term.
    """

    def __init__(
        self, terms: Mapping[str, Term], gates: Sequence[Gate] = (), *, output: str = "auto"
    ) -> None:
        check_output(output)
        if not terms:
            raise UsageError("expected at least one term")
        for gate in gates:
            unknown = {gate.term, *gate.closes} - set(terms)
            if unknown:
                raise UsageError(
                    f"gate names {', '.join(sorted(unknown))}; known: {', '.join(terms)}"
                )
        self.terms = dict(terms)
        self.gates = tuple(gates)
        self.output = output

    def __call__(self, images: Any, prompts: Any = None, metadata: Any = None) -> Any:
        """(B,) fp32 rewards, see :class:`Reward`."""
        rewards = self.evaluate(images, prompts, metadata)
        log_failures(rewards)
        return as_output(rewards.values, images, self.output)

    def evaluate(self, images: Any, prompts: Any = None, metadata: Any = None) -> Rewards:
        """The same with reasons; ``scores`` holds the sum before the gates."""
        parts = {
            name: _evaluate(name, term.reward, images, prompts, metadata)
            for name, term in self.terms.items()
        }
        sizes = {name: len(part.values) for name, part in parts.items()}
        if len(set(sizes.values())) > 1:
            raise UsageError(f"the terms answered with different numbers of rewards: {sizes}")
        weighted = {
            name: np.float32(self.terms[name].weight) * part.values for name, part in parts.items()
        }
        ungated = _sum(weighted.values())
        for gate in self.gates:
            closed = parts[gate.term].values < gate.floor
            for name in gate.closes or [name for name in parts if name != gate.term]:
                # NaN stays: a term that failed is unknown, not zero.
                weighted[name] = np.where(
                    closed & ~np.isnan(weighted[name]), np.float32(0), weighted[name]
                )
        return Rewards(
            values=_sum(weighted.values()),
            errors=_errors(parts),
            scores=ungated,
            stds=np.full_like(ungated, np.nan),
            penalties=_sum(part.penalties for part in parts.values()),
            warnings=tuple(w for part in parts.values() for w in part.warnings),
        )


def _evaluate(
    name: str, reward: RewardFunction, images: Any, prompts: Any, metadata: Any
) -> Rewards:
    """Any reward function's answer as :class:`Rewards`; not finite becomes NaN with a reason."""
    if hasattr(reward, "evaluate"):
        known: Rewards = reward.evaluate(images, prompts, metadata)
        return known
    answer = reward(images, prompts, metadata)
    if isinstance(answer, tuple):
        answer = answer[0]
    if hasattr(answer, "detach"):
        answer = answer.detach().float().cpu().numpy()
    values = np.array([float(value) for value in answer], np.float32)
    finite = np.isfinite(values)
    nothing = np.full_like(values, np.nan)
    return Rewards(
        values=np.where(finite, values, nothing),
        errors=tuple(None if fine else "the reward function gave no number" for fine in finite),
        scores=nothing,
        stds=nothing,
        penalties=np.zeros_like(values),
    )


def _sum(rows: Iterable[Floats]) -> Floats:
    total: Floats = np.stack(list(rows)).sum(axis=0, dtype=np.float32)
    return total


def _errors(parts: Mapping[str, Rewards]) -> tuple[str | None, ...]:
    """One reason an image: the first term without a value."""
    count = len(next(iter(parts.values())).values)
    reasons: list[str | None] = [None] * count
    for name, part in reversed(list(parts.items())):
        for index in np.flatnonzero(np.isnan(part.values)):
            reasons[index] = f"{name}: {part.errors[index] or 'no finite value'}"
    return tuple(reasons)
