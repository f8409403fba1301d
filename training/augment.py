"""Ways to spoil a picture, batched in torch: self-supervision that needs no ratings.

Each distortion takes ``images (B, 3, H, W)`` float in 0..1 and ``severity (B,)`` in 0..1 and
returns images of the same shape in 0..1. Severity 0 is a barely visible fault, 1 ruins the picture;
the strengths are those of pictures about 512 pixels wide. All randomness is torch's global
generator, so that a seed fixes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Distortion = Callable[[Tensor, Tensor], Tensor]


def gaussian_blur(images: Tensor, severity: Tensor) -> Tensor:
    """σ from 1 to 12 pixels."""
    sigma = 12.0**severity
    radius = math.ceil(2.5 * float(sigma.max()))
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets[None] / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)  # (3B, taps)
    b, _, h, w = images.shape
    x = F.pad(images.reshape(1, 3 * b, h, w), (radius,) * 4, mode="replicate")
    x = F.conv2d(x, kernel[:, None, None, :], groups=3 * b)
    x = F.conv2d(x, kernel[:, None, :, None], groups=3 * b)
    return x.reshape(b, 3, h, w)


def noise(images: Tensor, severity: Tensor) -> Tensor:
    """Gaussian, σ from 0.04 to 0.5 of the range; half of the pictures get grey noise."""
    sigma = 0.04 * 12.5**severity
    grain = torch.randn_like(images)
    grey = per_image(torch.rand(len(images), device=images.device) < 0.5)
    grain = torch.where(grey, grain[:, :1], grain)
    return (images + per_image(sigma) * grain).clamp(0, 1)


def underexposure(images: Tensor, severity: Tensor) -> Tensor:
    """-1.2 to -3 EV; in linear light or straight on the stored values, as tools differ."""
    return _expose(images, -1.2 - 1.8 * severity)


def overexposure(images: Tensor, severity: Tensor) -> Tensor:
    """+1.2 to +3 EV, clipped; in linear light or straight on the stored values."""
    return _expose(images, 1.2 + 1.8 * severity)


def _expose(images: Tensor, stops: Tensor) -> Tensor:
    gamma = torch.where(torch.rand(len(images), device=images.device) < 2 / 3, 2.2, 1.0)
    return (images.clamp(0, 1) * per_image(2 ** (stops / gamma))).clamp_(0, 1)


def veil(images: Tensor, severity: Tensor) -> Tensor:
    """A grey layer over the picture, 35% to 97% opaque."""
    opacity = per_image(0.35 + 0.62 * severity)
    grey = per_image(torch.rand_like(severity) * 0.5 + 0.25)
    return images * (1 - opacity) + grey * opacity


def posterise(images: Tensor, severity: Tensor) -> Tensor:
    """Banding: 10 down to 2 levels a channel."""
    steps = per_image((10 - 8 * severity).round() - 1)
    return (images * steps).round() / steps


def pixelate(images: Tensor, severity: Tensor) -> Tensor:
    """Enlarged from 1/4 to 1/32 of the size, in blocks or smoothly."""
    factor = 4 * 8 ** float(severity.mean())
    small = F.interpolate(images, scale_factor=1 / factor, mode="area")
    mode = "nearest" if float(torch.rand(())) < 0.5 else "bilinear"
    return F.interpolate(small, size=images.shape[-2:], mode=mode)


def jpeg(images: Tensor, severity: Tensor) -> Tensor:
    """JPEG as libjpeg quantises it: 4:2:0 chroma, quality from 30 to 3."""
    h, w = images.shape[-2:]
    images = F.pad(images, (0, -w % 16, 0, -h % 16), mode="replicate")  # whole blocks
    quality = 30 * 0.1**severity
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    ycc = torch.einsum("bchw,dc->bdhw", images * 255, _YCC.to(images))
    luma = _quantise(ycc[:, :1] - 128, _LUMA.to(images), scale)
    chroma = _quantise(F.avg_pool2d(ycc[:, 1:], 2), _CHROMA.to(images), scale)
    chroma = F.interpolate(chroma, scale_factor=2, mode="nearest")
    decoded = torch.cat([luma + 128, chroma], dim=1)
    decoded = torch.einsum("bchw,dc->bdhw", decoded[..., :h, :w], _RGB.to(images))
    return (decoded / 255).clamp(0, 1)


_YCC = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
_RGB = torch.tensor([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
# The example tables of the JPEG standard (ITU T.81, Annex K), which libjpeg scales by quality.
_LUMA = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA = torch.full((8, 8), 99)
_CHROMA[:4, :4] = torch.tensor(
    [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
)


def cosine_basis(size: int) -> Tensor:
    """The orthonormal DCT-II: (size frequencies, size samples)."""
    samples = (torch.arange(size) + 0.5) * math.pi / size
    basis = torch.cos(torch.arange(size)[:, None] * samples[None]) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def _quantise(planes: Tensor, table: Tensor, scale: Tensor) -> Tensor:
    """Round the 8×8 DCT coefficients of (B, C, H, W) to multiples of the scaled table."""
    b, c, h, w = planes.shape
    basis = cosine_basis(8).to(planes)
    steps = (table * scale[:, None, None]).clamp(1, 255)[:, None, None, :, None, :]
    blocks = planes.reshape(b, c, h // 8, 8, w // 8, 8)
    coefficients = torch.einsum("bcyixj,ui,vj->bcyuxv", blocks, basis, basis)
    coefficients = (coefficients / steps).round() * steps
    blocks = torch.einsum("bcyuxv,ui,vj->bcyixj", coefficients, basis, basis)
    return blocks.reshape(b, c, h, w)


DISTORTIONS: dict[str, Distortion] = {
    "blur": gaussian_blur,
    "noise": noise,
    "jpeg": jpeg,
    "underexposure": underexposure,
    "overexposure": overexposure,
    "veil": veil,
    "posterise": posterise,
    "pixelate": pixelate,
}


FAULTS = {name: kind for kind, name in enumerate(DISTORTIONS, 1)}
"""What a picture is spoiled by, as a class; 0 is left for clean ones."""


def spoil(kind: int, images: Tensor, severity: Tensor) -> Tensor:
    """The distortion of that class, one of ``FAULTS``."""
    return list(DISTORTIONS.values())[kind - 1](images, severity)


FREQUENCY = {
    "jpeg": 3.0,
    "underexposure": 3.0,
    "overexposure": 4.0,
    "posterise": 0.5,
    "pixelate": 0.5,
}
"""How often a distortion is drawn, relative to the others: the hard ones more."""


def draw_kinds(count: int) -> list[int]:
    """``count`` of ``FAULTS``, by their distortions' frequency, none twice."""
    weights = torch.tensor([FREQUENCY.get(name, 1.0) for name in DISTORTIONS])
    return (1 + torch.multinomial(weights, count)).tolist()


def worthless(count: int, size: int, device: torch.device) -> Tensor:
    """Pictures without content: flat colours, pure noise of several grains, plain gradients."""
    colour = torch.rand(count, 3, 1, 1, device=device)
    side = int(size / 16 ** float(torch.rand(())))  # grain of 1 to 16 pixels, hard or smooth
    speckle = torch.rand(count, 3, side, side, device=device)
    mode = "nearest" if float(torch.rand(())) < 0.5 else "bicubic"
    speckle = F.interpolate(speckle, size=(size, size), mode=mode).clamp(0, 1)
    normal = (0.5 + 0.25 * torch.randn(count, 3, size, size, device=device)).clamp(0, 1)
    speckle = torch.where(per_image(_coin(speckle) > 0), speckle, normal)
    # Scaled down from a larger picture, pure noise keeps its look and loses its contrast.
    fade = per_image(torch.rand(count, device=device)) * (per_image(_coin(speckle)) > 0)
    speckle = 0.5 + (speckle - 0.5) * (1 - 0.9 * fade)
    ramp = torch.linspace(0, 1, size, device=device).expand(count, 3, size, size)
    ramp = colour * ramp + torch.rand_like(colour) * (1 - ramp)
    kind = torch.randint(0, 7, (count, 1, 1, 1), device=device)
    flat = colour.expand(count, 3, size, size)
    grey = speckle[:, :1].expand_as(speckle)
    return torch.where(
        kind < 3, flat, torch.where(kind < 5, speckle, torch.where(kind < 6, grey, ramp))
    )


def jitter(images: Tensor, strength: float) -> Tensor:
    """Brightness, contrast and saturation scaled by up to ±``strength``: no change of worth."""
    factors = 1 + strength * (2 * torch.rand(3, len(images), 1, 1, 1, device=images.device) - 1)
    light, contrast, saturation = factors
    # The three in turn, multiplied out: each pass over the pixels costs as much as a layer.
    grey = images.mean(dim=1, keepdim=True)
    level = grey.mean(dim=(2, 3), keepdim=True) * light * (1 - contrast)
    grey.mul_(light * contrast * (1 - saturation)).add_(level)
    return images.mul(light * contrast * saturation).add_(grey).clamp_(0, 1)


def flip_some(images: Tensor) -> Tensor:
    """Mirror half of the pictures left to right, in place; returns which, (B,) bool."""
    chosen = _coin(images) > 0
    images[chosen] = images[chosen].flip(-1)
    return chosen


def resize(images: Tensor, size: int) -> Tensor:
    """Squash to size×size as inference does: bicubic with the kernel widened when shrinking."""
    if images.shape[-2:] == (size, size):
        return images
    images = F.interpolate(
        images, size=(size, size), mode="bicubic", antialias=True, align_corners=False
    )
    return images.clamp(0, 1)


def _coin(images: Tensor) -> Tensor:
    """(B,) random signs' source: positive for half of the images."""
    return torch.rand(len(images), device=images.device) - 0.5


def per_image(values: Tensor) -> Tensor:
    """(B,) → (B, 1, 1, 1), to go with images."""
    return values[:, None, None, None]
