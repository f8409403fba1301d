"""What the differentiable reward keeps for the backward pass, with and without checkpointing.

python benchmarks/reward_memory.py [--model nano] [--batch 8] [--side 512]
"""

from __future__ import annotations

import argparse
import time

import torch

from artimuse.artimuse_core.differentiable import DifferentiableReward

import machine


def kept_mb(reward: DifferentiableReward, images: torch.Tensor) -> float:
    """Activations that autograd saves in one forward pass, weights apart."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in reward.state_dict().values()}
    kept: dict[int, int] = {}
    held = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held.append(reward(images))
    return sum(kept.values()) / 1e6


def seconds(reward: DifferentiableReward, images: torch.Tensor) -> float:
    """Forward and backward, the best of three."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        torch.autograd.grad(reward(images).sum(), images)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=512)
    options = parser.parse_args()
    images = torch.rand(options.batch, 3, options.side, options.side, requires_grad=True)
    print(f"{machine.describe()}; model {options.model}, batch {options.batch}, fp32")
    print("| | kept for the backward pass | forward and backward |")
    print("|---|---|---|")
    for checkpointing in (False, True):
        reward = DifferentiableReward.load(
            options.model, device="cpu", dtype="fp32", checkpointing=checkpointing
        )
        name = "checkpointing" if checkpointing else "everything kept"
        print(f"| {name} | {kept_mb(reward, images):.0f} MB | {seconds(reward, images):.2f} s |")
    with torch.no_grad():
        print(f"| no gradient asked for | {kept_mb(reward, images):.0f} MB | |")


if __name__ == "__main__":
    main()
