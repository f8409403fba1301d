"""The node "ArtiMuse Select"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..artimuse_core.images import load_image
from ..artimuse_core.inputs import flatten
from . import models, rules
from .batches import (
    blocked,
    one_per_image,
    split_images,
    split_latents,
    split_masks,
)
from .schema import check_option, describe, first, validate_options
from .scoring import model_input, scores_input, wired_or_scored

ORDERS = ("best first", "as they came")


class ArtiMuseSelect(io.ComfyNode):
    """Images with what belongs to them → the chosen ones, together and in order."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return describe(
            node_id="ArtiMuseSelect",
            display_name="ArtiMuse Select",
            description="Keeps the best images, with their latents, masks, prompts and seeds. "
            "If none is good enough, nothing behind this node runs.",
            search_aliases=["pick", "filter", "choose", "top k", "best"],
            inputs=[
                io.Image.Input("images", tooltip="A batch, or a list of images of any sizes."),
                io.Combo.Input(
                    "rule",
                    options=list(rules.RULES),
                    default=rules.TOP_COUNT,
                    tooltip="top count: the best `count`. top percent: the best `percent`. "
                    "threshold: scores from `threshold` up. lower bound: score minus spread from "
                    "`threshold` up. diverse: the best `count` that do not look alike.",
                ),
                io.Int.Input(
                    "count", default=4, min=1, max=4096, tooltip="For top count and diverse."
                ),
                io.Float.Input(
                    "percent",
                    default=10.0,
                    min=0.1,
                    max=100.0,
                    step=1.0,
                    tooltip="For top percent; at least one image is kept.",
                ),
                io.Float.Input(
                    "threshold",
                    default=50.0,
                    min=0.0,
                    max=100.0,
                    step=1.0,
                    tooltip="For threshold and lower bound, in score points.",
                ),
                io.Float.Input(
                    "min_difference",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    tooltip="For diverse: how far an image must differ from each better one, in "
                    "percent of the range of colours, seen at 16 by 16 pixels.",
                ),
                io.Combo.Input(
                    "order",
                    options=list(ORDERS),
                    default=ORDERS[0],
                    tooltip="Order of the chosen; the rejected stay as they came.",
                ),
                model_input(),
                scores_input(),
                io.Float.Input(
                    "spreads",
                    optional=True,
                    force_input=True,
                    tooltip="From ArtiMuse Score; lower bound needs them where scores are wired.",
                ),
                io.Latent.Input("latents", optional=True, tooltip="One per image."),
                io.Mask.Input("masks", optional=True, tooltip="One per image, or one for all."),
                io.String.Input(
                    "prompts",
                    optional=True,
                    force_input=True,
                    tooltip="One per image, or one for all.",
                ),
                io.Int.Input(
                    "seeds",
                    optional=True,
                    force_input=True,
                    tooltip="One per image, or one for all.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "chosen_images",
                    display_name="images",
                    tooltip="The chosen, one by one.",
                    is_output_list=True,
                ),
                io.Latent.Output(
                    "chosen_latents",
                    display_name="latents",
                    tooltip="Of the chosen; each remembers its place in the batch, so that a "
                    "sampler goes on with the same noise.",
                    is_output_list=True,
                ),
                io.Mask.Output(
                    "chosen_masks",
                    display_name="masks",
                    tooltip="Of the chosen.",
                    is_output_list=True,
                ),
                io.String.Output(
                    "chosen_prompts",
                    display_name="prompts",
                    tooltip="Of the chosen.",
                    is_output_list=True,
                ),
                io.Int.Output(
                    "chosen_seeds",
                    display_name="seeds",
                    tooltip="Of the chosen.",
                    is_output_list=True,
                ),
                io.Float.Output(
                    "chosen_scores",
                    display_name="scores",
                    tooltip="Of the chosen.",
                    is_output_list=True,
                ),
                io.Image.Output(
                    "rejected",
                    display_name="rejected",
                    tooltip="The other images, one by one; nothing runs if there are none.",
                    is_output_list=True,
                ),
                io.Int.Output(
                    "indices",
                    display_name="indices",
                    tooltip="Places of the chosen among the images, from 0.",
                    is_output_list=True,
                ),
                io.String.Output(
                    "pick_list",
                    display_name="pick_list",
                    tooltip="The indices as image pickers take them, such as 0,3.",
                ),
            ],
            is_input_list=True,
        )

    @classmethod
    def validate_inputs(cls, rule: Any = None, order: Any = None) -> bool | str:
        return validate_options(rule=(rule, rules.RULES), order=(order, ORDERS))

    @classmethod
    def execute(
        cls,
        images: list[Any],
        rule: list[str],
        count: list[int],
        percent: list[float],
        threshold: list[float],
        min_difference: list[float],
        order: list[str],
        model: list[models.LoadedModel] | None = None,
        scores: list[float] | None = None,
        spreads: list[float] | None = None,
        latents: list[dict[str, Any]] | None = None,
        masks: list[Any] | None = None,
        prompts: list[str] | None = None,
        seeds: list[int] | None = None,
    ) -> io.NodeOutput:
        wanted = check_option("rule", rule, rules.RULES)
        best_first = check_option("order", order, ORDERS) == ORDERS[0]
        singles = split_images(images)
        total = len(singles)
        # What is wired must fit before anything is scored.
        attached = [
            None if latents is None else one_per_image("latents", split_latents(latents), total),
            _shared("masks", None if masks is None else split_masks(masks), total),
            _shared("prompts", prompts, total),
            _shared("seeds", seeds, total),
        ]
        numbers, widths = wired_or_scored(images, total, model, scores, spreads)
        kept = rules.choose(
            wanted,
            numbers,
            spreads=widths,
            count=first(count),
            percent=first(percent),
            threshold=first(threshold),
            thumbnails=_thumbnails(singles) if wanted == rules.DIVERSE else (),
            min_difference=first(min_difference),
        )
        if not best_first:
            kept = sorted(kept)
        others = sorted(set(range(total)) - set(kept))
        pick_list = ",".join(map(str, kept))
        rejected = _of(singles, others)
        text = f"{len(kept)} of {total} kept" + (f": {pick_list}" if kept else "")
        ui = {"text": [text], "score": numbers, "kept": kept}
        if not kept:
            outputs = [blocked() for _ in range(9)]
            outputs[6] = rejected
            return io.NodeOutput(*outputs, ui=ui)
        return io.NodeOutput(
            _of(singles, kept),
            *(
                _of(items, kept) if items is not None else blocked(_nothing_wired(name))
                for name, items in zip(_ATTACHED, attached, strict=True)
            ),
            _of(numbers, kept),
            rejected if others else blocked(),
            kept,
            pick_list,
            ui=ui,
        )


_ATTACHED = ("latents", "masks", "prompts", "seeds")


def _shared(name: str, items: Sequence[Any] | None, total: int) -> list[Any] | None:
    return None if items is None else one_per_image(name, items, total, shared=True)


def _of(items: Sequence[Any], indices: Sequence[int]) -> list[Any]:
    return [items[index] for index in indices]


def _nothing_wired(name: str) -> str:
    return f"ArtiMuse Select has no {name} to give: wire its input {name!r} as well"


def _thumbnails(singles: Sequence[Any]) -> list[Any]:
    return [rules.thumbnail(load_image(image)) for image in flatten(singles)]
