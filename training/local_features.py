"""What a picture looks like, place by place, as numbers that need no ratings.

From two thousand pictures a transformer learns texture slowly. These maps of exposure, colour,
contrast, sharpness and grain are hand-made, cheap, and known to predict quality (natural scene
statistics: Mittal et al. 2012); a head that is thrown away learns to read them from nano's tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = 3
"""Octaves at which texture is measured, from the model's own pixels on."""
MAPS = 8 + SCALES * 7


def luma(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) stored values → (B, H, W) by the weights of ITU-R BT.601."""
    return torch.einsum("bchw,c->bhw", pixels, pixels.new_tensor((0.299, 0.587, 0.114)))


@torch.no_grad()
def local_features(pixels: Tensor, side: int) -> Tensor:
    """(B, 3, S, S) in 0..1 → (B, 4·MAPS, side, side): four places of a ``2·side`` grid in one.

    Every map has mean 0 and spread 1 over the batch. S must be a multiple of ``2·side``, and the
    places at least 8 pixels wide.
    """
    grey = luma(pixels)[:, None]
    maps = _colour(pixels, grey, 2 * side)
    for _ in range(SCALES):
        maps += _texture(grey, 2 * side)
        grey = F.avg_pool2d(grey, 2)
    stacked = torch.cat(maps, dim=1)
    mean, std = stacked.mean((0, 2, 3), keepdim=True), stacked.std((0, 2, 3), keepdim=True)
    stacked = ((stacked - mean) / (std + 1e-3)).clamp(-4, 4)
    return F.pixel_unshuffle(stacked, 2)


def _colour(pixels: Tensor, grey: Tensor, side: int) -> list[Tensor]:
    """Exposure, contrast, clipping, saturation, and the two colour differences with their range."""
    pixels, grey = F.avg_pool2d(pixels, 2), F.avg_pool2d(grey, 2)
    red_green = pixels[:, :1] - pixels[:, 1:2]
    yellow_blue = (pixels[:, :1] + pixels[:, 1:2]) / 2 - pixels[:, 2:]
    saturation = pixels.amax(1, keepdim=True) - pixels.amin(1, keepdim=True)
    mean = [_places(x, side) for x in (grey, saturation, red_green, yellow_blue)]
    range_ = [
        _log(_places((x - x.mean((2, 3), keepdim=True)).abs(), side)) for x in (grey, red_green)
    ]
    clipped = [_places((grey > 0.95).float(), side), _places((grey < 0.05).float(), side)]
    return mean + range_ + clipped


def _texture(grey: Tensor, side: int) -> list[Tensor]:
    """Edges both ways, how they go on (smooth, or back and forth as in grain), local contrast."""
    across, along = (
        grey.diff(dim=-1, append=grey[..., -1:]),
        grey.diff(dim=-2, append=grey[..., -1:, :]),
    )
    edges = [_log(_places(x.abs(), side)) for x in (across, along)]
    power = _places(across.square(), side) + 1e-6
    turns = [_places(across * across.roll(1, dims), side) / power for dims in (-1, -2)]
    mean = F.avg_pool2d(grey, 4)
    contrast = (F.avg_pool2d(grey.square(), 4) - mean.square()).clamp_min(0).sqrt()
    level = _places(contrast, side)
    unevenness = (_places(contrast.square(), side) - level.square()).clamp_min(0).sqrt()
    sparse = edges[0] - 0.5 * torch.log(power)
    return [*edges, *turns, _log(level), _log(unevenness), sparse]


def _places(plane: Tensor, side: int) -> Tensor:
    """Mean within each place of a side × side grid."""
    return F.adaptive_avg_pool2d(plane, side)


def _log(values: Tensor) -> Tensor:
    """Faults are ratios: twice the grain is as far at any level."""
    return torch.log(values.clamp_min(0) + 1e-4)
