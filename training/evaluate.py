"""A model's agreement with people on rated images: ``artimuse evaluate``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..artimuse_core.errors import ImageError, UsageError
from ..artimuse_core.images import load_image
from ..artimuse_core.scorer import DEFAULT_BATCH_SIZE, Scorer
from . import metrics
from .datasets.base import Sample

MINIMUM = 3
"""Images below which a correlation says nothing."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Agreement on one set of images."""

    n: int
    srcc: float
    srcc_interval: tuple[float, float]
    """95%, bootstrap."""
    plcc: float
    """Without a fit, as the paper has it."""
    plcc_interval: tuple[float, float]
    kendall: float
    plcc_fitted: float | None
    """After the logistic fit of four parameters, as the quality literature has it; None where the
    fit does not converge or comes out flat."""
    rmse: float | None
    """After that fit, in score points."""


@dataclass(frozen=True, slots=True)
class Prediction:
    image: Path
    human: float
    """0..100."""
    predicted: float
    """0..100."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model on one data set."""

    model: str
    dataset: str
    figures: Figures
    resampled: str
    """What the bootstrap drew: ``image``, or the group whose images belong together."""
    groups: dict[str, Figures | None]
    """By value of the group asked for; None where it has too few images."""
    missing: tuple[Path, ...]
    """Images that are not there; left out of the figures."""
    failed: tuple[str, ...]
    """One line for each image that could not be scored; left out as well."""
    predictions: tuple[Prediction, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the single predictions; NaN as None, which JSON has no word for."""
        kept = {name: getattr(self, name) for name in ("model", "dataset", "resampled", "failed")}
        groups = {name: figures and asdict(figures) for name, figures in self.groups.items()}
        missing = [str(path) for path in self.missing]
        row = {**kept, **asdict(self.figures), "groups": groups, "missing": missing}
        plain = _plain(row)
        assert isinstance(plain, dict)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate(
    scorer: Scorer,
    samples: Sequence[Sample],
    *,
    dataset: str = "",
    model: str = "",
    per: str | None = None,
    together: str | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    known: Mapping[str, float] | None = None,
    on_score: Callable[[Prediction], None] = lambda prediction: None,
) -> Evaluation:
    """Score every rated image and compare.

    ``known``: scores from before by the image's path, not to be made again. ``on_score`` is
    called with each new one as soon as it is there.

    ``per``: a group to give figures for one by one. ``together``: a group whose images the
    bootstrap draws together, since they are not independent (those of one prompt).
    ``model``: what to call it, if not by the scorer's name.
    Raises UsageError for groups that no image has, ImageError if too few can be scored.
    """
    rated = [sample for sample in samples if sample.score is not None]
    for group in (per, together):
        _check_group(group, rated)
    there = [sample for sample in rated if sample.image.is_file()]
    missing = tuple(sample.image for sample in rated if not sample.image.is_file())
    predictions, failed = _predict(scorer, there, known or {}, on_score, batch_size)
    if len(predictions) < MINIMUM:
        first = failed[0] if failed else f"{missing[0]}: no such file" if missing else "no ratings"
        raise ImageError(
            f"{len(predictions)} of {len(rated)} rated images could be scored, "
            f"at least {MINIMUM} are needed (first: {first})"
        )
    kept = [sample for sample in there if sample.image in predictions]
    predicted = np.array([predictions[sample.image].predicted for sample in kept], np.float64)
    human = np.array([sample.score for sample in kept], np.float64)
    units = [sample.groups[together] for sample in kept] if together else None
    parts = {} if per is None else _parts(kept, per)
    return Evaluation(
        model=model or scorer.name,
        dataset=dataset,
        figures=_figures(predicted, human, units),
        resampled=together or "image",
        groups={
            name: _figures(predicted[rows], human[rows], units and [units[i] for i in rows])
            if len(rows) >= MINIMUM
            else None
            for name, rows in parts.items()
        },
        missing=missing,
        failed=failed,
        predictions=tuple(predictions[sample.image] for sample in kept),
    )


def _predict(
    scorer: Scorer,
    samples: Sequence[Sample],
    known: Mapping[str, float],
    on_score: Callable[[Prediction], None],
    batch_size: int,
) -> tuple[dict[Path, Prediction], tuple[str, ...]]:
    """Predictions by image, and a line for each image that could not be scored."""
    predictions, failed = {}, []

    def prepare(sample: Sample) -> tuple[Image.Image, None]:
        return load_image(sample.image, max_pixels=scorer.max_pixels), None

    for sample in samples:
        if str(sample.image) in known:
            predictions[sample.image] = _prediction(sample, known[str(sample.image)])
    new = [sample for sample in samples if sample.image not in predictions]
    for scored in scorer.stream(new, prepare, batch_size=batch_size):
        sample, result = scored.source, scored.result
        if result.ok:
            predictions[sample.image] = _prediction(sample, result.score)
            on_score(predictions[sample.image])
        else:
            failed.append(f"{sample.image}: {result.error}")
    return predictions, tuple(failed)


def _prediction(sample: Sample, predicted: float) -> Prediction:
    assert sample.score is not None
    return Prediction(sample.image, sample.score, float(predicted))


def _check_group(group: str | None, samples: Sequence[Sample]) -> None:
    lacking = [sample for sample in samples if group is not None and group not in sample.groups]
    if lacking:
        known = sorted(set.intersection(*(set(sample.groups) for sample in samples)))
        raise UsageError(
            f"{len(lacking)} images have no group {group!r}; all have: {', '.join(known) or 'none'}"
        )


def _parts(samples: Sequence[Sample], per: str) -> dict[str, list[int]]:
    parts: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        parts.setdefault(sample.groups[per], []).append(row)
    return dict(sorted(parts.items()))


def _figures(
    predicted: npt.NDArray[np.float64], human: npt.NDArray[np.float64], units: list[str] | None
) -> Figures:
    fitted = metrics.logistic_fit(predicted, human)
    if fitted is not None and np.ptp(fitted) < 1e-9:
        fitted = None
    return Figures(
        n=len(predicted),
        srcc=metrics.srcc(predicted, human),
        srcc_interval=metrics.bootstrap_interval(metrics.srcc, predicted, human, units),
        plcc=metrics.plcc(predicted, human),
        plcc_interval=metrics.bootstrap_interval(metrics.plcc, predicted, human, units),
        kendall=metrics.kendall(predicted, human),
        plcc_fitted=None if fitted is None else metrics.plcc(fitted, human),
        rmse=None if fitted is None else metrics.rmse(fitted, human),
    )
