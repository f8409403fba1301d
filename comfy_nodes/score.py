"""The node "ArtiMuse Score"."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.utils
from comfy_api.latest import io

from ..artimuse_core.errors import ModelError
from ..artimuse_core.images import load_image
from ..artimuse_core.inputs import flatten
from ..artimuse_core.results import ScoreResult
from ..artimuse_core.scorer import NANO, Scorer
from . import models
from .loader import ArtiMuseModel


class ArtiMuseScore(io.ComfyNode):
    """Images → scores, spreads, the best, the mean and a report."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ArtiMuseScore",
            display_name="ArtiMuse Score",
            category="ArtiMuse",
            description="Scores the aesthetics of images from 0 to 100.",
            inputs=[
                io.Image.Input("images", tooltip="A batch, or a list of images of any sizes."),
                ArtiMuseModel.Input(
                    "model", optional=True, tooltip="From ArtiMuse Loader; nano if not wired."
                ),
            ],
            outputs=[
                io.Float.Output("score", tooltip="0 to 100, one per image.", is_output_list=True),
                io.Float.Output(
                    "spread",
                    tooltip="How unsure the model is, in score points, one per image.",
                    is_output_list=True,
                ),
                io.Float.Output("best_score"),
                io.Float.Output("mean"),
                io.String.Output("report"),
            ],
            is_input_list=True,  # images of different sizes arrive as a list, not a batch
            is_output_node=True,  # it shows its scores, also with nothing wired behind it
        )

    @classmethod
    def execute(cls, images: list[Any], model: list[Scorer] | None = None) -> io.NodeOutput:
        scorer = model[0] if model else models.load(NANO, "auto", "auto")
        results = score_with_progress(scorer, images)
        scores = [result.score for result in results]
        text = report(scorer, results)
        return io.NodeOutput(
            scores,
            [result.std for result in results],
            max(scores),
            statistics.fmean(scores),
            text,
            ui={"text": [text], "score": scores, "spread": [result.std for result in results]},
        )


def score_with_progress(scorer: Scorer, images: list[Any]) -> list[ScoreResult]:
    """Score batches ``(B, H, W, C)``; the user can interrupt between any two batches."""
    flat = list(flatten(images))
    bar = comfy.utils.ProgressBar(len(flat))
    results = []
    for scored in scorer.stream(flat, lambda image: (load_image(image), None)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        if scored.result.error is not None:
            raise ModelError(f"image {len(results)}: {scored.result.error}")
        results.append(scored.result)
        bar.update(1)
    return results


def report(scorer: Scorer, results: Sequence[ScoreResult]) -> str:
    """One line per image, best first, under the model's card."""
    order = sorted(range(len(results)), key=lambda index: -results[index].score)
    lines = [f"{scorer.name}: {scorer.card}"]
    lines += [f"#{i}: {results[i].score:.2f} ± {results[i].std:.2f}" for i in order]
    return "\n".join(lines)
