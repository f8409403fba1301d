"""Impressions: photographs with what annotators saw, felt and thought made them feel so.

Impact is rated 1 (highly impactful) to 4 (not): reversed. An image has several annotations in
``metadata/all_image_annotations.csv``; :func:`read` keeps that of its most experienced annotator
(App. B.2), ties broken by ``seed``. Without that file the mean impacts are the scores alone.
"""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

from .base import Row, Sample, Scale, csv_rows, existing, number, parse, refuse, relative

SCALE = Scale(4, 1)
EXPERIENCE = ["None", "Artistic Interests", "Hobby", "1-2 years", "3-4 years", "5+ years"]
"""``Visual Arts Experience`` of an annotator, ascending; who did not say comes before all."""
ANNOTATIONS = ("all_image_annotations.csv", "image_annotation_meta.csv")
ANNOTATORS = "annotator_demographic_data.csv"
MEANS = "mean_impact_scores.csv"
TEXTS = ["caption", "image_description", "image_impression", "image_aesthetic_eval"]


def read(root: Path, images: Path | None = None, *, seed: int = 0) -> list[Sample]:
    """One sample an image. ``root``: the folder with ``metadata/`` and ``media/``, or a table."""
    if root.is_file():
        return _means(root, images or root.parent / "media")
    folder = root / "metadata" if (root / "metadata").is_dir() else root
    images = images or root / "media"
    if not any((folder / name).is_file() for name in ANNOTATIONS):
        return _means(existing(folder, *ANNOTATIONS, MEANS, what="annotations"), images)
    by_image: dict[Path, list[Sample]] = defaultdict(list)
    for sample in every_annotation(root, images):
        by_image[sample.image].append(sample)
    chance = random.Random(seed)
    return [_most_experienced(samples, chance) for samples in by_image.values()]


def every_annotation(root: Path, images: Path | None = None) -> list[Sample]:
    """Every annotation; an image comes as often as it was annotated."""
    folder = root / "metadata" if (root / "metadata").is_dir() else root
    images = images or root / "media"
    file = existing(folder, *ANNOTATIONS, what="annotations")
    experience = _experience(folder / ANNOTATORS)
    samples = []
    for line, row in csv_rows(file, ["AnnotatorId", "ImgId", "Impact", *TEXTS]):
        try:
            annotator = row["AnnotatorId"]
            samples.append(
                Sample(
                    image=images / _file(row["ImgId"]),
                    score=SCALE.normalise(number(row, "Impact")),
                    comments={name: row[name] for name in TEXTS if row[name]},
                    groups={"annotator": annotator, "experience": experience.get(annotator, "")},
                )
            )
        except ValueError as error:
            refuse(file, line, error)
    return samples


def _most_experienced(samples: list[Sample], chance: random.Random) -> Sample:
    ranks = [_rank(sample) for sample in samples]
    return chance.choice([s for s, rank in zip(samples, ranks, strict=True) if rank == max(ranks)])


def _rank(sample: Sample) -> int:
    said = sample.groups["experience"]
    return EXPERIENCE.index(said) if said else -1


def _experience(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    found = {}
    for line, row in csv_rows(file, ["AnnotatorId", "Visual Arts Experience"]):
        said = row["Visual Arts Experience"]
        if said not in EXPERIENCE:
            refuse(file, line, f"expected one of {', '.join(EXPERIENCE)}, got {said!r}")
        found[row["AnnotatorId"]] = said
    return found


def _means(file: Path, images: Path) -> list[Sample]:
    def sample(row: Row) -> Sample:
        return Sample(
            image=images / _file(row["ImgId"]),
            score=SCALE.normalise(number(row, "Impact_Mean")),
            # One rating alone has no spread, and the table leaves its cell empty.
            std=SCALE.spread(number(row, "Impact_std")) if row["Impact_std"] else None,
        )

    return parse(file, csv_rows(file, ["ImgId", "Impact_Mean", "Impact_std"]), sample)


def _file(image_id: str) -> Path:
    return relative(f"{image_id}.png")
