"""Draw N pictures of a prompt with diffusers and keep the best by ArtiMuse.

pip install 'artimuse[examples]'
python examples/best_of_n.py "a lighthouse in a storm" --n 16
python examples/best_of_n.py "a lighthouse" --model black-forest-labs/FLUX.1-schnell --steps 4
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from artimuse import Reward


@dataclass(frozen=True)
class Candidate:
    seed: int
    reward: float
    image: Image.Image


def best_of_n(
    pipeline: Any, reward: Any, n: int, *, first_seed: int = 0, **call: Any
) -> list[Candidate]:
    """All N, best first; pictures that could not be scored come last.

    ``call`` goes to the pipeline: prompt, num_inference_steps, …
    """
    seeds = range(first_seed, first_seed + n)
    # One generator a picture, so that each depends on its seed alone and can be drawn again.
    images = [
        pipeline(generator=torch.Generator("cpu").manual_seed(seed), **call).images[0]
        for seed in seeds
    ]
    rewards = reward(images).tolist()
    candidates = [Candidate(*row) for row in zip(seeds, rewards, images, strict=True)]
    return sorted(candidates, key=lambda c: math.inf if math.isnan(c.reward) else -c.reward)


def main() -> None:
    from diffusers import AutoPipelineForText2Image

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt")
    parser.add_argument("--model", default="stable-diffusion-v1-5/stable-diffusion-v1-5")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--out", type=Path, default=Path("best.png"))
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    pipeline = AutoPipelineForText2Image.from_pretrained(options.model, torch_dtype=dtype)
    pipeline.to(device)
    ranked = best_of_n(
        pipeline,
        Reward(),
        options.n,
        prompt=options.prompt,
        num_inference_steps=options.steps,
    )
    for candidate in ranked:
        print(f"{candidate.reward:6.2f}  seed {candidate.seed}")
    ranked[0].image.save(options.out)


if __name__ == "__main__":
    main()
