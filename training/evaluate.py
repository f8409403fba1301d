"""A model's agreement with people on any rated images: ``artimuse evaluate``."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..artimuse_core.errors import ImageError, UsageError
from ..artimuse_core.scorer import DEFAULT_BATCH_SIZE, Scorer
from .metrics import plcc, srcc


@dataclass(frozen=True, slots=True)
class RatedImage:
    image: Path
    score: float
    """On any scale: SRCC and PLCC do not depend on it."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    srcc: float
    plcc: float
    n: int
    """Images that both sides scored."""
    failed: tuple[str, ...]
    """One line for each image that could not be scored; these are left out."""


def read_ratings(file: Path, images: Path) -> list[RatedImage]:
    """Read ``image`` and ``score`` from CSV (with a header) or JSON lines.

    Image names are relative to ``images``. Raises UsageError with file, line and reason.
    """
    if not file.is_file():
        raise UsageError(f"no ratings in {file}: no such file")
    ratings = []
    for line, row in _rows(file):
        try:
            score = float(row["score"])
            name = str(row["image"])
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"{file}:{line}: expected an image name and a numeric score, got {row!r}"
            ) from error
        if not math.isfinite(score):
            raise UsageError(f"{file}:{line}: the score of {name} is not a number")
        ratings.append(RatedImage(images / name, score))
    if len(ratings) < 3:
        raise UsageError(f"{file} holds {len(ratings)} ratings; a correlation needs at least 3")
    return ratings


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers, from 1, and what stands there."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        if file.suffix.lower() == ".csv":
            table = csv.DictReader(stream)
            for row in table:
                yield table.line_num, row
        elif file.suffix.lower() == ".jsonl":
            for line, text in enumerate(stream, start=1):
                if text.strip():
                    try:
                        row = json.loads(text)
                    except ValueError as error:
                        raise UsageError(f"{file}:{line}: not JSON: {error}") from error
                    yield line, row
        else:
            raise UsageError(f"cannot read {file}: expected a name ending in .csv or .jsonl")


def evaluate(
    scorer: Scorer, ratings: list[RatedImage], *, batch_size: int = DEFAULT_BATCH_SIZE
) -> Evaluation:
    """Score every rated image and correlate. Raises ImageError if fewer than 3 can be scored."""
    results = scorer.score([rating.image for rating in ratings], batch_size=batch_size)
    failed = tuple(
        f"{rating.image}: {result.error}"
        for rating, result in zip(ratings, results, strict=True)
        if not result.ok
    )
    predicted = np.array([result.score for result in results])
    human = np.array([rating.score for rating in ratings])
    fine = ~np.isnan(predicted)
    if fine.sum() < 3:
        reason = f" (first: {failed[0]})" if failed else ""
        raise ImageError(f"only {fine.sum()} of {len(ratings)} images could be scored{reason}")
    return Evaluation(
        srcc=srcc(predicted[fine], human[fine]),
        plcc=plcc(predicted[fine], human[fine]),
        n=int(fine.sum()),
        failed=failed,
    )
