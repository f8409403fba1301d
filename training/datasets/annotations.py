"""Critiques as ``artimuse annotate`` wrote them: one sample an image, its texts by attribute."""

from __future__ import annotations

from pathlib import Path

from ...artimuse_core.attributes import attribute
from ...artimuse_core.errors import UsageError
from ..answers import Answers, Record
from .base import PERCENT, Sample, number, relative

KEY_FIELDS = ("image", "attribute")


def read(root: Path, images: Path | None = None) -> list[Sample]:
    """``root``: the file. Image names stand as written, relative ones below ``images`` if given.

    What failed is left out. Raises UsageError with file, line and reason.
    """
    if not root.is_file():
        raise UsageError(f"no annotations in {root}: no such file")
    samples: dict[Path, Sample] = {}
    for record in Answers(root, KEY_FIELDS).read().values():
        if record["status"] != "done":
            continue
        try:
            path = Path(record["image"])
            if images is not None and not path.is_absolute():
                path = images / relative(record["image"])
            sample = samples.setdefault(path, _sample(path, record))
            texts = {**sample.texts, attribute(record["attribute"]).name: str(record["text"])}
        except KeyError as error:
            raise UsageError(f"{root}: image {record['image']}: lacks {error}") from error
        except ValueError as error:
            raise UsageError(f"{root}: image {record['image']}: {error}") from error
        samples[path] = Sample(path, sample.score, sample.std, texts, split=sample.split)
    if not samples:
        raise UsageError(f"{root} holds no annotations that are done")
    return list(samples.values())


def _sample(path: Path, record: Record) -> Sample:
    score = PERCENT.normalise(number(record, "score")) if "score" in record else None
    std = PERCENT.spread(number(record, "std")) if "std" in record else None
    return Sample(path, score, std, split=record.get("split"))
