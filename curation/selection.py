"""Which images to keep. Pure: numbers in, indices out; other modules touch files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from ..artimuse_core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Top:
    """How many of the best to keep: a count, or a share of all."""

    amount: Decimal
    percent: bool

    @classmethod
    def parse(cls, text: str) -> Top:
        """Read ``10`` or ``10%``. Raises UsageError for anything else."""
        number = text.strip()
        percent = number.endswith("%")
        try:
            # Decimal: 7 % of 100 is 7, but with floats it is 7.000000000000001, whose ceiling is 8.
            amount = Decimal(number.rstrip("%").strip() if percent else number)
        except InvalidOperation:
            amount = Decimal("NaN")
        whole = percent or amount == amount.to_integral_value()
        if not (amount.is_finite() and amount > 0 and whole) or (percent and amount > 100):
            raise UsageError(f"expected a count such as 20 or a share such as 10%, got {text!r}")
        return cls(amount, percent)

    def count(self, total: int) -> int:
        """Of ``total`` images; a share rounds up, so that it keeps at least one."""
        wanted = math.ceil(total * self.amount / 100) if self.percent else int(self.amount)
        return min(wanted, total)

    def __str__(self) -> str:
        return f"{self.amount.normalize():f}" + ("%" if self.percent else "")


def rank(scores: Sequence[float], paths: Sequence[str]) -> list[int]:
    """Indices from best to worst; equal scores by path, so that runs repeat. NaN is left out."""
    scored = [index for index, score in enumerate(scores) if not math.isnan(score)]
    return sorted(scored, key=lambda index: (-scores[index], paths[index]))


def select(
    scores: Sequence[float],
    ranking: Sequence[int],
    *,
    top: Top | None = None,
    min_score: float | None = None,
) -> list[int]:
    """The kept part of ``ranking``, best first. With both rules an image must pass both.

    ``top`` counts against all ranked images, not only those above ``min_score``.
    """
    kept = list(ranking if top is None else ranking[: top.count(len(ranking))])
    if min_score is not None:
        kept = [index for index in kept if scores[index] >= min_score]
    return kept
