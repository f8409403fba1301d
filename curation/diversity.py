"""A selection whose images differ: maximal marginal relevance. Pure: vectors in, indices out.

Each pick is the image with the largest ``(1 - novelty) * relevance - novelty * similarity``, where
similarity is the cosine to the nearest image picked before (Carbonell and Goldstein 1998, whose λ
is ``1 - novelty``). The result is exactly that of comparing all with all in each step, but
similarities only grow, so what an image was worth earlier bounds what it is worth now, and most
are never looked at again (decision 0032).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..artimuse_core.errors import UsageError

Floats = npt.NDArray[np.float32]

SHORTLIST = 2048
"""Images whose similarities are kept up to date; the others wait until the best of these falls
below what they may still be worth."""
_COLUMNS = 4096
_TIE = 1e-6
"""Weight of relevance where novelty leaves it none: of equally new images the better is picked."""


def check_novelty(value: float) -> float:
    """Raise UsageError for a weight that is none."""
    if not 0 <= value <= 1:  # NaN is refused as well
        raise UsageError(f"--diverse {value:g}: expected 0 (by score alone) to 1 (by looks alone)")
    return value


def relevances(values: Sequence[float]) -> Floats:
    """Values on a scale from 0, the worst of them, to 1, the best."""
    given = np.asarray(values, np.float64)
    spread = np.ptp(given) if len(given) else 0.0
    scaled = (given - given.min()) / spread if spread else np.zeros(len(given))
    return scaled.astype(np.float32)


def pick_diverse(
    relevance: Floats,
    embeddings: Floats,
    count: int,
    novelty: float,
    *,
    groups: Sequence[int] = (),
    per_group: int | None = None,
) -> list[int]:
    """Up to ``count`` indices in the order they are picked.

    Args:
        relevance: (N,) fp32, 0..1.
        embeddings: (N, W) fp32 of length 1. A row of zeros is like nothing.
        novelty: 0 picks by relevance alone, 1 by looks alone.
        groups: (N,), with ``per_group``: at most so many are picked of each.

    Time is that of at most N x count products of length W, done as matrix products, and far less
    where ``novelty`` is small; memory is the embeddings and 32 MB.
    """
    pool = _Pool(relevance, embeddings, novelty)
    room: dict[int, int] = {}
    members = np.asarray(groups)
    picked: list[int] = []
    while len(picked) < count:
        shortlist, outside = pool.shortlist(picked)
        while len(picked) < count and len(shortlist):
            best = int(shortlist[np.argmax(pool.bound[shortlist])])
            if pool.bound[best] == -np.inf or pool.bound[best] < outside:
                break
            picked.append(best)
            pool.take(best, len(picked))
            if per_group is not None:
                group = int(members[best])
                room[group] = room.get(group, per_group) - 1
                if room[group] == 0:
                    pool.bound[members == group] = -np.inf
        if not np.isfinite(pool.bound).any():
            break
    return picked


class _Pool:
    """What is still to be had, and the most that each image can be worth."""

    def __init__(self, relevance: Floats, embeddings: Floats, novelty: float) -> None:
        self._embeddings = embeddings
        self._novelty = novelty
        # fp64: a millionth of the relevance has to tell two images apart.
        self._worth = max(1 - novelty, _TIE) * relevance.astype(np.float64)
        self._similarity = np.full(len(relevance), -1, np.float32)  # to the nearest pick seen
        self._seen = np.zeros(len(relevance), np.int64)  # picks it was compared with
        self._short = np.arange(0)
        self._short_embeddings = embeddings[:0]
        self.bound = self._worth + self._novelty
        """(N,) exact where all picks were seen; -inf for what cannot be picked any more."""

    def shortlist(self, picked: list[int]) -> tuple[npt.NDArray[np.int64], float]:
        """The images of the highest bounds, made exact; and the highest bound of all others."""
        if len(self.bound) <= SHORTLIST:
            chosen, outside = np.arange(len(self.bound)), -np.inf
        else:
            order = np.argpartition(-self.bound, SHORTLIST)
            chosen, outside = np.sort(order[:SHORTLIST]), float(self.bound[order[SHORTLIST]])
        for seen in np.unique(self._seen[chosen]):
            rows = chosen[self._seen[chosen] == seen]
            for start in range(int(seen), len(picked), _COLUMNS):
                self._compare(rows, picked[start : start + _COLUMNS])
        self._seen[chosen] = len(picked)
        self._short, self._short_embeddings = chosen, self._embeddings[chosen]
        return chosen, outside

    def take(self, index: int, picks: int) -> None:
        """``index`` is picked, as the ``picks``-th."""
        # Not a BLAS product: waking its threads for so little takes longer than the sum.
        near = np.einsum("nw,w->n", self._short_embeddings, self._embeddings[index])
        self._raise(self._short, near)
        self._seen[self._short] = picks
        self.bound[index] = -np.inf

    def _compare(self, rows: npt.NDArray[np.int64], picks: list[int]) -> None:
        self._raise(rows, (self._embeddings[rows] @ self._embeddings[picks].T).max(axis=1))

    def _raise(self, rows: npt.NDArray[np.int64], near: Floats) -> None:
        self._similarity[rows] = np.maximum(self._similarity[rows], near)
        exact = self._worth[rows] - self._novelty * self._similarity[rows]
        self.bound[rows] = np.where(np.isneginf(self.bound[rows]), -np.inf, exact)
