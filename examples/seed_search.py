"""Search the starting noise for a better picture, and stop when one more is not worth its cost.

Each step takes a noise drawn before, good ones more often (weights exp(reward / temperature)), and
turns it a little towards a fresh one. The search stops when the expected gain of another picture,
under a normal fit to the latest rewards, is below what a picture costs, in points of the reward.

    python examples/seed_search.py "a lighthouse in a storm" --cost 0.3
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, pstdev
from typing import Any

import torch
from PIL import Image

from artimuse import Reward

WINDOW = 12  # the latest rewards that the fit looks at: the search moves


@dataclass(frozen=True)
class Found:
    noise: torch.Tensor
    image: Image.Image
    reward: float


def expected_gain(rewards: Sequence[float]) -> float:
    """By how much the next reward is expected to exceed the best: E[max(0, X - best)], X normal."""
    latest = rewards[-WINDOW:]
    spread = pstdev(latest)
    if spread == 0:
        return 0.0
    z = (fmean(latest) - max(rewards)) / spread
    normal = NormalDist()
    return spread * (normal.pdf(z) + z * normal.cdf(z))


def search(
    generate: Callable[[torch.Tensor], Image.Image],
    reward: Any,
    shape: Sequence[int],
    *,
    cost: float,
    at_least: int = 6,
    at_most: int = 64,
    angle: float = 0.6,
    temperature: float = 2.0,
    seed: int = 0,
) -> list[Found]:
    """All pictures drawn, in order; ``max(found, key=lambda f: f.reward)`` is the answer.

    Args:
        generate: starting noise → picture.
        shape: of the noise.
        cost: of one picture, in points of the reward.
        angle: how far a step turns from its parent to fresh noise, 0..π/2.
        temperature: small follows the best alone, large wanders; in points of the reward.
    """
    random = torch.Generator().manual_seed(seed)
    found: list[Found] = []
    while len(found) < at_most:
        rewards = [f.reward for f in found]
        if len(found) >= at_least and expected_gain(rewards) < cost:
            break
        noise = torch.randn(*shape, generator=random)
        if len(found) >= at_least:
            weights = torch.softmax(torch.tensor(rewards) / temperature, 0)
            parent = found[int(torch.multinomial(weights, 1, generator=random))].noise
            # A turn on the sphere: the mixture is as normal as its parts.
            noise = math.cos(angle) * parent + math.sin(angle) * noise
        image = generate(noise)
        value = float(reward([image])[0])
        if math.isnan(value):
            raise RuntimeError("a picture could not be scored; see the warning above")
        found.append(Found(noise, image, value))
    return found


def main() -> None:
    from diffusers import StableDiffusionPipeline

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt")
    parser.add_argument("--model", default="stable-diffusion-v1-5/stable-diffusion-v1-5")
    parser.add_argument("--cost", type=float, default=0.3)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    pipeline = StableDiffusionPipeline.from_pretrained(options.model, torch_dtype=dtype).to(device)

    def generate(noise: torch.Tensor) -> Image.Image:
        image: Image.Image = pipeline(options.prompt, latents=noise.to(device, dtype)).images[0]
        return image

    found = search(generate, Reward(), (1, 4, 64, 64), cost=options.cost)
    best = max(found, key=lambda f: f.reward)
    print(f"{len(found)} pictures, best {best.reward:.2f}, first {found[0].reward:.2f}")
    best.image.save("best.png")


if __name__ == "__main__":
    main()
