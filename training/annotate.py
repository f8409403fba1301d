"""Critiques to learn from: what to ask of whom, and experts' own (paper Sec. 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..artimuse_core.attributes import ATTRIBUTES, Attribute
from ..artimuse_core.errors import UsageError
from . import annotation_prompts as prompts
from .answers import Answers, Record
from .asking import Question
from .datasets.annotations import KEY_FIELDS
from .datasets.base import Sample

EXPERTS = "experts"
"""Stands where a model's name does."""
WITH_PARTIAL_TEXT = ("apddv2", "spaq", "koniq10k", "impressions")


def kind_of(dataset: str, samples: Sequence[Sample]) -> int:
    """The type of annotation a data set is for: 1 score, 2 partial texts, 3 experts' critiques."""
    if any(sample.texts for sample in samples):
        return 3
    commented = any(sample.comments for sample in samples)
    return 2 if dataset in WITH_PARTIAL_TEXT or commented else 1


def answers(file: Path) -> Answers:
    return Answers(file, KEY_FIELDS)


def questions(dataset: str, samples: Sequence[Sample], kind: int) -> list[Question]:
    """One question an image (Type 1) or eight (Type 2), of the images that have what it takes.

    Kind 0 asks eight questions of the image alone: no annotation, but a model to be judged.

    Raises UsageError if none has.
    """
    asked = []
    for sample in samples:
        if kind == 0:
            asked += [
                _question(sample, attribute, kind, prompts.blind(attribute))
                for attribute in ATTRIBUTES
            ]
        elif kind == 1 and sample.score is not None:
            asked.append(_question(sample, prompts.COMPREHENSIVE, kind, prompts.type1(sample)))
        elif kind == 2 and prompts.has_partial_text(dataset, sample):
            asked += [
                _question(sample, attribute, kind, prompts.type2(dataset, sample, attribute))
                for attribute in ATTRIBUTES
            ]
    if not asked:
        lacking = "scores" if kind == 1 else "partial texts"
        raise UsageError(f"none of the {len(samples)} images has {lacking} for type {kind}")
    return asked


def _question(sample: Sample, attribute: Attribute, kind: int, prompt: str) -> Question:
    record = _record(sample, attribute.name, kind)
    # What is to be judged is taken as it comes; what is to be learnt from must be as asked for.
    check = prompts.check_critique if kind else str
    return Question((record["image"], attribute.name), sample.image, prompt, check, record)


def _record(sample: Sample, attribute: str, kind: int) -> Record:
    facts = {"score": sample.score, "std": sample.std, "split": sample.split}
    known = {name: value for name, value in facts.items() if value is not None}
    return {"image": str(sample.image), "attribute": attribute, "type": kind, **known}


def import_experts(samples: Sequence[Sample], file: Answers) -> int:
    """Write experts' critiques (Type 3) as they are; returns how many. Done ones are not repeated.

    Raises UsageError for a text on something other than the eight attributes.
    """
    names = {attribute.name for attribute in ATTRIBUTES}
    written = 0
    with file.appending():
        for sample in samples:
            for name, text in sample.texts.items():
                if name not in names:
                    raise UsageError(
                        f"{sample.image}: {name!r} is none of the eight attributes: "
                        + ", ".join(attribute.key for attribute in ATTRIBUTES)
                    )
                record = _record(sample, name, 3) | {"status": "done", "text": text}
                record |= {"model": EXPERTS, "tokens_in": 0, "tokens_out": 0, "requests": 0}
                key = (record["image"], name)
                if file.records.get(key) != record:
                    file.append(key, record)
                    written += 1
    return written
