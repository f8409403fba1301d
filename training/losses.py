"""The loss of both stages: cross-entropy on answer tokens (paper Sec. 4.3), and two options.

Beyond the paper, both off by default: *soft labels* spread a score's target over neighbouring
tokens as far as people disagreed; the *ordinal* term is the squared distance of the cumulated
distributions over score tokens, so that a near miss costs less than a far one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .score_batches import soft_target

IGNORED = -100
"""Label of a position that is no part of an answer, as everywhere in transformers."""


@dataclass(frozen=True)
class ScoreLoss:
    """What happens at the position of a score token."""

    ids: Tensor
    """(K,) vocabulary ids of the score tokens, by ascending score."""
    values: Tensor
    """(K,) score of each."""
    soft_label: bool = False
    ordinal: float = 0.0

    @property
    def active(self) -> bool:
        return self.soft_label or self.ordinal > 0

    def terms(self, logits: Tensor, hard: Tensor, score: Tensor, std: Tensor) -> Tensor:
        """Loss (B,) from full logits (B, V) fp32, label ids (B,), ratings (B,) in 0..100.

        A rating without ``std`` (NaN) keeps its hard label.
        """
        ids, values = self.ids.to(logits.device), self.values.to(logits.device)
        one_hot = (hard[:, None] == ids).float()  # (B, K)
        target = one_hot
        if self.soft_label:
            spread = soft_target(score, std, values)
            target = torch.where(std.isnan()[:, None], one_hot, spread)
        loss = -(target * logits.log_softmax(dim=1)[:, ids]).sum(dim=1)
        if self.ordinal:
            predicted = logits[:, ids].softmax(dim=1).cumsum(dim=1)
            loss = loss + self.ordinal * (predicted - target.cumsum(dim=1)).square().sum(dim=1)
        return loss


def answer_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    score: Tensor,
    std: Tensor,
    score_loss: ScoreLoss | None = None,
    items: Tensor | int | None = None,
) -> Tensor:
    """Mean loss over answer tokens.

    Args:
        logits: (B, T, V) of the last T positions; position t predicts label t + 1.
        labels: (B, T) ids, IGNORED outside answers; the first column predicts nothing.
        score, std: (B,) ratings; NaN for samples that are texts.
        score_loss: replaces cross-entropy at the first answer token of rated samples.
        items: what to divide by instead of this batch's own number of answer tokens.
    """
    logits, labels = logits[:, :-1].float(), labels[:, 1:]
    losses = F.cross_entropy(
        logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )  # (B, T - 1), 0 where ignored
    answered = labels != IGNORED
    if score_loss is not None and score_loss.active:
        rows = torch.nonzero(answered.any(dim=1) & ~score.isnan())[:, 0]
        if len(rows):
            first = answered[rows].float().argmax(dim=1)
            terms = score_loss.terms(
                logits[rows, first], labels[rows, first], score[rows], std[rows]
            )
            losses = losses.index_put((rows, first), terms)
    count = answered.sum() if items is None else torch.as_tensor(items, device=losses.device)
    return losses.sum() / count.clamp_min(1)
