"""Which samples a stage learns from and which it is validated on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..artimuse_core.errors import UsageError
from . import datasets
from .arguments import SUBSETS, StageConfig
from .datasets.base import Sample, Scale, hashed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    train: list[Sample]
    validation: list[Sample]


def load_parts(
    sources: Sequence[str],
    config: StageConfig,
    *,
    images: Path | None = None,
    scale: Scale | None = None,
    validation: Sequence[str] = (),
) -> Parts:
    """The samples of ``sources``, cut in two.

    A source is what :func:`.datasets.load_source` takes, optionally behind ``SUBSET=`` (one of
    ``SUBSETS``), and left out where ``config.subsets`` does not name it. Parts are the data set's
    own; where it has none, ``config.validation_share`` of the prompts (or images) is held out by
    a hash. ``validation``: sources to validate on instead. A ``test`` part is never touched.

    Raises UsageError for labels that do not fit and for images that are missing.
    """
    train: list[Sample] = []
    held: list[Sample] = []
    for source in _chosen(sources, config.subsets):
        samples = datasets.load_source(source, images=images, scale=scale)
        cut = any(sample.split is not None for sample in samples)
        for sample in samples:
            part = sample.split or "train"
            if not cut:
                share = config.validation_share
                part = "validation" if _place(sample, config.seed) < share else "train"
            if part == "train" or (part == "validation" and validation):
                train.append(sample)
            elif part == "validation":
                held.append(sample)
    for source in validation:
        samples = datasets.load_source(source, images=images, scale=scale)
        own = [sample for sample in samples if sample.split in (None, "validation")]
        held.extend(own or samples)
    parts = Parts(train, held)
    if not parts.train or not parts.validation:
        raise UsageError(
            f"{', '.join(sources)}: {len(parts.train)} samples to train on and "
            f"{len(parts.validation)} to validate on; both are needed"
        )
    missing = datasets.missing([*parts.train, *parts.validation])
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(parts.train) + len(parts.validation)} images are missing "
            f"(first: {missing[0]}); take them out of the labels, or say where images lie"
        )
    return parts


def with_scores(samples: Sequence[Sample]) -> list[Sample]:
    return _those(samples, lambda sample: sample.score is not None, "scores")


def with_texts(samples: Sequence[Sample]) -> list[Sample]:
    return _those(samples, lambda sample: bool(sample.texts), "texts")


def _those(samples: Sequence[Sample], has: Callable[[Sample], bool], what: str) -> list[Sample]:
    found = [sample for sample in samples if has(sample)]
    if not found:
        raise UsageError(
            f"none of {len(samples)} samples has {what}; are they for the other stage?"
        )
    if len(found) < len(samples):
        _log.warning("%d of %d samples have no %s", len(samples) - len(found), len(samples), what)
    return found


def _chosen(sources: Sequence[str], subsets: Sequence[str]) -> list[str]:
    """Sources without their mark, if their subset is asked for."""
    chosen = []
    for source in sources:
        subset, equals, rest = source.partition("=")
        if not equals or subset not in SUBSETS:
            chosen.append(source)
        elif subset in subsets:
            chosen.append(rest)
        else:
            _log.info("left out: %s", source)
    if not chosen:
        raise UsageError(f"no data left: subsets {', '.join(subsets)} of {', '.join(sources)}")
    return chosen


def _place(sample: Sample, seed: int) -> float:
    """Uniform in 0..1, the same for all images of a prompt."""
    key = sample.groups.get("prompt", sample.image.name)
    return hashed(f"{seed}:{key}") / 2**64
