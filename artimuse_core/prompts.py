"""The text around the image, byte for byte as the checkpoints were tuned on it.

Chat template ``internvl2_5``::

    <|im_start|>system
    {system}<|im_end|>
    <|im_start|>user
    <img>{image tokens × <IMG_CONTEXT>}</img>
    {question}<|im_end|>
    <|im_start|>assistant

One byte off and the scores are noise: the tests compare against the reference's own token ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .attributes import Attribute

IMG_START = "<img>"
IMG_CONTEXT = "<IMG_CONTEXT>"
IMG_END = "</img>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, IMG_START, IMG_END, IMG_CONTEXT)

# The template's own message, used when a checkpoint's configuration has no `system_message`.
INTERNVL2_5_SYSTEM = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位"
    "联合开发的多模态大语言模型。"
)

# The trailing spaces and the eight-space indent are part of what the weights know.
SCORE_QUESTION = (
    "\n"
    "        Rate the aesthetics score of the image in 0-100. \n"
    "        In the output format, numbers are replaced by 2 corresponding letters, \n"
    "        and the mapping relationship is: \n"
    "        score 0 to 25: 0-aa, 1-ab, 2-ac, 3-ad, ... , 25-az,\n"
    "        score 26 to 50: 26-ca, 27-cb, 28-cc, 29-cd, ..., 50-cy,\n"
    "        score 51 to 75: 51-da, 52-db, 53-dc, 54-dd, ..., 75-dy,\n"
    "        score 76 to 100: 76-ea, 77-eb, 78-ec, 79-ed, ..., 100-ey.\n"
    "\n"
    "        The answer only outputs 2 corresponding letters.\n"
    "        "
)


def attribute_question(attribute: Attribute) -> str:
    """The question whose answer is the critique of one attribute."""
    return (
        f"Please evaluate the aesthetic quality of this image from the aspect of {attribute.name}."
    )


def attribute_score_question(attribute: Attribute, score_question: str = SCORE_QUESTION) -> str:
    """The score question asked of one attribute. No published weights were tuned on it."""
    return score_question.replace("aesthetics", attribute.name, 1)


def system_message(config: Mapping[str, Any]) -> str:
    """The system message a checkpoint was tuned with, from its ``config.json``.

    The reference formats the value as Python prints it, so JSON ``null`` reads ``None``
    (InternVL3-8B's own configuration has it so); only a missing key means the template's message.
    """
    if "system_message" in config:
        return str(config["system_message"])
    return INTERNVL2_5_SYSTEM


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat text cut at the image: ``before`` + image tokens + ``after``."""

    before: str
    """Up to and including ``<img>``; the same for all images and questions."""
    after: str
    """From ``</img>`` to where the answer begins."""

    def text(self, image_tokens: int = 256) -> str:
        """The whole prompt; ``image_tokens`` is (image_size / patch_size / 2)², 256 at 448 px."""
        return self.before + IMG_CONTEXT * image_tokens + self.after


def chat_prompt(question: str, system: str) -> Prompt:
    """Lay out one question about one image."""
    return Prompt(
        before=f"{IM_START}system\n{system}{IM_END}\n{IM_START}user\n{IMG_START}",
        after=f"{IMG_END}\n{question}{IM_END}\n{IM_START}assistant\n",
    )
