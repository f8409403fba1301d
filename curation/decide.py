"""From scored records to ranked ones, each with its verdict and the reason."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import selection
from .conditions import Condition
from .groups import Per, group_of
from .records import Record
from .selection import Bucket, Rules, Top


@dataclass(frozen=True)
class Wishes:
    """What the user asked for; see the command's help for each."""

    top: Top | None = None
    min_score: float | None = None
    max_score: float | None = None
    where: Condition | None = None
    per: Per | None = None
    fair_by: str | None = None
    lower_bound: bool = False
    buckets: tuple[Bucket, ...] = ()

    @property
    def rules(self) -> Rules:
        return Rules(
            top=self.top,
            min_score=self.min_score,
            max_score=self.max_score,
            best_per_group=self.per.count if self.per else None,
            buckets=self.buckets,
        )

    @property
    def selecting(self) -> bool:
        """Whether any wish can drop an image."""
        return self.rules.selecting or self.where is not None


def parse_where(text: str) -> Condition:
    """``--where`` over the fields of a record, ``name`` and ``folder``. Raises UsageError."""
    return Condition.parse(text, _values(_EXAMPLE))


def rank_records(
    records: Sequence[Record],
    wishes: Wishes | None = None,
    *,
    duplicates: Mapping[str, str] | None = None,
) -> list[Record]:
    """The records from best to worst with rank and verdict set, failures last.

    ``duplicates`` maps the path of each image that nearly equals a better one to that one's path.
    """
    wishes = wishes or Wishes()
    scores = [record.score for record in records]
    values = scores
    if wishes.lower_bound:
        values = selection.lower_bounds(scores, [record.std for record in records])
    standings: Sequence[float | None] = [None] * len(records)
    if wishes.fair_by is not None:
        key = wishes.fair_by
        values = selection.standings(values, [group_of(record, key) for record in records])
        standings = [None if math.isnan(value) else value for value in values]
    ranking = selection.rank(values, [record.path for record in records])
    groups = [group_of(record, wishes.per.key) for record in records] if wishes.per else []
    copies = duplicates or {}
    choice = selection.choose(
        scores, ranking, wishes.rules, groups=groups, dropped=_dropped(records, wishes, copies)
    )
    buckets = selection.sort_into(wishes.buckets, scores, ranking)
    ranked = [
        dataclasses.replace(
            records[index],
            rank=place,
            selected=choice.verdicts[index].kept,
            reason=choice.verdicts[index].reason,
            standing=standings[index],
            bucket=buckets.get(index),
            group=groups[index] if groups else None,
            duplicate_of=copies.get(records[index].path),
        )
        for place, index in enumerate(ranking, start=1)
    ]
    return ranked + [record for record in records if record.error is not None]


def _dropped(
    records: Sequence[Record], wishes: Wishes, copies: Mapping[str, str]
) -> dict[int, str]:
    """Indices refused by rules that look at more than the score, with the reason."""
    dropped = {}
    for index, record in enumerate(records):
        if wishes.where is not None and not wishes.where.holds(_values(record)):
            dropped[index] = f"not where {wishes.where.text}"
        elif record.path in copies:
            dropped[index] = f"nearly equals {copies[record.path]}"
    return dropped


_NOT_ASKED = frozenset("rank selected reason standing bucket group duplicate_of error".split())


def _values(record: Record) -> dict[str, Any]:
    """What ``--where`` may ask about; nothing that the decision itself sets."""
    path = Path(record.path)
    values = {k: v for k, v in record.as_dict().items() if k not in _NOT_ASKED}
    return values | {"name": path.name, "folder": str(path.parent)}


_EXAMPLE = Record(
    path="folder/name.png", score=50.0, std=5.0, model="nano", width=1024, height=1024,
    sha256="0", prompt="a cat", negative_prompt="blurry", seed=1, generator="ComfyUI",
    checkpoint="model.safetensors", sampler="euler", scheduler="normal", steps=20, cfg=7.0,
    loras="a.safetensors", workflow="0",
)  # fmt: skip
"""A value of its type for each name, so that wrong comparisons are found before scoring."""
