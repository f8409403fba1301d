"""How firm a cut is: the images near it are scored again under small crops."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from ..artimuse_core.errors import ImageError
from ..artimuse_core.images import load_image
from ..artimuse_core.scorer import Scorer
from .decide import Wishes, rank_records
from .records import Record
from .sources import source_of

log = logging.getLogger(__name__)

NEAR = 24
"""Images looked at on either side of the cut."""
TRIALS = 8
MAX_CROP = 0.04
"""Of each side, at most: what nobody would call another picture."""


def with_stability(
    scorer: Scorer, ranked: Sequence[Record], wishes: Wishes, *, near: int = NEAR
) -> list[Record]:
    """The records with ``stays`` set on those near the cut: how often each is kept, 0..1.

    In each trial all images near the cut get the score of a crop of theirs, and all rules decide
    anew. Crops follow from the path, so that a run repeats.
    """
    pool = _near_the_cut(ranked, near)
    crops: dict[str, list[tuple[float, float]]] = {}
    for record in pool:
        try:
            image = load_image(_whole(record.path), max_pixels=scorer.max_pixels)
        except ImageError as error:
            log.warning("%s: not tried for stability: %s", record.path, error)
            continue
        results = scorer.score(list(_crops(image, random.Random(record.path))))
        if all(result.ok for result in results):
            crops[record.path] = [(result.score, result.std) for result in results]
    # Near-duplicates stay dropped: which of two copies is better is not what the cut is about.
    free = [record for record in ranked if record.duplicate_of is None]
    again = dataclasses.replace(wishes, dedup=None)
    kept: Counter[str] = Counter()
    for trial in range(TRIALS if crops else 0):
        moved = [
            dataclasses.replace(r, score=crops[r.path][trial][0], std=crops[r.path][trial][1])
            if r.path in crops
            else r
            for r in free
        ]
        kept.update(record.path for record in rank_records(moved, again) if record.selected)
    return [
        dataclasses.replace(r, stays=kept[r.path] / TRIALS) if r.path in crops else r
        for r in ranked
    ]


def _whole(path: str) -> Path | bytes:
    source = source_of(path)
    return source if isinstance(source, Path) else source.read_bytes()


def firmness(records: Sequence[Record]) -> str:
    """One line on the cut, empty where no image was tried."""
    tried = [record for record in records if record.stays is not None]
    inside = [record.stays or 0.0 for record in tried if record.selected]
    outside = [record.stays or 0.0 for record in tried if not record.selected]
    if not inside or not outside:
        return "the cut lies at an end of the ranking; nothing to try" if tried else ""
    toss = sum(0.25 <= (record.stays or 0.0) <= 0.75 for record in tried)
    return (
        f"cut: under crops of up to {MAX_CROP:.0%} the {len(inside)} kept images next to it stay "
        f"{sum(inside) / len(inside):.0%} of the time, the {len(outside)} others come in "
        f"{sum(outside) / len(outside):.0%}; {toss} could go either way"
    )


def _near_the_cut(ranked: Sequence[Record], near: int) -> list[Record]:
    """The last kept and the first that only the cut kept out."""
    kept = [record for record in ranked if record.selected]
    below = [r for r in ranked if not r.selected and (r.reason or "").startswith("below")]
    grouped = [r for r in ranked if not r.selected and "of its group" in (r.reason or "")]
    return kept[-near:] + (below or grouped)[:near]


def _crops(image: Image.Image, chance: random.Random) -> Iterator[Image.Image]:
    for _ in range(TRIALS):
        left, top, right, bottom = (chance.uniform(0, MAX_CROP) for _ in range(4))
        box = (
            round(left * image.width),
            round(top * image.height),
            max(round(left * image.width) + 1, round((1 - right) * image.width)),
            max(round(top * image.height) + 1, round((1 - bottom) * image.height)),
        )
        yield image.crop(box)
