"""From scored records to ranked ones, each with its verdict and the reason."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..artimuse_core.attributes import ATTRIBUTES
from . import selection
from .conditions import Condition
from .diversity import pick_diverse, relevances
from .duplicates import as_hashes, near_duplicates, near_references
from .groups import Per, group_of
from .metadata import GenerationInfo
from .records import Record
from .selection import Bucket, Rules, Top
from .sources import folder_of, name_of


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
    dedup: int | None = None
    """Images that differ in at most this many of 64 bits are near-duplicates."""
    novelty: float | None = None
    """How much looks count against score in what is kept, 0..1 (``--diverse``)."""

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
        return self.rules.selecting or self.where is not None or self.dedup is not None


@dataclass(frozen=True)
class Looks:
    """What is known of the looks of what is ranked, and of what it is compared with."""

    hashes: Mapping[bytes, int] = field(default_factory=dict)
    """Perceptual hash by the hash of an image's pixels."""
    references: Sequence[tuple[str, int]] = ()
    """Path and perceptual hash of images that are never touched."""
    embeddings: Mapping[bytes, npt.NDArray[np.float16]] = field(default_factory=dict)
    """(W,) by the hash of an image's pixels; what has none is like nothing."""


def parse_where(text: str) -> Condition:
    """``--where`` over the fields of a record, ``name`` and ``folder``. Raises UsageError."""
    return Condition.parse(text, _values(_EXAMPLE))


def rank_records(
    records: Sequence[Record],
    wishes: Wishes | None = None,
    looks: Looks | None = None,
) -> list[Record]:
    """The records from best to worst with rank and verdict set, failures last.

    ``looks``: needed where near-duplicates are to be dropped, or the kept ones to differ.
    """
    wishes, looks = wishes or Wishes(), looks or Looks()
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
    dropped = _not_where(records, wishes.where)
    copies: dict[int, str] = {}
    if wishes.dedup is not None:
        open_to_all = selection.choose(scores, ranking, _single(wishes), dropped=dropped).kept
        copies = _copies(records, open_to_all, looks, wishes.dedup)
        dropped |= {index: f"nearly equals {path}" for index, path in copies.items()}
    if wishes.novelty is not None:
        candidates = selection.choose(scores, ranking, _single(wishes), dropped=dropped).kept
        picks = _picks(records, candidates, values, groups, looks, wishes, len(ranking))
        reason = "others have a better score or look more unlike what is kept"
        dropped |= dict.fromkeys(set(candidates) - picks, reason)
    choice = selection.choose(scores, ranking, wishes.rules, groups=groups, dropped=dropped)
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
            duplicate_of=copies.get(index),
        )
        for place, index in enumerate(ranking, start=1)
    ]
    return ranked + [record for record in records if record.error is not None]


def _not_where(records: Sequence[Record], where: Condition | None) -> dict[int, str]:
    if where is None:
        return {}
    reason = f"not where {where.text}"
    return {i: reason for i, record in enumerate(records) if not where.holds(_values(record))}


def _single(wishes: Wishes) -> Rules:
    """The rules that look at one image alone; what they refuse stands in nobody's place."""
    return Rules(min_score=wishes.min_score, max_score=wishes.max_score)


def _copies(
    records: Sequence[Record], candidates: Sequence[int], looks: Looks, distance: int
) -> dict[int, str]:
    """The better or reference image that each near-duplicate among the candidates nearly equals."""
    known = [i for i in candidates if records[i].pixels in looks.hashes]
    hashes = as_hashes([looks.hashes[records[i].pixels or b""] for i in known])
    references = as_hashes([number for _, number in looks.references])
    near = near_references(hashes, references, distance)
    copies = {known[place]: looks.references[which][0] for place, which in near.items()}
    free = np.array([place for place in range(len(known)) if place not in near], dtype=np.int64)
    behind = near_duplicates(hashes[free], distance)
    copies |= {known[free[p]]: records[known[free[leader]]].path for p, leader in behind.items()}
    return copies


def _picks(
    records: Sequence[Record],
    candidates: Sequence[int],
    values: Sequence[float],
    groups: Sequence[str],
    looks: Looks,
    wishes: Wishes,
    total: int,
) -> set[int]:
    """What to keep of the candidates where what is kept has to differ."""
    assert wishes.novelty is not None
    known = [looks.embeddings.get(records[i].pixels or b"") for i in candidates]
    width = max((len(vector) for vector in known if vector is not None), default=1)
    embeddings = np.zeros((len(candidates), width), np.float32)
    for row, vector in zip(embeddings, known, strict=True):
        if vector is not None:
            row[:] = vector
    numbers: dict[str, int] = {}
    picks = pick_diverse(
        relevances([values[i] for i in candidates]),
        embeddings,
        wishes.top.count(total) if wishes.top else len(candidates),
        wishes.novelty,
        groups=[numbers.setdefault(groups[i], len(numbers)) for i in candidates] if groups else [],
        per_group=wishes.per.count if wishes.per else None,
    )
    return {candidates[place] for place in picks}


_NOT_ASKED = frozenset(
    "rank selected reason standing bucket group duplicate_of stays error attributes "
    "critique".split()
)


def _values(record: Record) -> dict[str, Any]:
    """What ``--where`` may ask about; nothing that the decision itself sets."""
    values = {k: v for k, v in record.as_dict().items() if k not in _NOT_ASKED}
    return (
        values
        | dict(record.attributes or {})
        | {"name": name_of(record.path), "folder": folder_of(record.path)}
    )


_EXAMPLE = Record(
    path="folder/name.png", score=50.0, std=5.0, model="nano", width=1024, height=1024,
    sha256="0",
    info=GenerationInfo(
        prompt="a cat", negative_prompt="blurry", seed=1, generator="ComfyUI",
        checkpoint="model.safetensors", sampler="euler", scheduler="normal", steps=20, cfg=7.0,
        loras="a.safetensors", workflow="0",
    ),
    attributes={attribute.key: 50.0 for attribute in ATTRIBUTES},
)  # fmt: skip
"""A value of its type for each name, so that wrong comparisons are found before scoring."""
