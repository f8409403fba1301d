"""The authors' test splits: ``test.json``, a list of ``{"image": …, "gt_score": …}``.

Scores are on each data set's native scale, which the file does not say. It lies beside the data
set's labels, so that whatever it names is held out of training, or in a folder with nothing but
``images/``, as the reference's ``test_datasets/AVA`` has it.
"""

from __future__ import annotations

from pathlib import Path

from .base import Sample, Scale, json_items, number, parse, relative

FILE = "test.json"


def read_test(file: Path, images: Path, scale: Scale) -> list[Sample]:
    """The test split; image names relative to ``images``."""

    def sample(item: dict[str, object]) -> Sample:
        if set(item) != {"image", "gt_score"} or not isinstance(item["image"], str):
            raise ValueError(f"expected image and gt_score, got {', '.join(item) or 'nothing'}")
        return Sample(
            image=images / relative(item["image"]),
            score=scale.normalise(number(item, "gt_score")),
            split="test",
        )

    return parse(file, json_items(file), sample)


def held_out(root: Path, scale: Scale) -> set[str] | None:
    """Names in ``test.json`` of a data set's folder; None without such a file."""
    if not (root / FILE).is_file():
        return None
    names = (sample.image for sample in read_test(root / FILE, root, scale))
    return {name.relative_to(root).as_posix() for name in names}


def part(name: str, test: set[str] | None) -> str | None:
    """The split of an image, given what is held out."""
    if test is None:
        return None
    return "test" if name in test else "train"
