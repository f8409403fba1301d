"""Flow-Factory's pointwise reward model; only Flow-Factory imports this, from its configuration:

rewards:
  - name: aesthetics
    reward_model: artimuse.artimuse_core.flow_factory_reward.ArtiMuseRewardModel
    batch_size: 16
    model: nano     # optional: or a directory
    scale: unit     # optional: raw, unit, or a factor
"""

from __future__ import annotations

from typing import Any

import torch
from flow_factory.rewards.abc import PointwiseRewardModel, RewardModelOutput
from PIL import Image

from .scorer import NANO
from .trainers import load_reward


class ArtiMuseRewardModel(PointwiseRewardModel):
    """``model(prompt=[…], image=[PIL…]) -> RewardModelOutput`` with (B,) fp32 rewards."""

    required_fields = ("prompt", "image")
    use_tensor_inputs = False

    def __init__(self, config: Any, accelerator: Any) -> None:
        super().__init__(config, accelerator)
        self.reward = load_reward(
            self.device,
            getattr(config, "model", None) or NANO,
            scale=getattr(config, "scale", None) or "raw",
            output="torch",
        )

    def __call__(
        self,
        prompt: list[str],
        image: list[Image.Image] | None = None,
        video: list[list[Image.Image]] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Videos earn the mean of their frames."""
        if video is not None:
            rewards = torch.stack([self.reward(frames, prompt).mean() for frames in video])
        else:
            rewards = self.reward(image or [], prompt)
        return RewardModelOutput(rewards=rewards.to(self.device))
