"""The node "ArtiMuse Critique"."""

from __future__ import annotations

import json
from typing import Any

import comfy.model_management
import comfy.utils
from comfy_api.latest import io

from ..artimuse_core.attributes import ATTRIBUTES, Attribute
from ..artimuse_core.errors import ModelError, UsageError
from ..artimuse_core.inputs import flatten
from . import models
from .batches import blocked, split_images
from .schema import describe, first
from .scoring import model_input, pick_model


class ArtiMuseCritique(io.ComfyNode):
    """Images → what the model says about each, attribute by attribute."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return describe(
            node_id="ArtiMuseCritique",
            display_name="ArtiMuse Critique",
            description="Says why: a text on each chosen attribute. nano writes as a draft; wire a "
            "model that was trained to write for more.",
            search_aliases=["explain", "caption", "review", "feedback"],
            inputs=[
                io.Image.Input("images", tooltip="A batch, or a list of images of any sizes."),
                *(
                    io.Boolean.Input(
                        attribute.key,
                        display_name=attribute.name,
                        default=True,
                        tooltip=attribute.description,
                    )
                    for attribute in ATTRIBUTES
                ),
                io.Int.Input(
                    "max_new_tokens",
                    default=512,
                    min=1,
                    max=4096,
                    tooltip="Longest text on one attribute, in tokens.",
                ),
                model_input(),
            ],
            outputs=[
                io.String.Output(
                    "critique",
                    display_name="critique",
                    tooltip="Score and all texts, one per image.",
                    is_output_list=True,
                ),
                io.String.Output(
                    "json",
                    display_name="json",
                    tooltip="The same as a JSON object, one per image.",
                    is_output_list=True,
                ),
                *(
                    io.String.Output(
                        f"{attribute.key}_text",
                        display_name=attribute.name,
                        tooltip=f"The text on {attribute.name}, one per image.",
                        is_output_list=True,
                    )
                    for attribute in ATTRIBUTES
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: list[Any],
        max_new_tokens: list[int],
        model: list[models.LoadedModel] | None = None,
        **chosen: list[bool],
    ) -> io.NodeOutput:
        asked = [attribute for attribute in ATTRIBUTES if first(chosen[attribute.key])]
        if not asked:
            raise UsageError("no attribute is chosen; switch on at least one")
        total = len(split_images(images))
        critic = pick_model(model).critic()
        bar = comfy.utils.ProgressBar(total)
        answers = []
        for index, image in enumerate(flatten(images)):
            comfy.model_management.throw_exception_if_processing_interrupted()
            stream = _Stream(cls.hidden.unique_id, index, total)
            answers.append(
                critic.critique(
                    image, asked, max_new_tokens=first(max_new_tokens), on_text=stream.add
                )
            )
            bar.update(1)
        texts = [_joined(answer.result.score, answer.texts) for answer in answers]
        rows = [
            {"score": answer.result.score, "std": answer.result.std, "critique": answer.texts}
            for answer in answers
        ]
        columns = [
            [answer.texts[attribute.name] for answer in answers]
            if attribute in asked
            else blocked(f"ArtiMuse Critique was not asked for {attribute.name}; switch it on")
            for attribute in ATTRIBUTES
        ]
        return io.NodeOutput(
            texts,
            [json.dumps(row, ensure_ascii=False) for row in rows],
            *columns,
            ui={
                "text": texts,
                "score": [row["score"] for row in rows],
                "spread": [row["std"] for row in rows],
                "critique": [answer.texts for answer in answers],
            },
        )


def _joined(score: float, texts: dict[str, str]) -> str:
    return "\n\n".join([f"Score: {score:.2f}", *(f"{n}: {text}" for n, text in texts.items())])


class _Stream:
    """Shows the text under the node as it is written, and lets the user stop at every token."""

    def __init__(self, node_id: Any, index: int, total: int) -> None:
        self._node_id = node_id
        self._head = f"image {index + 1} of {total}\n" if total > 1 else ""
        self._texts: dict[str, str] = {}

    def add(self, attribute: Attribute, piece: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._texts[attribute.name] = self._texts.get(attribute.name, "") + piece
        body = "\n".join(f"{name}: {text}" for name, text in self._texts.items())
        _send_progress_text(self._head + body, self._node_id)


def _send_progress_text(text: str, node_id: Any) -> None:
    from server import PromptServer

    if node_id is None:
        raise ModelError("ComfyUI gave the node no id; its hidden inputs are missing")
    PromptServer.instance.send_progress_text(text, node_id)
