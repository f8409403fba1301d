"""Patterns of the finest detail: what is counted, and what counts as alike."""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch

from artimuse.training import residuals
from artimuse.training.datasets.rendered import render
from artimuse.training.residuals import FLOOR, LIMIT, STEP, cooccurrences

ROWS, SQUARES = 169, 66
"""Patterns of four in a row (so many have Fridrich and Kodovský) and of four in a square."""


def canonical(four: tuple[int, ...], square: bool) -> tuple[int, ...]:
    """The least of all that look the same as ``four`` levels of -LIMIT..LIMIT."""
    a, b, c, d = four
    turned = [four, (d, c, b, a)]
    if square:
        turned = [(a, b, c, d), (b, a, d, c), (c, d, a, b), (d, c, b, a)]
        turned += [(w, y, x, z) for w, x, y, z in turned]
    return min(tuple(sign * level for level in t) for t in turned for sign in (1, -1))


def counted(level: np.ndarray, square: bool) -> Counter[tuple[int, ...]]:
    steps = ((0, 0), (0, 1), (1, 0), (1, 1)) if square else ((0, 0), (0, 1), (0, 2), (0, 3))
    height, width = (size - max(s[axis] for s in steps) for axis, size in enumerate(level.shape))
    return Counter(
        canonical(tuple(int(level[y + dy, x + dx]) for dy, dx in steps), square)
        for y, x in product(range(height), range(width))
    )


@pytest.fixture(scope="module")
def grainy() -> torch.Tensor:
    """(3, 3, 24, 20) uint8."""
    generator = torch.Generator().manual_seed(0)
    grain = torch.randint(-9, 10, (3, 3, 24, 20), generator=generator)
    return (render(3, 24)[..., :20].int() + grain).clamp(0, 255).to(torch.uint8)


def test_patterns_are_counted_as_by_hand(grainy) -> None:
    features = cooccurrences(grainy[:1])[0]
    grey = grainy[0].double().sum(0).numpy()
    for name, square, start in (("across", False, 0), ("in a square", True, ROWS)):
        residual = np.diff(grey, axis=1), np.diff(grey, axis=0).T
        levels = [np.round(r / (3 * STEP)).clip(-LIMIT, LIMIT) for r in residual]
        found = counted(levels[0], square) + counted(levels[1], square)
        shares = sorted(count / found.total() for count in found.values())
        told = (features[start : start + (SQUARES if square else ROWS)].double().exp()) - FLOOR
        told = sorted(told[told > FLOOR / 2].tolist())
        assert told == pytest.approx(shares, rel=1e-3), name


def test_how_many_patterns_there_are(grainy) -> None:
    everything = list(product(range(-LIMIT, LIMIT + 1), repeat=4))
    assert len({canonical(four, False) for four in everything}) == ROWS
    assert len({canonical(four, True) for four in everything}) == SQUARES
    assert cooccurrences(grainy).shape == (3, residuals.SCALES * 2 * (ROWS + SQUARES))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.flip(-1),
        lambda x: x.flip(-2),
        lambda x: x.mT,
        lambda x: 255 - x,
        lambda x: x.flip(1),  # red for blue: only grey counts
    ],
    ids=["mirrored", "upside down", "transposed", "negative", "colours exchanged"],
)
def test_what_looks_the_same(grainy, change) -> None:
    torch.testing.assert_close(cooccurrences(change(grainy)), cooccurrences(grainy))


def test_a_flat_picture_is_of_one_pattern() -> None:
    features = cooccurrences(torch.full((2, 3, 16, 16), 77, dtype=torch.uint8))
    there = features > math.log(FLOOR) / 2
    assert there.sum(1).tolist() == [4 * residuals.SCALES] * 2
    whole = torch.zeros(8 * residuals.SCALES)
    torch.testing.assert_close(features[there], whole, atol=2e-6, rtol=0)


def test_a_picture_counts_alone(grainy) -> None:
    torch.testing.assert_close(cooccurrences(grainy)[1:2], cooccurrences(grainy[1:2]))
