"""The terms by which scores are learnt (paper Sec. 4.3): Token As Score, and spoiled copies.

Cross-entropy between the softmax over the score tokens and the distribution of human opinions; the
expectation's squared error, and its correlation among clean pictures; the same score for a mirrored
picture; and a margin by which a picture must outrank its own spoiled copy. What a copy lacks of it
counts as a share of the picture's score: copies of poor pictures are the ones that rise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .score_batches import CLEAN, OVEREXPOSURE, UNDEREXPOSURE, UNKNOWN, Batch

ROOM = 0.8
"""Share of a picture's score by which a margin may lie below it: a poor one has little room."""
MIDDLE, POINTS = 50.0, 25.0
"""Errors are those of (score - MIDDLE) / POINTS; a head that tells it starts in the middle."""
POOR = 20.0
"""Least score, points, by which it is measured what a copy lacks of its margin."""


def expected_score(logits: Tensor, values: Tensor) -> Tensor:
    """(B, K) logits of the score tokens, (K,) what they are worth → (B,) score points."""
    return torch.softmax(logits, dim=1) @ values


def score_losses(
    logits: Tensor,
    target: Tensor,
    batch: Batch,
    values: Tensor,
    copies: float,
    exposure: float,
) -> dict[str, Tensor]:
    """Unweighted terms from (B, K) fp32 logits; of a batch whose scores are all known.

    Args:
        target: (B, K) distributions over the score tokens, of means ``batch.score``.
        values: (K,) what the score tokens are worth, in points.
        copies: how much what a spoiled copy is worth counts, beside 1 of other views.
        exposure: how much what a copy lacks of its margin counts where it is darker or brighter,
            beside 1 where its fault is another.
    """
    expected = expected_score(logits, values)
    counts = torch.ones_like(expected).index_fill(0, batch.spoiled, copies)
    cross_entropy = -(target * F.log_softmax(logits, dim=1)).sum(1)
    error = (expected - batch.score) / POINTS
    clean = batch.kind == CLEAN
    original, spoiled = expected[batch.original], expected[batch.spoiled]
    margin = torch.minimum(batch.margin, ROOM * original.detach())
    lacking = F.relu(margin - (original - spoiled)) / original.detach().clamp_min(POOR)
    kind = batch.kind[batch.spoiled]
    exposed = (kind == UNDEREXPOSURE) | (kind == OVEREXPOSURE)
    lacking = torch.where(exposed, exposure, 1.0) * lacking
    return {
        "tokens": (counts * cross_entropy).mean(),
        "expectation": (counts * error.square()).mean(),
        "correlation": 1 - _correlation(expected[clean], batch.score[clean]),
        "mirror": ((expected[batch.seen] - expected[batch.mirrored]) / 5).square().mean()
        if len(batch.seen)
        else expected.new_zeros(()),
        "rank": lacking.mean() if len(margin) else expected.new_zeros(()),
    }


def highest(original: Tensor, margin: Tensor) -> Tensor:
    """(P,) what spoiled copies are worth at most, to lie a ``margin`` below their originals."""
    return original - torch.minimum(margin, ROOM * original)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a - a.mean(), b - b.mean(), dim=0, eps=1e-6)


def class_loss(logits: Tensor, label: Tensor) -> Tensor:
    if bool((label == UNKNOWN).all()):
        return logits.new_zeros(())
    return F.cross_entropy(logits, label, ignore_index=UNKNOWN, label_smoothing=0.1)


def known_error(told: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error where something is ``wanted``; 0 where nothing is."""
    known = ~wanted.isnan()
    return F.mse_loss(told[known], wanted[known]) if bool(known.any()) else told.new_zeros(())
