"""DRaFT in small: fine-tune a generator through the reward, with a held-out measure beside it.

A tiny diffusion model is sampled with DDIM, the gradient of ArtiMuse's score flows through the last
steps into its weights (DRaFT-K), and the curves show what the reward does not: whether the pictures
stay different from one another, and how far they drift from where they began. When the reward rises
while those fall, the generator has found a hole in the score.

    python examples/draft_finetune.py --steps 60 --out draft.csv

For a real model put its UNet with LoRA in the place of `tiny_unet`, decode latents with the VAE
before `reward(...)`, and keep everything else.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from artimuse.artimuse_core.differentiable import DifferentiableReward
from artimuse.artimuse_core.reward_guard import measure


@dataclass(frozen=True)
class Point:
    """One line of the curves."""

    step: int
    reward: float
    """Mean score of the training samples, 0..100."""
    diversity: float
    """Held out: mean distance between pictures of other noises, in levels of 0..255."""
    drift: float
    """Held out: how far the guard's traits have moved, Euclidean."""


def tiny_unet(side: int = 32) -> Any:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=side, in_channels=3, out_channels=3, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(16, 32), down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def sample(unet: Any, noise: torch.Tensor, *, steps: int = 4, last: int = 1) -> torch.Tensor:
    """(B,3,S,S) noise → pictures in 0..1; gradients flow through the ``last`` steps alone."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(steps)
    x = noise
    for index, time in enumerate(scheduler.timesteps):
        with torch.set_grad_enabled(torch.is_grad_enabled() and index >= steps - last):
            x = scheduler.step(unet(x, time).sample, time, x).prev_sample
    return torch.sigmoid(x)


@torch.no_grad()
def held_out(unet: Any, noise: torch.Tensor) -> tuple[float, np.ndarray]:
    """Diversity and mean traits of pictures from noise that is never trained on."""
    pictures = sample(unet, noise)
    flat = pictures.flatten(1)
    distance = torch.pdist(flat).mean() / flat.shape[1] ** 0.5 * 255
    levels = (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return float(distance), np.mean([measure(Image.fromarray(p)) for p in levels], axis=0)


def finetune(
    unet: Any, reward: DifferentiableReward, *, steps: int, batch: int = 4, lr: float = 1e-3
) -> list[Point]:
    """Raise the reward of ``unet``'s samples; the curves, one point a step."""
    random = torch.Generator().manual_seed(0)
    shape = (batch, 3, unet.config.sample_size, unet.config.sample_size)
    other_noise = torch.randn(8, *shape[1:], generator=random)
    _, began = held_out(unet, other_noise)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=lr)
    loss_fn = reward.loss_fn()
    points = []
    for step in range(steps):
        loss, rewards = loss_fn(sample(unet, torch.randn(shape, generator=random)))
        optimizer.zero_grad()
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        diversity, traits = held_out(unet, other_noise)
        drift = float(np.linalg.norm(traits - began))
        points.append(Point(step, float(rewards.detach().mean()), diversity, drift))
    return points


def plot(points: list[Point], path: Path) -> None:
    """The three curves, each in its own range, side by side in one picture."""
    width, height, names = 900, 260, ("reward", "diversity", "drift")
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for panel, name in enumerate(names):
        values = [getattr(point, name) for point in points]
        low, high = min(values), max(values)
        left, wide, top, tall = 20 + panel * 300, 260, 40, 190
        draw.rectangle((left, top, left + wide, top + tall), outline="#bbbbbb")
        draw.text((left, 14), f"{name}: {values[0]:.2f} to {values[-1]:.2f}", "black")
        draw.line(
            [
                (
                    left + wide * index / max(1, len(values) - 1),
                    top + tall * (1 - (value - low) / max(high - low, 1e-9)),
                )
                for index, value in enumerate(values)
            ],
            fill="#1d3557", width=2,
        )  # fmt: skip
    image.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("draft.csv"))
    options = parser.parse_args()
    torch.manual_seed(0)
    points = finetune(tiny_unet(), DifferentiableReward.load(options.model), steps=options.steps)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(points[0])))
        writer.writeheader()
        writer.writerows(asdict(point) for point in points)
    plot(points, options.out.with_suffix(".png"))
    print(f"reward {points[0].reward:.1f} → {points[-1].reward:.1f}; curves in {options.out}")


if __name__ == "__main__":
    main()
