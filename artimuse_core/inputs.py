"""In-memory images of every kind a caller may hold, as a flat list of one source per image.

Accepted: a path, bytes or binary file; a PIL image; an array ``(H, W)``, ``(H, W, C)`` or
``(B, H, W, C)``; a tensor ``(B, 3, H, W)``, ``(3, H, W)`` or ComfyUI's ``(B, H, W, C)``; or a
sequence of those. Arrays hold uint8, or floats in 0..1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .errors import ImageInputError

# Interpolation overshoots 0..1 a little (VAE decoding, bicubic); beyond this it is another range.
_OVERSHOOT = 0.5


def from_array(array: Any) -> Iterator[Image.Image]:
    """Yield the RGB images of an array or tensor, see the module for shapes and ranges."""
    for pixels in split_array(array):
        yield Image.fromarray(to_uint8(pixels))


def split_array(array: Any) -> Iterator[npt.NDArray[Any]]:
    """Yield each image of an array or tensor as (H, W, 3), in its own dtype and range."""
    if hasattr(array, "detach"):  # a torch tensor; bf16 has no numpy type, hence float()
        tensor = array.detach().cpu()
        array = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
    yield from channels_last(np.asarray(array))


def flatten(images: Any, unpack: Callable[[Any], Iterator[Any]] = from_array) -> Iterator[Any]:
    """Yield one source per image: what ``images.load_image`` takes, or a PIL image.

    ``unpack`` decides what an array or tensor becomes.
    Raises ImageInputError for a shape, range or type that is none of the accepted ones.
    """
    if isinstance(images, (str, bytes, os.PathLike, Image.Image)) or hasattr(images, "read"):
        yield images
    elif hasattr(images, "__array__") or hasattr(images, "detach"):
        yield from unpack(images)
    elif isinstance(images, Iterable):
        for item in images:
            yield from flatten(item, unpack)
    else:
        raise ImageInputError(
            f"expected paths, PIL images, arrays or tensors, got {type(images).__name__}"
        )


def channels_last(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Any accepted layout → (B, H, W, 3); alpha is dropped, grey is repeated."""
    shape = values.shape
    if values.ndim == 2:
        values = values[None, :, :, None]
    elif values.ndim == 3:
        values = values[None]
    elif values.ndim != 4:
        raise ImageInputError(f"expected (B,H,W,C) or (B,3,H,W), got {shape}")
    first, last = values.shape[1] in (1, 3, 4), values.shape[3] in (1, 3, 4)
    if first and last and values.shape[1] != values.shape[3]:
        # One of them is a tiny image side. Three channels beat one or four.
        first, last = values.shape[1] == 3, values.shape[3] == 3
    if first and last:
        raise ImageInputError(
            f"cannot tell (B,C,H,W) from (B,H,W,C) in {shape}; pass PIL images instead"
        )
    if first:
        values = values.transpose(0, 2, 3, 1)
    elif not last:
        raise ImageInputError(
            f"expected 1, 3 or 4 channels first or last, got {shape}; permute the axes"
        )
    if 0 in values.shape:
        raise ImageInputError(f"expected at least one pixel, got {shape}")
    return values.repeat(3, axis=3) if values.shape[3] == 1 else values[..., :3]


def to_uint8(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """uint8 as it is; floats 0..1 rounded to the nearest level. Anything else is refused."""
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if pixels.dtype.kind != "f":
        raise ImageInputError(f"expected uint8 or floats in 0..1, got {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())  # NaN propagates into both
    if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):
        raise ImageInputError(
            f"expected floats in 0..1, got {low:g}..{high:g}; scale them first (uint8 is 0..255)"
        )
    levels = pixels * 255  # one copy, then in place: this is most of what a ComfyUI node costs
    levels += 0.5
    return np.clip(levels, 0, 255, out=levels).astype(np.uint8)
