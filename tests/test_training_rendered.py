"""Pictures drawn by code: the same for the same seed, each another, fine patterns on some."""

from __future__ import annotations

import pytest
import torch

from artimuse.training.datasets import rendered


def test_a_seed_decides_the_pictures() -> None:
    pictures = rendered.render(4, 64, seed=3)
    assert pictures.shape == (4, 3, 64, 64)
    assert pictures.dtype == torch.uint8
    assert torch.equal(rendered.render(2, 64, seed=3), pictures[:2])
    assert not torch.equal(rendered.render(2, 64, seed=4), pictures[:2])
    assert len({picture.numpy().tobytes() for picture in pictures}) == 4


@pytest.mark.parametrize("size", [48, 128])
@pytest.mark.parametrize("pattern", rendered.PATTERNS, ids=lambda pattern: pattern.__name__)
def test_a_pattern_covers_a_part_of_the_picture(pattern, size) -> None:
    canvas = rendered.Canvas(size, torch.Generator().manual_seed(1))
    shares = torch.stack([pattern(canvas) for _ in range(8)])
    assert shares.shape == (8, size, size)
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert (shares.std((1, 2)) > 0.01).all()


def test_some_pictures_are_fine_and_some_are_smooth() -> None:
    pictures = rendered.render(40, 128).float().mean(1) / 255
    across = (pictures[:, :, 1:] - pictures[:, :, :-1]).abs().mean((1, 2))
    assert (across > 0.025).sum() > 4
    assert (across < 0.01).sum() > 4
