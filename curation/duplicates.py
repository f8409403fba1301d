"""Near-duplicates by perceptual hash. Pure: hashes in, indices out.

Exact, not approximate: at 100,000 images comparing every pair of 64-bit hashes takes seconds, less
than building an index and without its misses (decision 0012).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..artimuse_core.errors import MissingExtraError

Hashes = npt.NDArray[np.uint64]

MAX_DISTANCE = 32
"""Bits of 64; unrelated images differ in about 32."""


def check() -> None:
    """Raise MissingExtraError where hashing is not installed, numpy 2 included."""
    try:
        import imagehash  # noqa: F401
        from numpy import bitwise_count  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "imagehash", "curate") from error


def as_hashes(values: Sequence[int]) -> Hashes:
    """(N,) uint64 of the store's signed integers."""
    return np.array(values, dtype=np.int64).view(np.uint64)


def near_duplicates(hashes: Hashes, distance: int) -> dict[int, int]:
    """Which image each near-duplicate stands behind, by index.

    ``hashes`` are in order of preference. Each image that no better one has claimed claims all
    later ones within ``distance`` bits, so every duplicate is near the very image that is kept: a
    chain of small steps does not join its two ends.
    """
    behind: dict[int, int] = {}
    rest, indices = hashes, np.arange(len(hashes))
    differing = np.empty(len(hashes), np.uint64)  # made once: fresh pages cost more than the bits
    bits = np.empty(len(hashes), np.uint8)
    while len(rest) > 1:
        first, rest, leader, indices = rest[0], rest[1:], indices[0], indices[1:]
        np.bitwise_xor(rest, first, out=differing[: len(rest)])
        counts = np.bitwise_count(differing[: len(rest)], out=bits[: len(rest)])
        if counts.min() <= distance:
            near = counts <= distance
            behind.update(dict.fromkeys(indices[near].tolist(), int(leader)))
            rest, indices = rest[~near], indices[~near]
    return behind


def near_references(hashes: Hashes, references: Hashes, distance: int) -> dict[int, int]:
    """Index of the nearest reference of each hash that has one within ``distance`` bits."""
    best = np.full(len(hashes), 65, np.uint8)
    which = np.zeros(len(hashes), np.int64)
    for index, reference in enumerate(references):
        bits = np.bitwise_count(hashes ^ reference)
        closer = bits < best
        best[closer], which[closer] = bits[closer], index
    return {int(index): int(which[index]) for index in np.nonzero(best <= distance)[0]}
