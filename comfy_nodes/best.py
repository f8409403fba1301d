"""The node "ArtiMuse Best of N"."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from . import models
from .batches import blocked, one_per_image, split_images, split_latents
from .schema import describe
from .scoring import model_input, scores_input, wired_or_scored


class ArtiMuseBestOfN(io.ComfyNode):
    """A batch → its best image, with its latent and its place."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return describe(
            node_id="ArtiMuseBestOfN",
            display_name="ArtiMuse Best of N",
            description="Keeps the best image of a batch. Sample many with few steps, keep the "
            "best latent, finish it with all steps.",
            search_aliases=["pick", "best", "draft", "rejection sampling"],
            inputs=[
                io.Image.Input("images", tooltip="The batch of one sampler run, decoded."),
                io.Latent.Input(
                    "latents", optional=True, tooltip="The same batch before decoding."
                ),
                model_input(),
                scores_input(),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The best one."),
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="Its latent, which remembers its place in the batch, so that a sampler "
                    "goes on with the same noise.",
                ),
                io.Float.Output(
                    "best_score", display_name="best_score", tooltip="Its score, 0 to 100."
                ),
                io.Int.Output(
                    "index", display_name="index", tooltip="Its place in the batch, from 0."
                ),
            ],
            is_input_list=True,
        )

    @classmethod
    def execute(
        cls,
        images: list[Any],
        latents: list[dict[str, Any]] | None = None,
        model: list[models.LoadedModel] | None = None,
        scores: list[float] | None = None,
    ) -> io.NodeOutput:
        singles = split_images(images)
        singles_latent = (
            None
            if latents is None
            else one_per_image("latents", split_latents(latents), len(singles))
        )
        numbers, _ = wired_or_scored(images, len(singles), model, scores)
        best = max(range(len(singles)), key=lambda index: numbers[index])
        return io.NodeOutput(
            singles[best],
            blocked("ArtiMuse Best of N has no latent to give: wire its input 'latents' as well")
            if singles_latent is None
            else singles_latent[best],
            numbers[best],
            best,
            ui={
                "text": [f"#{best} of {len(singles)}: {numbers[best]:.2f}"],
                "score": numbers,
                "kept": [best],
            },
        )
