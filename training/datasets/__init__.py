"""Adapters: one file per data set, each turning its label file into :class:`~.base.Sample` records.

``load("agiqa3k", Path("data/agiqa3k"), split="test")``
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ...artimuse_core.errors import UsageError
from .base import Sample, Scale

SPLITS = ("train", "validation", "test")

REGISTRY: dict[str, str] = {
    "ava": "ava:read",
    "para": "para:read",
    "tad66k": "tad66k:read",
    "flickr-aes": "flickr_aes:read",
    "apddv2": "apddv2:read",
    "spaq": "spaq:read",
    "koniq10k": "koniq10k:read",
    "impressions": "impressions:read",
    "artimuse10k": "artimuse10k:read",
    "annotations": "annotations:read",
    "agiqa3k": "agiqa3k:read",
    "aadb": "others:aadb",
    "agiqa1k": "others:agiqa1k",
    "agiqa1k-all": "others:agiqa1k_all",
    "aigciqa20k": "others:aigciqa20k",
    "baid": "others:baid",
    "eva": "others:eva",
    "icaa17k": "others:icaa17k",
    "iqa-dataset": "others:iqa_dataset",
    "live-challenge": "others:live_challenge",
    "oasis": "others:oasis",
    "tid-distributions": "others:tid_distributions",
    "table": "table:read_table",
}
"""Module and function of each data set: ``read(root, images) -> list[Sample]``."""


def load(
    name: str,
    root: Path | str,
    *,
    split: str | None = None,
    images: Path | str | None = None,
    scale: Scale | None = None,
) -> list[Sample]:
    """A data set's samples, in the order of its label file.

    ``root`` is the data set's folder; for ``table`` the file. ``images``: where the images lie if
    not where the data set keeps them; none is opened, see :func:`missing`. ``split``: only
    this part. ``scale``: for ``table``, the range of its scores (0:100 otherwise).
    Raises UsageError for an unknown name, labels that do not fit (file, line, reason), and a split
    that holds nothing.
    """
    if name not in REGISTRY:
        raise UsageError(f"unknown data set {name!r}; known: {', '.join(sorted(REGISTRY))}")
    if split not in (None, *SPLITS):
        raise UsageError(f"expected split to be {', '.join(SPLITS)}, got {split!r}")
    if scale is not None and name != "table":
        raise UsageError(f"{name} declares its own scale; only a table takes one")
    module, function = REGISTRY[name].split(":")
    read: Callable[..., Sequence[Sample]] = getattr(import_module(f".{module}", __name__), function)
    options: dict[str, Any] = {} if scale is None else {"scale": scale}
    folder = None if images is None else Path(images)
    samples = list(read(Path(root), images=folder, **options))
    if split is None:
        return samples
    part = [sample for sample in samples if sample.split == split]
    if not part:
        raise UsageError(f"{name} in {root} has no images in split {split!r}")
    return part


def load_source(
    source: str,
    *,
    split: str | None = None,
    images: Path | str | None = None,
    scale: Scale | None = None,
) -> list[Sample]:
    """What a command's ``--data`` names: ``NAME:FOLDER``, or a table (``.csv`` or ``.jsonl``)."""
    name = name_of(source)
    root = source.removeprefix(f"{name}:")
    return load(name, root, split=split, images=images, scale=scale)


def name_of(source: str) -> str:
    """The data set that a source names."""
    name, colon, _ = source.partition(":")
    return name if colon and name in REGISTRY else "table"


def missing(samples: Sequence[Sample]) -> list[Path]:
    """The images that are not there."""
    return [sample.image for sample in samples if not sample.image.is_file()]


def parse_scale(text: str) -> Scale:
    """``1:10`` as a :class:`Scale`; the second is the best, so ``4:1`` is a reversed scale."""
    low, _, high = text.partition(":")
    try:
        return Scale(float(low), float(high))
    except ValueError:
        raise UsageError(f"expected a scale LOW:HIGH such as 1:10, got {text!r}") from None
