"""Reward functions with the exact signatures of today's trainers; docs/rewards.md has the recipes.

flow_grpo, ddpo-pytorch   fn = artimuse_score(device); fn(images, prompts, metadata) -> (r, {})
TRL DDPO                  trl_reward(device)
TRL AlignProp             trl_differentiable_reward(device), gradients to the pixels
AlignProp                 alignprop_loss_fn(device), images in -1..1
ReFL, DRaFT               refl_loss_fn(device), images in 0..1
verl-omni                 compute_score, a coroutine
Flow-Factory              flow_factory_reward.ArtiMuseRewardModel, a module of its own
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .batching import Batcher
from .errors import ImageError
from .reward import Reward
from .scorer import NANO, Scorer, locate

if TYPE_CHECKING:
    from .differentiable import DifferentiableReward, LossFunction

RewardAndInfo = Callable[[Any, Any, Any], tuple[Any, Any]]


def load_reward(device: Any = "auto", model: str | Path = NANO, **options: Any) -> Reward:
    """A :class:`.Reward` on a trainer's device (``torch.device`` or its name).

    On a GPU the torch backend runs where the model has a checkpoint: a trainer has torch there,
    and rarely onnxruntime-gpu.
    """
    name = str(device)
    on_gpu = name.partition(":")[0] in ("cuda", "mps")
    backend = "torch" if on_gpu and (locate(model) / "config.json").is_file() else "auto"
    return Reward(Scorer.load(model, name, backend=backend), **options)


def artimuse_score(device: Any = "auto", model: str | Path = NANO, **options: Any) -> RewardAndInfo:
    """flow_grpo and ddpo-pytorch: ``fn(images, prompts, metadata) -> (scores, {})``.

    ``images``: NCHW tensor in 0..1 or NHWC uint8 array. Scores: (B,) fp32 tensor, on the images'
    device where they are a tensor. ``options`` are :class:`.Reward`'s.
    """
    reward = load_reward(device, model, output="torch", **options)

    def _fn(images: Any, prompts: Any, metadata: Any) -> tuple[Any, dict[str, Any]]:
        return reward(images, prompts, metadata), {}

    return _fn


def trl_reward(device: Any = "auto", model: str | Path = NANO, **options: Any) -> RewardAndInfo:
    """TRL's DDPO: ``fn(images, prompts, metadata) -> (rewards, metadata)``; safe in threads."""
    reward = load_reward(device, model, output="torch", **options)

    def reward_fn(images: Any, prompts: Any, metadata: Any) -> tuple[Any, Any]:
        return reward(images, prompts, metadata), metadata

    return reward_fn


def trl_differentiable_reward(
    device: Any = "auto", model: str | Path = NANO, **options: Any
) -> RewardAndInfo:
    """TRL's AlignProp: the same signature, with gradients; images NCHW in 0..1.

    TRL minimises ``10 - rewards.mean()``; ``factor=0.1`` gives rewards in 0..10.
    """
    reward = _differentiable(device, model, options)

    def reward_fn(images: Any, prompts: Any, metadata: Any) -> tuple[Any, Any]:
        return reward(images), metadata

    return reward_fn


def alignprop_loss_fn(
    device: Any = "auto",
    model: str | Path = NANO,
    *,
    grad_scale: float = 1.0,
    target: float | None = None,
    **options: Any,
) -> LossFunction:
    """AlignProp: ``loss_fn(images) -> (loss, rewards)``, (B,) each; images in -1..1."""
    reward = _differentiable(device, model, {"value_range": (-1.0, 1.0), **options})
    return reward.loss_fn(grad_scale=grad_scale, target=target)


def refl_loss_fn(
    device: Any = "auto", model: str | Path = NANO, *, grad_scale: float = 1.0, **options: Any
) -> LossFunction:
    """ReFL and DRaFT: ``loss_fn(images) -> (loss, rewards)``; images NCHW in 0..1."""
    return _differentiable(device, model, options).loss_fn(grad_scale=grad_scale)


def _differentiable(
    device: Any, model: str | Path, options: dict[str, Any]
) -> DifferentiableReward:
    from .differentiable import DifferentiableReward

    return DifferentiableReward.load(model, str(device), **options)


_loading = threading.Lock()
_batchers: dict[tuple[str, str], Batcher] = {}


def _shared_batcher(model: str, device: str) -> Batcher:
    """verl-omni knows a bare function: its model is kept here, one for each set of arguments."""
    with _loading:
        if (model, device) not in _batchers:
            # Unbounded: the images that wait are the trainer's own, in memory already.
            reward = load_reward(device, model)
            _batchers[model, device] = Batcher(reward, max_queue=sys.maxsize)
        return _batchers[model, device]


async def compute_score(
    data_source: str = "",
    solution_image: Any = None,
    ground_truth: str = "",
    extra_info: dict[str, Any] | None = None,
    *,
    model: str = NANO,
    device: str | None = None,
    scale: float = 1.0,
    **kwargs: Any,
) -> dict[str, float]:
    """verl-omni's ``custom_reward_function``; concurrent calls share batches.

    ``solution_image``: one image, (C,H,W) or (H,W,C) tensor or array (uint8, or floats in 0..1) or
    PIL image; or frames, (N,C,H,W) or (C,N,H,W), which earn their mean.
    Returns ``{"score", "artimuse_std"}``. Raises ImageError with the reason if there is no score:
    verl-omni has no value for "unknown".
    """
    batcher = await asyncio.to_thread(_shared_batcher, model, device or "auto")
    frames = _frames(solution_image)
    items = await asyncio.wrap_future(batcher.submit(frames))
    for item in items:
        if item.error is not None:
            raise ImageError(item.error)
    return {
        "score": scale * sum(item.value for item in items) / len(items),
        "artimuse_std": sum(item.std for item in items) / len(items),
    }


def _frames(image: Any) -> Sequence[Any]:
    """One image, or the frames of a clip."""
    if getattr(image, "ndim", 3) != 4:
        return [image]
    channels = (1, 3)
    if image.shape[0] in channels and not {image.shape[1], image.shape[3]} & {*channels}:
        image = image.swapaxes(0, 1)
    return list(image)
