"""ComfyUI's batches and lists, taken apart into one item per image and named when they do not fit.

A node with ``is_input_list`` gets every input as a list, whose items may each be a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

from comfy_execution.graph_utils import ExecutionBlocker

from ..artimuse_core.errors import ImageInputError, UsageError

Item = TypeVar("Item")


def split_images(images: Sequence[Any]) -> list[Any]:
    """IMAGE batches (B, H, W, C) → one (1, H, W, C) per image; sizes may differ between batches."""
    singles = []
    for batch in images:
        if batch.ndim != 4:
            raise ImageInputError(f"expected IMAGE (B,H,W,C), got {tuple(batch.shape)}")
        singles.extend(batch[index : index + 1] for index in range(len(batch)))
    if not singles:
        raise ImageInputError("expected at least one image, got an empty batch")
    return singles


def split_masks(masks: Sequence[Any]) -> list[Any]:
    """MASK batches (B, H, W), or a single (H, W) → one (1, H, W) each."""
    batches = [mask[None] if mask.ndim == 2 else mask for mask in masks]
    return [batch[index : index + 1] for batch in batches for index in range(len(batch))]


def split_latents(latents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """LATENT batches → one each.

    ``batch_index`` says which place an item had, so that a sampler that goes on with it draws the
    noise it drew in the whole batch, as ComfyUI's own "Latent From Batch" has it.
    """
    singles = []
    for latent in latents:
        samples = latent["samples"]
        places = latent.get("batch_index", list(range(len(samples))))
        noise_mask = latent.get("noise_mask")
        for index in range(len(samples)):
            single = {**latent, "samples": samples[index : index + 1]}
            single["batch_index"] = places[index : index + 1]
            if noise_mask is not None:
                # A mask batch that is shorter than the latents repeats, as in ComfyUI's samplers.
                which = index % len(noise_mask) if noise_mask.ndim > 2 else None
                single["noise_mask"] = (
                    noise_mask if which is None else noise_mask[which : which + 1]
                )
            singles.append(single)
    return singles


def one_per_image(
    name: str, items: Sequence[Item], total: int, *, shared: bool = False
) -> list[Item]:
    """``items`` as a list of ``total``; with ``shared``, a single one may stand for all.

    Raises UsageError for any other number.
    """
    if shared and len(items) == 1:
        return list(items) * total
    if len(items) != total:
        wanted = f"1 or {total}" if shared and total != 1 else str(total)
        raise UsageError(f"{name}: expected {wanted}, as many as images, got {len(items)}")
    return list(items)


def check_scores(name: str, values: Sequence[float], total: int) -> list[float]:
    """Wired numbers, one an image. Raises UsageError for another count or for NaN."""
    numbers = [float(value) for value in one_per_image(name, values, total)]
    for index, number in enumerate(numbers):
        if not math.isfinite(number):
            raise UsageError(f"{name}: expected numbers, got {number} for image {index}")
    return numbers


def blocked(message: str | None = None) -> Any:
    """An output that stops whatever is wired to it: silently, or with an error that says why."""
    return ExecutionBlocker(message)
