"""Each adapter against a copy of its trainer's calling convention: what it passes, what it does
with the answer. None of the trainers is installed."""

import asyncio
import inspect
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from artimuse.artimuse_core import trainers
from artimuse.artimuse_core.errors import ImageError
from artimuse.artimuse_core.scorer import Scorer

from .fakes import brightness_scorer

LEVELS = torch.tensor([0.2, 0.8, 0.5, 0.4])
EXPECTED = [20, 80, 50, 40]


@pytest.fixture
def brightness(monkeypatch) -> None:
    monkeypatch.setattr(Scorer, "load", lambda *args, **options: brightness_scorer())


def nchw(dtype=torch.float32) -> torch.Tensor:
    return LEVELS[:, None, None, None].expand(-1, 3, 16, 16).to(dtype)


def nhwc() -> np.ndarray:
    return (nchw() * 255).round().byte().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("images", [nchw(torch.bfloat16), nhwc()], ids=["tensor", "array"])
def test_flow_grpo_multi_score(brightness, images) -> None:
    # The trainer passes the device to functions that have a variable of that name.
    assert "device" in trainers.artimuse_score.__code__.co_varnames
    fn = trainers.artimuse_score(torch.device("cpu"))
    scores, info = fn(images, ("a", "b", "c", "d"), [{}] * 4)
    assert info == {}
    weighted = [0.5 * score for score in scores]
    totals = [a + b for a, b in zip(weighted, [1.0] * 4, strict=True)]
    rewards = torch.as_tensor(totals, device="cpu").float()
    np.testing.assert_allclose(rewards, np.array(EXPECTED) / 2 + 1, atol=0.5)


def test_ddpo_pytorch_calls_from_its_pool_without_a_device(brightness) -> None:
    reward_fn = trainers.artimuse_score()
    with ThreadPoolExecutor(max_workers=2) as executor:
        pending = [executor.submit(reward_fn, nchw(), ("p",) * 4, ({},) * 4) for _ in range(8)]
        for future in pending:
            rewards, _ = future.result()
            rewards = torch.as_tensor(rewards, device="cpu").cpu().numpy()
            np.testing.assert_allclose(rewards, EXPECTED, atol=0.5)


def test_trl_ddpo_gets_its_metadata_back(brightness) -> None:
    reward_fn = trainers.trl_reward("cpu")
    batches = [[nchw(), ("p",) * 4, ({"n": index},) * 4] for index in range(3)]
    with ThreadPoolExecutor(max_workers=3) as executor:
        answers = list(executor.map(lambda batch: reward_fn(*batch), batches))
    rewards, metadata = zip(*[(torch.as_tensor(r), m) for r, m in answers], strict=True)
    assert torch.cat(rewards).shape == (12,)
    assert metadata[2] == ({"n": 2},) * 4


def test_trl_alignprop_step(tiny_checkpoint) -> None:
    reward_fn = trainers.trl_differentiable_reward("cpu", tiny_checkpoint, factor=0.1)
    generator = torch.nn.Conv2d(3, 3, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
        images = generator(torch.rand(2, 3, 40, 40)).sigmoid()
        pairs = {"images": images, "prompts": ("a", "b"), "prompt_metadata": ({}, {})}
        rewards, _ = reward_fn(pairs["images"], pairs["prompts"], pairs["prompt_metadata"])
        loss = 10.0 - rewards.mean()
        loss.backward()
    assert generator.weight.grad is not None
    assert generator.weight.grad.abs().sum() > 0
    assert rewards.detach().cpu().numpy().shape == (2,)


def test_alignprop_step_takes_images_as_the_vae_gives_them(tiny_checkpoint) -> None:
    loss_fn = trainers.alignprop_loss_fn("cpu", tiny_checkpoint, grad_scale=0.1)
    images = (torch.rand(2, 3, 40, 40) * 2.2 - 1.1).requires_grad_(True)
    loss, rewards = loss_fn(images)
    loss = loss.mean() * 0.01
    loss.backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert rewards.mean().item() == pytest.approx(-loss.item() / 0.001, rel=1e-3)


def test_refl_step(tiny_checkpoint) -> None:
    loss_fn = trainers.refl_loss_fn("cpu", tiny_checkpoint, factor=0.01)
    decoded = (torch.rand(2, 3, 40, 40) * 2 - 1).requires_grad_(True)
    _, rewards = loss_fn((decoded / 2 + 0.5).clamp(0, 1))
    loss = torch.nn.functional.relu(-rewards + 2).mean() * 1e-3
    loss.backward()
    assert decoded.grad is not None
    assert decoded.grad.abs().sum() > 0


# --- verl-omni ---


@pytest.fixture
def no_shared_models(monkeypatch, brightness) -> None:
    monkeypatch.setattr(trainers, "_batchers", {})


async def verl_omni_run_single(image, **router):
    """The reward manager awaits a coroutine function, and reads the score from a dict."""
    assert inspect.iscoroutinefunction(trainers.compute_score)
    result = await trainers.compute_score(
        data_source="prompts", solution_image=image, ground_truth="a cat",
        extra_info={"global_steps": 3}, **router,
    )  # fmt: skip
    return result["score"]


@pytest.mark.parametrize(
    "images",
    [
        list(nchw()),
        list((nchw() * 255).round().byte()),
        [image.astype(np.float32) / 255 for image in nhwc()],
        [Image.fromarray(image) for image in nhwc()],
        [image[None].expand(5, -1, -1, -1) for image in nchw()],
        [image[:, None].expand(-1, 5, -1, -1) for image in nchw()],
    ],
    ids=["CHW floats", "CHW uint8", "HWC array", "PIL", "NCHW clip", "CNHW clip"],
)
def test_verl_omni_scores_concurrently(no_shared_models, images) -> None:
    async def epoch() -> list[float]:
        calls = (verl_omni_run_single(i, reward_router_address=None) for i in images * 8)
        return await asyncio.gather(*calls)

    np.testing.assert_allclose(asyncio.run(epoch()), EXPECTED * 8, atol=0.5)
    (batcher,) = trainers._batchers.values()
    assert max(batcher.reward.scorer.engine.batches) > 1, "concurrent calls share batches"


def test_verl_omni_is_told_why_an_image_has_no_score(no_shared_models) -> None:
    broken = torch.full((3, 8, 8), float("nan"))

    async def epoch():
        good, bad = nchw()[0], broken
        return await asyncio.gather(
            *(verl_omni_run_single(image) for image in (good, bad, good)), return_exceptions=True
        )

    first, second, third = asyncio.run(epoch())
    assert isinstance(second, ImageError)
    assert "not finite" in str(second)
    assert first == third == pytest.approx(20, abs=0.5)


# --- Flow-Factory ---


@pytest.fixture
def flow_factory(monkeypatch, brightness):
    """The part of ``flow_factory.rewards.abc`` that a reward model sees."""

    @dataclass
    class RewardModelOutput:
        rewards: object
        extra_info: dict | None = None

    class PointwiseRewardModel:
        def __init__(self, config, accelerator) -> None:
            self.accelerator, self.config = accelerator, config
            self.device, self.dtype = config.device, config.dtype

    module = types.ModuleType("flow_factory.rewards.abc")
    module.RewardModelOutput, module.PointwiseRewardModel = RewardModelOutput, PointwiseRewardModel
    for name in ("flow_factory", "flow_factory.rewards"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    ours = "artimuse.artimuse_core.flow_factory_reward"
    monkeypatch.delitem(sys.modules, ours, raising=False)
    yield module
    sys.modules.pop(ours, None)


def test_flow_factory_loads_the_class_and_computes_a_batch(flow_factory) -> None:
    import importlib

    path = "artimuse.artimuse_core.flow_factory_reward.ArtiMuseRewardModel"
    module, name = path.rsplit(".", 1)
    cls = getattr(importlib.import_module(module), name)
    config = types.SimpleNamespace(
        device=torch.device("cpu"), dtype=torch.bfloat16, batch_size=4, scale="unit"
    )
    model = cls(config, types.SimpleNamespace(device=torch.device("cpu")))
    assert isinstance(model, flow_factory.PointwiseRewardModel)
    assert set(model.required_fields) <= set(inspect.signature(model.__call__).parameters)
    images = [Image.fromarray(image) for image in nhwc()]
    output = model(prompt=["p"] * 4, image=images, metadata=["{}"] * 4)
    rewards = torch.as_tensor(output.rewards, device="cpu", dtype=torch.float32)
    np.testing.assert_allclose(rewards, np.array(EXPECTED) / 100, atol=0.005)
    clips = model(prompt=["p"] * 2, video=[images[:2], images[2:]])
    np.testing.assert_allclose(clips.rewards, [0.5, 0.45], atol=0.005)
