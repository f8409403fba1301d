"""Scoring as the nodes do it: with a progress bar, interruptible, and loud about a failure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.utils
from comfy_api.latest import io

from ..artimuse_core.errors import ModelError
from ..artimuse_core.images import load_image
from ..artimuse_core.inputs import flatten
from ..artimuse_core.models import NANO
from ..artimuse_core.results import ScoreResult
from . import models
from .batches import check_scores, split_images

ArtiMuseModel = io.Custom("ARTIMUSE_MODEL")


def model_input() -> Any:
    return ArtiMuseModel.Input(
        "model", optional=True, tooltip="From ArtiMuse Loader; the embedded nano if not wired."
    )


def scores_input() -> Any:
    return io.Float.Input(
        "scores",
        optional=True,
        force_input=True,
        tooltip="From ArtiMuse Score, one per image. Not wired: the images are scored here.",
    )


def pick_model(model: Sequence[models.LoadedModel] | None) -> models.LoadedModel:
    """The wired model, or nano."""
    return model[0] if model else models.load(NANO)


def score_images(
    images: Sequence[Any], model: Sequence[models.LoadedModel] | None
) -> list[ScoreResult]:
    """Score batches (B, H, W, C), one result an image; the user can interrupt between any two.

    Raises ImageInputError where there is no image, ModelError where one could not be scored.
    """
    flat = list(flatten(split_images(images)))
    scorer = pick_model(model).ready()
    bar = comfy.utils.ProgressBar(len(flat))
    results = []
    for scored in scorer.stream(flat, lambda image: (load_image(image), None)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        if scored.result.error is not None:
            raise ModelError(f"image {len(results)}: {scored.result.error}")
        results.append(scored.result)
        bar.update(1)
    return results


def wired_or_scored(
    images: Sequence[Any],
    total: int,
    model: Sequence[models.LoadedModel] | None,
    scores: Sequence[float] | None,
    spreads: Sequence[float] | None = None,
) -> tuple[list[float], list[float] | None]:
    """Scores and spreads of ``total`` images: the wired ones, or the model's.

    The spreads are None where scores are wired without them.
    """
    if scores is None:
        results = score_images(images, model)
        return [result.score for result in results], [result.std for result in results]
    numbers = check_scores("scores", scores, total)
    return numbers, None if spreads is None else check_scores("spreads", spreads, total)
