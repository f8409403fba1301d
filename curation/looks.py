"""What a decision needs of images' looks, as the store holds it after scoring."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from .decide import Looks, Wishes
from .pipeline import Memory, reference_hashes
from .records import Record
from .sources import Source

log = logging.getLogger(__name__)


def gather(
    records: Sequence[Record],
    wishes: Wishes,
    memory: Memory,
    references: Sequence[Source] = (),
    *,
    max_pixels: int,
) -> tuple[Looks, list[str]]:
    """The looks that ``wishes`` ask for, and a line for each reference that could not be read."""
    pixels = [record.pixels for record in records if record.pixels is not None]
    hashes, embeddings = {}, {}
    found, failures = list[tuple[str, int]](), list[str]()
    if wishes.dedup is not None:
        found, failures = reference_hashes(references, memory.store, max_pixels)
        hashes = memory.store.hashes(pixels)
        _say_missing(len(set(pixels)) - len(hashes))
    if wishes.novelty is not None:
        embeddings = memory.store.embeddings(pixels, memory.fingerprint)
        _say_missing(len(set(pixels)) - len(embeddings))
    return Looks(hashes, found, embeddings), failures


def _say_missing(images: int) -> None:
    if images:
        log.warning("%d images were not compared: the cache failed", images)
