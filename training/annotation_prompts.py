"""What a model is asked to write a critique from (paper Sec. 4.2, App. B.2).

Type 1 has a score, Type 2 partial texts. The templates of Type 2 are the paper's, word for word; a
line whose figure a data set leaves blank is left out. The paper prints no prompt for Type 1: ours
takes the same closing words.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..artimuse_core.attributes import ATTRIBUTES, Attribute
from .datasets import apddv2
from .datasets.base import Sample
from .mllm import BadAnswer

MAX_WORDS = 100
COMPREHENSIVE = ATTRIBUTES[-1]
"""Type 1 asks for this one alone: a holistic analysis (Fig. 5)."""

_CLOSING = (
    "{source} with the picture content, then evaluate the aesthetic quality of this image from the "
    "attribute of {name}. {description} Limit the assessment to one paragraph (<=100 words), "
    "avoiding markdown formatting. Answer in English. Do not repeat contents in artist’s "
    "evaluation (like scores)."
)
_MARKDOWN = re.compile(r"^\s*(#{1,6} |[-*+] |\d+[.)] |>|\|)|\*\*|__|```|\]\(", re.MULTILINE)


def blind(attribute: Attribute) -> str:
    """From the image alone: how App. D.3 asks the models that ArtiMuse is compared with."""
    return (
        f"Background Knowledge: {attribute.name}: {attribute.description} Please evaluate the "
        f"aesthetic quality of this image from the attribute of {attribute.name}. "
        "No more than 100 words."
    )


def type1(sample: Sample, attribute: Attribute = COMPREHENSIVE) -> str:
    """From the score alone."""
    others = ", ".join(a.name for a in ATTRIBUTES if a is not attribute)
    return (
        f"The overall aesthetics score of this image is {_plain(sample.score)} out of 100. "
        f"Consider its {others}. " + _closing("Please combine the score above", attribute)
    )


def type2(dataset: str, sample: Sample, attribute: Attribute) -> str:
    """From what the data set says of the image; any comments will do for a table of one's own."""
    lines = _TEMPLATES.get(dataset, _any)(sample)
    return "\n".join([*lines, _closing("Please combine the evaluation above", attribute)])


def has_partial_text(dataset: str, sample: Sample) -> bool:
    """Whether Type 2 has anything to go by."""
    if dataset in ("spaq", "koniq10k"):
        return sample.score is not None
    return apddv2.COMMENT in sample.comments if dataset == "apddv2" else bool(sample.comments)


def check_critique(text: str) -> str:
    """The critique as it is kept. Raises BadAnswer: too long, formatted, or not in English."""
    words = len(text.split())
    if words > MAX_WORDS:
        raise BadAnswer(f"it has {words} words, {MAX_WORDS} are allowed")
    if _MARKDOWN.search(text):
        raise BadAnswer("it is formatted; plain text is wanted")
    if len(text.splitlines()) > 1:
        raise BadAnswer("it has several paragraphs; one is wanted")
    letters = [letter for letter in text if letter.isalpha()]
    if sum(letter.isascii() for letter in letters) < 0.9 * len(letters) or not letters:
        raise BadAnswer("it is not in English")
    return text


def _closing(source: str, attribute: Attribute) -> str:
    return _CLOSING.format(source=source, name=attribute.name, description=attribute.description)


def _plain(score: float | None) -> str:
    assert score is not None
    return f"{score:.2f}".rstrip("0").rstrip(".")


def _degree(sample: Sample) -> str:
    score = sample.score
    assert score is not None
    if 25 <= score <= 75:
        return f"The score for overall quality is {_plain(score)} out of 100."
    degree = "high" if score > 75 else "low"
    return (
        f"The score for overall quality is {_plain(score)} out of 100, "
        f"with a {degree} degree of aesthetic appeal."
    )


_APDD_NAMES = {
    "Theme and logic": "theme and logic",
    "Creativity": "creativity",
    "Layout and composition": "layout and composition",
    "Space and perspective": "space and perspective",
    "The sense of order": "sense of order",
    "Light and shadow": "light and shadow",
    "Color": "color",
    "Details and texture": "details and texture",
    "The overall": "overall",
    "Mood": "mood",
}


def _apddv2(sample: Sample) -> list[str]:
    return [
        "For the above picture, the artist gave the following evaluation:",
        f"{sample.comments[apddv2.COMMENT]} For other aesthetic attributes:",
        f"This image has a artistic category of {sample.groups['category']}.",
        f"The total aesthetic score is {_plain(sample.score)} out of 100.",
        *(
            f"The score for {_APDD_NAMES[name]} is {_plain(score / 10)} out of 10."
            for name, score in sample.attribute_scores.items()
        ),
    ]


def _spaq(sample: Sample) -> list[str]:
    names = ("Brightness", "Colorfulness", "Contrast", "Sharpness")
    return [
        _degree(sample),
        *(
            f"The score for {name.lower()} is {_plain(sample.attribute_scores[name])} out of 100."
            for name in names
        ),
        *(
            f"The image content belongs to the following categories: {category}."
            for category in [sample.groups.get("category")]
            if category
        ),
    ]


def _koniq10k(sample: Sample) -> list[str]:
    return [
        _degree(sample),
        *(
            f"The score for {name} is {sample.comments[name]} "
            f"out of {100 if name == 'sharpness' else 1}."
            for name in ("brightness", "contrast", "colorfulness", "sharpness")
            if name in sample.comments
        ),
    ]


def _impressions(sample: Sample) -> list[str]:
    names = {
        "caption": "This image's caption is",
        "image_description": "What is happening in the image",
        "image_impression": "The emotions/thoughts/beliefs that the photograph may inspire",
        "image_aesthetic_eval": "The aesthetic elements that elicited the expressed impression",
    }
    return [f"{names[key]}: {sample.comments[key]}." for key in names if key in sample.comments]


def _any(sample: Sample) -> list[str]:
    score = [] if sample.score is None else [f"The score is {_plain(sample.score)} out of 100."]
    return [*(f"{name}: {text}" for name, text in sample.comments.items()), *score]


_TEMPLATES: dict[str, Callable[[Sample], list[str]]] = {
    "apddv2": _apddv2,
    "spaq": _spaq,
    "koniq10k": _koniq10k,
    "impressions": _impressions,
}
