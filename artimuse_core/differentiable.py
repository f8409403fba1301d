"""A reward with gradients: pixels → antialiased bicubic resize → model → readout, all in torch.

For trainers that differentiate through the sampler (AlignProp, DRaFT, ReFL). Only what carries the
gradient to the pixels is kept: weights take none, the prompt is precomputed, and with checkpointing
one block's activations exist at a time. Resize, normalisation and readout are fp32 whatever the
weights are, also under the trainer's autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .checkpoint import read_config, score_tokens
from .decoder import KeyValue, Rope, run_blocks
from .errors import ImageInputError, ModelError, UsageError
from .images import load_image
from .model import ScoringGraph
from .models import NANO, locate, name_of
from .preprocess import IMAGENET_MEAN, IMAGENET_STD
from .score_tokens import ORDERED_100, ScoreTokens
from .torch_graph import build_graph, pick_device, pick_dtype

LossFunction = Callable[..., tuple[Tensor, Tensor]]

# As in `inputs`: decoders overshoot a little, more than this is another range.
_OVERSHOOT = 0.5


class DifferentiableReward(nn.Module):
    """``reward(images) -> (B,)`` fp32 scores with gradients to the images. See :meth:`load`.

    Args:
        graph: the scoring graph; it is frozen here.
        factor, shift: the reward is ``score * factor + shift`` with the score in 0..100.
        value_range: what the images' lowest and highest values are, (0, 1) or (-1, 1).
        checkpointing: recompute each block in the backward pass instead of keeping it.
    """

    mean: Tensor
    std: Tensor
    token_values: Tensor

    def __init__(
        self,
        graph: ScoringGraph,
        *,
        tokens: ScoreTokens = ORDERED_100,
        factor: float = 1.0,
        shift: float = 0.0,
        value_range: tuple[float, float] = (0.0, 1.0),
        checkpointing: bool = True,
        name: str = "artimuse",
    ) -> None:
        super().__init__()
        if not value_range[0] < value_range[1]:
            raise UsageError(f"expected value_range (low, high), got {value_range}")
        if graph.answers is not None:
            raise ModelError(f"{name} answers in words, not tokens; gradients need score tokens")
        self.graph = graph.freeze()
        # Frozen, it holds what it needs of these two: at 8B they are 2 GB of weights.
        self.graph.lm_head = self.graph.decoder.embed_tokens = None
        if checkpointing:
            # The same weights and buffers, run block by block; the subclass adds no state.
            self.graph.__class__ = _CheckpointedGraph
        self.factor, self.shift, self.value_range, self.name = factor, shift, value_range, name
        for buffer, values in (
            ("mean", torch.tensor(IMAGENET_MEAN)[:, None, None]),
            ("std", torch.tensor(IMAGENET_STD)[:, None, None]),
            ("token_values", torch.tensor(tokens.values, dtype=torch.float32)),
        ):
            self.register_buffer(buffer, values, persistent=False)

    @classmethod
    def load(
        cls, model: str | Path = NANO, device: str = "auto", dtype: str = "auto", **options: Any
    ) -> DifferentiableReward:
        """From ``nano`` or an official checkpoint; ``options`` are the constructor's.

        ``device`` and ``dtype`` as in :meth:`.scorer.Scorer.load`; an ONNX bundle has no gradients
        and is refused with ModelError.
        """
        directory = locate(model)
        if not (directory / "config.json").is_file():
            raise ModelError(
                f"{directory} holds no checkpoint (no config.json); gradients need one, "
                "an ONNX bundle has none"
            )
        place = pick_device(device)
        graph, _ = build_graph(directory, pick_dtype(dtype, place))
        options.setdefault("tokens", score_tokens(read_config(directory)))
        options.setdefault("name", name_of(directory))
        return cls(graph.to(place), **options).to(place)

    @property
    def device(self) -> torch.device:
        return self.token_values.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; images and rewards are fp32."""
        return self.graph.score_head.dtype

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) or (3, H, W) floats within ``value_range`` → (B,) fp32 rewards."""
        # The trainer's autocast would take the resize or the readout out of fp32.
        with torch.autocast(self.device.type, enabled=False):
            logits = self.graph(self.pixel_values(images).to(self.dtype))
            scores: Tensor = logits.float().softmax(dim=-1) @ self.token_values
            return scores * self.factor + self.shift

    def pixel_values(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, 3, S, S) fp32, as ``preprocess`` makes them, without its rounding."""
        x, size = self._unit_range(images), self.graph.input_size
        # Bicubic overshoots, and Pillow clips after each of its two passes, width first.
        for sides in ((x.shape[2], size), (size, size)):
            if tuple(x.shape[2:]) != sides:
                x = F.interpolate(x, sides, mode="bicubic", antialias=True).clamp(0, 1)
        return (x - self.mean) / self.std

    def _unit_range(self, images: Tensor) -> Tensor:
        """Images in ``value_range`` → (B, 3, H, W) fp32 in 0..1, on the model's device."""
        if images.ndim == 3:
            images = images[None]
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ImageInputError(
                f"expected a float tensor (B,3,H,W), got {images.dtype} {tuple(images.shape)}"
            )
        low, high = self.value_range
        x = (images.to(self.device, torch.float32) - low) / (high - low)
        if x.numel():
            least, most = (float(value) for value in x.detach().aminmax())
            if least < -_OVERSHOOT or most > 1 + _OVERSHOOT:
                raise ImageInputError(
                    f"expected values in {low:g}..{high:g}, got {least * (high - low) + low:g}.."
                    f"{most * (high - low) + low:g}; set value_range, e.g. (-1, 1)"
                )
        return x.clamp(0, 1)

    def loss_fn(self, *, grad_scale: float = 1.0, target: float | None = None) -> LossFunction:
        """``loss_fn(images) -> (loss, rewards)``, both (B,), as AlignProp and ReFL call it.

        The loss is minus the reward, or its distance from ``target``, times ``grad_scale``. A
        second argument (prompts) is taken and ignored.
        """

        def loss_fn(images: Tensor, prompts: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
            rewards = self(images)
            loss = -rewards if target is None else (rewards - target).abs()
            return loss * grad_scale, rewards

        return loss_fn


class ArtiMuseMetric(nn.Module):
    """A pyiqa-like metric: ``metric(images) -> (B,)`` in 0..100, higher is better.

    Args:
        as_loss: keep gradients to the pixels and reduce as ``loss_reduction`` says.
        loss_weight: multiplies the loss. As in pyiqa the sign stays: minimise ``-metric(x)``, or
            give a negative weight.
        loss_reduction: ``mean``, ``sum`` or ``none``.
    """

    metric_name = "artimuse"
    metric_mode = "NR"
    lower_better = False
    score_range = "0, 100"

    def __init__(
        self,
        reward: DifferentiableReward,
        *,
        as_loss: bool = False,
        loss_weight: float = 1.0,
        loss_reduction: str = "mean",
    ) -> None:
        super().__init__()
        if loss_reduction not in ("mean", "sum", "none"):
            raise UsageError(f"expected loss_reduction mean, sum or none, got {loss_reduction!r}")
        self.net = reward
        self.as_loss, self.loss_weight, self.loss_reduction = as_loss, loss_weight, loss_reduction

    def forward(self, target: Any, ref: Any = None) -> Tensor:
        """``target``: (B,3,H,W) in 0..1, a PIL image or a path; ``ref`` is ignored (no-reference).

        (B,) scores without gradient, or, with ``as_loss``, the reduced loss.
        """
        images = target if isinstance(target, Tensor) else _from_image(target)
        with torch.set_grad_enabled(self.as_loss):
            scores: Tensor = self.net(images)
        if not self.as_loss:
            return scores
        if self.loss_reduction != "none":
            scores = scores.mean() if self.loss_reduction == "mean" else scores.sum()
        return scores * self.loss_weight


class _CheckpointedGraph(ScoringGraph):
    """Keeps the input of each block alone, and computes the rest again in the backward pass."""

    def _vision_block(self, layer: Any, x: Tensor) -> Tensor:
        answer: Tensor = checkpoint(super()._vision_block, layer, x, use_reentrant=False)
        return answer

    def _run_blocks(
        self,
        hidden: Tensor,
        past: Sequence[KeyValue],
        rope: Rope,
        mask: Tensor,
        *,
        last_only: bool,
        collect: list[KeyValue] | None,
    ) -> Tensor:
        if collect is not None:  # a cache is asked for: nothing to save
            return super()._run_blocks(
                hidden, past, rope, mask, last_only=last_only, collect=collect
            )
        final = len(past) - 1
        for index, layer in enumerate(self.decoder.layers):
            hidden = checkpoint(
                run_blocks,
                [layer],
                self.shape,
                hidden,
                past[index : index + 1],
                rope,
                mask,
                last_only=last_only and index == final,
                use_reentrant=False,
            )
        return hidden


def _from_image(source: Any) -> Tensor:
    """A PIL image or a path → (1, 3, H, W) fp32 in 0..1."""
    import numpy as np

    pixels = torch.from_numpy(np.array(load_image(source)))
    return pixels.permute(2, 0, 1)[None].float() / 255
