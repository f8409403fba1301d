"""Kernel ridge regression: the exact answer where features are good and ratings are few."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

Regression = Callable[[Tensor], Tensor]
"""(B, D) features → (B,) score points."""


class Standard:
    """(B, D) → fp64 of mean 0 and spread 1 as the (N, D) known features have it, outliers cut."""

    def __init__(self, known: Tensor) -> None:
        known = known.double()
        self.mean, self.spread = known.mean(0), known.std(0) + 1e-6

    def __call__(self, features: Tensor) -> Tensor:
        return ((features.double() - self.mean) / self.spread).clamp(-5, 5)


class KernelRegression:
    """Scores learnt from (N, D) features by exp(-width · mean squared difference), in fp64.

    Args:
        features: (N, D); a Standard over them comes first.
        score: (N,), or (N, K) for K of them by the same features.
        width: of the kernel.
        ridge: added to the kernel's diagonal: how far a rating is doubted.
        emphasis: (D,) by which each feature's squared difference counts; all alike unless given.
    """

    def __init__(
        self,
        features: Tensor,
        score: Tensor,
        *,
        width: float,
        ridge: float,
        emphasis: Tensor | None = None,
    ) -> None:
        self.width, self.standard = width, Standard(features)
        self.scale = torch.ones(()) if emphasis is None else emphasis.double().sqrt()
        self.scale = self.scale.to(features.device)
        self.known = self.standard(features) * self.scale
        self.level = score.double().mean(0)
        gram = self._alike(self.known)
        gram += ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        self.weights = torch.linalg.solve(gram, score.double() - self.level)

    def __call__(self, features: Tensor) -> Tensor:
        """(B, D) → (B,) or (B, K) fp32."""
        alike = self._alike(self.standard(features) * self.scale)
        return (self.level + alike @ self.weights).float()

    def _alike(self, features: Tensor) -> Tensor:
        """(B, D) standardised → (B, N), 1 where two look the same."""
        squares = features.square().sum(1)[:, None] + self.known.square().sum(1)
        distances = squares - 2 * features @ self.known.T
        return torch.exp(-self.width * distances.clamp_min(0) / features.shape[1])


class GroupRegression:
    """Scores learnt from (N, D) features and from the group that these tell of.

    Which generator made a picture, and driven how, says much of what it is worth. Of a new picture
    nobody tells, but its features do: regressions on them, one a group, whose answers stand beside
    the features in the kernel. What is told of the known pictures has to be as uncertain as of new
    ones, so it is told by regressions that knew no picture of the same fold.

    Args:
        group: (N,) which of some groups each is of, from 0.
        fold: (N,) in which fold it is, of at least two.
        width, ridge: as of :class:`KernelRegression`, of the scores.
        group_width: as ``width``, of what is told of groups.
        group_ridge: as ``ridge``, of the regressions that tell groups.
    """

    def __init__(
        self,
        features: Tensor,
        score: Tensor,
        group: Tensor,
        fold: Tensor,
        *,
        width: float,
        ridge: float,
        group_width: float,
        group_ridge: float,
    ) -> None:
        member = F.one_hot(group).double()
        tell = partial(KernelRegression, width=width, ridge=group_ridge)
        self.tells = tell(features, member)
        """(B, D) → (B, groups): about 1 for the group that a picture is of, 0 for the others."""
        told = torch.empty_like(member, dtype=features.dtype)
        for part in fold.unique():
            asked = fold == part
            told[asked] = tell(features[~asked], member[~asked])(features[asked])
        both, groups = torch.cat([features, told], dim=1), member.shape[1]
        emphasis = torch.ones(both.shape[1])
        emphasis[-groups:] = group_width / width * both.shape[1] / groups
        self.scores = KernelRegression(both, score, width=width, ridge=ridge, emphasis=emphasis)

    def __call__(self, features: Tensor) -> Tensor:
        """(B, D) → (B,) fp32."""
        return self.scores(torch.cat([features, self.tells(features)], dim=1))
