"""Batches to learn scores from: what is drawn, and how pictures are spoiled."""

import numpy as np
import pytest
import torch
from PIL import Image

from artimuse.artimuse_core.errors import UsageError
from artimuse.training import augment, nano
from artimuse.training.datasets import agiqa3k
from artimuse.training.datasets.rendered import render
from artimuse.training.score_batches import (
    CLEAN,
    WORTHLESS,
    BatchRecipe,
    Pool,
    draw_batch,
    soft_target,
)

from .tiny_nano import CPU, SIDE, VALUES


def test_a_prompt_lies_in_one_part_whatever_else_is_there(rated) -> None:
    ratings = agiqa3k.load(rated)
    parts = agiqa3k.split(ratings)
    prompts = {part: {r.prompt for r in rs} for part, rs in parts.items()}
    assert sum(map(len, parts.values())) == len(ratings) == 160
    assert all(prompts.values())
    assert not prompts["test"] & prompts["train"] | prompts["validation"] & prompts["train"]
    few = agiqa3k.split(ratings[::-1][:30])
    assert all(r in parts[part] for part, rs in few.items() for r in rs)


def test_missing_labels_or_images_are_one_line(rated, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"labels\.csv"):
        agiqa3k.load(tmp_path)
    (tmp_path / "labels.csv").write_bytes((rated / "labels.csv").read_bytes())
    with pytest.raises(UsageError, match=r"160 images .* missing"):
        agiqa3k.load(tmp_path)


def test_soft_targets_have_the_ratings_mean_and_spread() -> None:
    target = soft_target(torch.tensor([40.0, 71.5]), torch.tensor([5.0, 8.0]), VALUES)
    mean = target @ VALUES
    std = ((VALUES - mean[:, None]) ** 2 * target).sum(1).sqrt()
    torch.testing.assert_close(mean, torch.tensor([40.0, 71.5]), atol=0.01, rtol=0)
    torch.testing.assert_close(std, torch.tensor([5.0, 8.0]), atol=0.05, rtol=0)


def test_batches_pair_originals_with_worse_copies(rated) -> None:
    pool = nano.load_pool(agiqa3k.load(rated), 4, CPU)
    torch.manual_seed(0)
    recipe = BatchRecipe(rated=32, unrated=4, worthless=2, groups=2)
    batch = draw_batch(pool, recipe, SIDE)
    assert batch.pixels.shape[1:] == (3, SIDE, SIDE)
    assert 0 <= float(batch.pixels.min()) <= float(batch.pixels.max()) <= 1
    assert int(batch.score[batch.original].isnan().sum()) == 4  # drawn ones
    assert bool(batch.score[batch.spoiled].isnan().all())
    assert 4 < float(batch.margin.min()) < float(batch.margin.max()) <= 16
    changed = (batch.pixels[batch.spoiled] - batch.pixels[batch.original]).abs().mean((1, 2, 3))
    assert float(changed.min()) > 0
    assert [int((batch.kind == kind).sum()) for kind in (CLEAN, WORTHLESS)] == [36 + 4, 2]
    assert len(batch.mirrored) > 0
    torch.testing.assert_close(batch.pixels[batch.mirrored], batch.pixels[batch.seen].flip(-1))


@pytest.mark.parametrize("drawn", ["overexposure", "jpeg"])
def test_in_dark_batches_the_darkest_pictures_are_overexposed(monkeypatch, drawn) -> None:
    noise, other, over = (augment.FAULTS[name] for name in ("noise", drawn, "overexposure"))
    monkeypatch.setattr(augment, "draw_kinds", lambda count: [noise, other])
    levels = torch.randperm(16) * 8 + 20
    pool = Pool(
        images=levels.byte()[:, None, None, None].expand(16, 3, SIDE, SIDE).contiguous(),
        score=levels / 2,
        opinion=levels / 2,
        texture=torch.empty(16, 0),
    )
    recipe = BatchRecipe(rated=16, unrated=0, worthless=0, groups=2, spoiled=1, dark=True)
    batch = draw_batch(pool, recipe, SIDE)
    kinds = batch.kind[batch.spoiled]
    assert set(kinds.tolist()) == {over, noise}
    light = batch.score[batch.original]
    assert light[kinds == over].max() < light[kinds == noise].min()


@pytest.mark.parametrize("name", augment.DISTORTIONS)
def test_a_severer_distortion_changes_a_picture_more(name) -> None:
    pictures = render(6, 512).float() / 255  # the size that severities are in pixels of
    distort = augment.DISTORTIONS[name]
    changes = []
    for severity in (0.0, 1.0):
        torch.manual_seed(0)
        spoiled = distort(pictures, torch.full((6,), severity))
        assert spoiled.shape == pictures.shape
        assert -1e-6 <= float(spoiled.min()) <= float(spoiled.max()) <= 1 + 1e-6
        changes.append(float((spoiled - pictures).square().mean()))
    assert 0 < 2 * changes[0] < changes[1]


def test_jpeg_matches_pillows(tmp_path) -> None:
    picture = render(1, 128, seed=3)
    Image.fromarray(picture[0].permute(1, 2, 0).numpy()).save(tmp_path / "x.jpg", quality=10)
    pillow = np.asarray(Image.open(tmp_path / "x.jpg")).astype(float)
    severity = torch.tensor([np.log(30 / 10) / np.log(10)], dtype=torch.float32)
    ours = augment.jpeg(picture.float() / 255, severity)[0].permute(1, 2, 0).numpy() * 255
    original = picture[0].permute(1, 2, 0).numpy().astype(float)
    # Chroma is scaled up differently; what quantisation does is the same.
    assert np.abs(ours - pillow).mean() < 0.4 * np.abs(original - pillow).mean()


def test_jitter_is_brightness_then_contrast_then_saturation() -> None:
    pictures = 0.3 + 0.4 * torch.rand(3, 3, 16, 16)  # far from where clamping begins
    torch.manual_seed(1)
    light, contrast, saturation = 1 + 0.1 * (2 * torch.rand(3, 3, 1, 1, 1) - 1)
    expected = pictures * light
    level = expected.mean((1, 2, 3), keepdim=True)
    expected = level + (expected - level) * contrast
    grey = expected.mean(1, keepdim=True)
    expected = grey + (expected - grey) * saturation
    torch.manual_seed(1)
    torch.testing.assert_close(augment.jitter(pictures, 0.1), expected)
