"""Pixels as the vision tower wants them (paper App. D.1: one fixed tile, not dynamic tiling).

RGB, squash-resized to S×S with Pillow's bicubic (aspect not kept), ImageNet mean and std, fp32.
Equal to the last bit to the reference's ``Resize → ToTensor → Normalize``: there are only 256
values a channel, so the arithmetic is done once per value, in the reference's order, and looked up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _normalised() -> npt.NDArray[np.float32]:
    unit = np.arange(256, dtype=np.float32) / np.float32(255)
    mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    table: npt.NDArray[np.float32] = (unit[None, :] - mean[:, None]) / std[:, None]  # (3, 256)
    return table


_NORMALISED = _normalised()


def resize(image: Image.Image, size: int) -> Image.Image:
    """Squash an RGB image to ``size`` × ``size``, bicubic with antialiasing."""
    if image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BICUBIC)


def preprocess(image: Image.Image, size: int) -> npt.NDArray[np.float32]:
    """One RGB image → (3, size, size) fp32 pixel values."""
    pixels = np.asarray(resize(image, size))  # (S, S, 3) uint8
    values = np.empty((3, size, size), np.float32)
    for channel in range(3):
        np.take(_NORMALISED[channel], pixels[:, :, channel], out=values[channel])
    return values


def preprocess_batch(images: Sequence[Image.Image], size: int) -> npt.NDArray[np.float32]:
    """RGB images of any sizes → (B, 3, size, size) fp32."""
    return np.stack([preprocess(image, size) for image in images])
