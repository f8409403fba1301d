"""The node "ArtiMuse Score"."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..artimuse_core.results import ScoreResult
from . import models
from .schema import describe
from .scoring import model_input, pick_model, score_images


class ArtiMuseScore(io.ComfyNode):
    """Images → scores, spreads, the best, the mean and a report."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return describe(
            node_id="ArtiMuseScore",
            display_name="ArtiMuse Score",
            description="Scores the aesthetics of images from 0 to 100.",
            search_aliases=["aesthetic", "rating", "quality", "IQA", "IAA"],
            inputs=[
                io.Image.Input("images", tooltip="A batch, or a list of images of any sizes."),
                model_input(),
            ],
            outputs=[
                io.Float.Output(
                    "score",
                    display_name="scores",
                    tooltip="0 to 100, one per image.",
                    is_output_list=True,
                ),
                io.Float.Output(
                    "spread",
                    display_name="spreads",
                    tooltip="How unsure the model is, in score points, one per image.",
                    is_output_list=True,
                ),
                io.Float.Output(
                    "best_score", display_name="best_score", tooltip="The highest of all images."
                ),
                io.Float.Output("mean", display_name="mean", tooltip="Over all images."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="The model and a line per image, best first.",
                ),
            ],
            is_input_list=True,  # images of different sizes arrive as a list, not a batch
            is_output_node=True,  # it shows its scores, also with nothing wired behind it
        )

    @classmethod
    def execute(
        cls, images: list[Any], model: list[models.LoadedModel] | None = None
    ) -> io.NodeOutput:
        results = score_images(images, model)
        scores = [result.score for result in results]
        spreads = [result.std for result in results]
        text = report(pick_model(model), results)
        return io.NodeOutput(
            scores,
            spreads,
            max(scores),
            statistics.fmean(scores),
            text,
            ui={
                "text": [text],
                "score": scores,
                "spread": spreads,
                "distribution": [distribution(result) for result in results],
            },
        )


def distribution(result: ScoreResult) -> list[float]:
    """What the widget draws: the probability of each score token, ascending."""
    return [] if result.probs is None else [round(float(p), 5) for p in result.probs]


def report(model: models.LoadedModel, results: Sequence[ScoreResult]) -> str:
    """One line per image, best first, under the model's card."""
    order = sorted(range(len(results)), key=lambda index: -results[index].score)
    lines = [f"{model.scorer.name}: {model.scorer.card}"]
    lines += [f"#{i}: {results[i].score:.2f} ± {results[i].std:.2f}" for i in order]
    return "\n".join(lines)
