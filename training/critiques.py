"""Critiques of several models on the same images, lined up to be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..artimuse_core.attributes import attribute
from ..artimuse_core.errors import UsageError
from . import datasets
from .datasets.base import Sample, json_lines, refuse

Place = tuple[Path, str]
"""Image and attribute's name."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What several models wrote on one attribute of one image."""

    image: Path
    attribute: str
    critiques: Mapping[str, str]
    """By the model's name."""
    expert: str | None
    """A person's own critique, where there is one."""
    sample: Sample | None = None
    """What else the expert's data say of the image."""


def read_critiques(source: str, images: Path | None = None) -> dict[Place, str]:
    """What ``artimuse critique --json`` or ``artimuse annotate`` wrote, or a data set with texts.

    Raises UsageError with file, line and reason.
    """
    if _kind(Path(source)) == "critique":
        return _printed(Path(source))
    return _texts(read_experts(source, images))


def read_experts(source: str, images: Path | None = None) -> list[Sample]:
    """The same of experts, with what else is known of each image."""
    annotated = _kind(Path(source)) == "annotations"
    return datasets.load_source(f"annotations:{source}" if annotated else source, images=images)


def _kind(file: Path) -> str:
    if file.suffix != ".jsonl" or not file.is_file():
        return "table"
    _, first = next(json_lines(file), (0, {}))
    if "critique" in first:
        return "critique"
    return "annotations" if "status" in first else "table"


def _printed(file: Path) -> dict[Place, str]:
    found = {}
    for line, row in json_lines(file):
        texts = row.get("critique")
        if not isinstance(row.get("path"), str) or not isinstance(texts, dict):
            refuse(file, line, "expected path and critique, as artimuse critique --json prints")
        for name, text in texts.items():
            try:
                found[Path(row["path"]).resolve(), attribute(name).name] = str(text)
            except UsageError as error:
                refuse(file, line, error)
    return found


def _texts(samples: list[Sample]) -> dict[Place, str]:
    return {
        (sample.image.resolve(), name): text
        for sample in samples
        for name, text in sample.texts.items()
    }


def compare(
    models: Mapping[str, Mapping[Place, str]], experts: list[Sample] | None
) -> list[Comparison]:
    """The places that every model, and the experts if there are any, wrote on; in order.

    Raises UsageError if there are fewer than two models or none such place.
    """
    if len(models) < 2:
        raise UsageError(f"expected critiques of at least two models, got {len(models)}")
    expert_texts = None if experts is None else _texts(experts)
    sources = [*models.values(), *([] if expert_texts is None else [expert_texts])]
    common = set.intersection(*(set(source) for source in sources))
    if not common:
        counts = ", ".join(f"{name} {len(texts)}" for name, texts in models.items())
        raise UsageError(
            "no image and attribute has critiques of all; images are told apart by their path "
            f"({counts}, experts {len(expert_texts or [])} critiques)"
        )
    known = {sample.image.resolve(): sample for sample in experts or []}
    return [
        Comparison(
            image=image,
            attribute=name,
            critiques={model: texts[image, name] for model, texts in models.items()},
            expert=None if expert_texts is None else expert_texts[image, name],
            sample=known.get(image),
        )
        for image, name in sorted(common)
    ]
