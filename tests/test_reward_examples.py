"""The examples' loops, with tiny random models in the place of the published ones."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from artimuse.artimuse_core.differentiable import DifferentiableReward
from artimuse.artimuse_core.reward import Reward

from .conftest import ROOT
from .fakes import brightness_scorer


def example(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def draft():
    return example("draft_finetune")


@pytest.fixture(scope="module")
def unet(draft):
    torch.manual_seed(0)
    return draft.tiny_unet(16)


def test_best_of_n_ranks_a_pipelines_pictures_and_repeats(unet) -> None:
    from diffusers import DDIMPipeline, DDIMScheduler

    pipeline = DDIMPipeline(unet, DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    best_of_n = example("best_of_n").best_of_n
    reward = Reward(brightness_scorer())
    ranked = best_of_n(pipeline, reward, 4, num_inference_steps=2)
    rewards = [candidate.reward for candidate in ranked]
    assert rewards == sorted(rewards, reverse=True)
    assert {candidate.seed for candidate in ranked} == {0, 1, 2, 3}
    (again,) = best_of_n(pipeline, reward, 1, first_seed=ranked[0].seed, num_inference_steps=2)
    assert again.reward == ranked[0].reward


def test_expected_gain_is_the_integral_it_claims_to_be() -> None:
    rewards = [50.0, 54.0, 47.0, 52.0, 49.0, 51.0]
    draws = np.random.default_rng(0).normal(np.mean(rewards), np.std(rewards), 400_000)
    expected = np.maximum(0, draws - max(rewards)).mean()
    assert example("seed_search").expected_gain(rewards) == pytest.approx(expected, rel=0.05)
    assert example("seed_search").expected_gain([3.0, 3.0]) == 0


def bright(noise: torch.Tensor) -> Image.Image:
    """Brightness grows with the noise's first number."""
    level = int(255 * torch.sigmoid(noise.flatten()[0]))
    return Image.new("RGB", (8, 8), (level,) * 3)


def test_search_climbs_and_stops_when_the_gain_is_below_the_cost() -> None:
    search = example("seed_search").search
    reward = Reward(brightness_scorer())
    patient = search(bright, reward, (4,), cost=0.2, at_most=80)
    hasty = search(bright, reward, (4,), cost=8.0, at_most=80)
    assert len(hasty) < len(patient) < 80
    first, best = max(f.reward for f in patient[:6]), max(f.reward for f in patient)
    assert best > first
    late = np.mean([f.reward for f in patient[-6:]])
    assert late > np.mean([f.reward for f in patient[:6]]), "good noises are followed"


def test_draft_raises_the_reward_and_plots_what_it_does_not_see(
    draft, unet, tiny_checkpoint, tmp_path
) -> None:
    reward = DifferentiableReward.load(tiny_checkpoint, device="cpu", dtype="fp32")
    points = draft.finetune(unet, reward, steps=12, lr=3e-3)
    early, late = (np.mean([p.reward for p in part]) for part in (points[:3], points[-3:]))
    assert late > early + 0.5
    assert points[-1].drift > 0
    assert all(np.isfinite([p.diversity, p.drift]).all() for p in points)
    draft.plot(points, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as curves:
        assert curves.size == (900, 260)
