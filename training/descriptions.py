"""What can be said of a picture from its pixels alone, attribute by attribute, in plain words.

nano's text stage learns to say these of its own image tokens. Nothing here looks for meaning:
exposure, contrast, colour, sharpness, grain, clutter, symmetry, where the detail lies, and how
good nano finds the picture. Hence a draft model's words, wherever they appear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 192
"""Pixels at which facts are measured: what a model of nano's size can see."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Measured on a picture squashed to ``SIDE``; luma and colours in 0..1."""

    luma: float
    highlights: float
    """Share of the pixels brighter than 0.95."""
    contrast: float
    """Standard deviation of luma."""
    saturation: float
    warmth: float
    """Red minus blue."""
    sharpness: float
    """Mean step between neighbours, relative to the contrast."""
    grain: float
    """How far steps turn back at once: 0 in smooth pictures, 0.5 in pure noise."""
    clutter: float
    """Share of the places, of 12 × 12, with much going on inside."""
    symmetry: float
    """Correlation with the mirrored picture, -1..1."""
    subject: float
    """Detail in the middle over detail at the edges."""


def luma(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) stored values → (B, H, W) by the weights of ITU-R BT.601."""
    return torch.einsum("bchw,c->bhw", pixels, pixels.new_tensor((0.299, 0.587, 0.114)))


@torch.no_grad()
def facts(images: Tensor) -> list[Facts]:
    """Measure ``images (B, 3, H, W)`` in 0..1."""
    images = F.interpolate(images, size=(SIDE, SIDE), mode="area")
    grey = luma(images)
    contrast = grey.std((1, 2))
    across = grey.diff(dim=2)
    turning = -(across[..., 1:] * across[..., :-1]).mean((1, 2))
    places = grey.unfold(1, 16, 16).unfold(2, 16, 16).std((3, 4))  # (B, 12, 12)
    middle, total = places[:, 3:9, 3:9].mean((1, 2)), places.mean((1, 2)) + 1e-4
    small = F.avg_pool2d(grey[:, None], 8)[:, 0].flatten(1)
    mirrored = F.avg_pool2d(grey.flip(2)[:, None], 8)[:, 0].flatten(1)
    measured = {
        "luma": grey.mean((1, 2)),
        "highlights": (grey > 0.95).float().mean((1, 2)),
        "contrast": contrast,
        "saturation": (images.amax(1) - images.amin(1)).mean((1, 2)),
        "warmth": (images[:, 0] - images[:, 2]).mean((1, 2)),
        "sharpness": across.abs().mean((1, 2)) / (contrast + 0.02),
        "grain": turning / (across.square().mean((1, 2)) + 1e-5),
        "clutter": (places > 0.08).float().mean((1, 2)),
        "symmetry": _correlation(small, mirrored),
        "subject": middle / total,
    }
    return [
        Facts(*(float(measured[name][i]) for name in Facts.__slots__)) for i in range(len(grey))
    ]


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), eps=1e-4)


def describe(seen: Facts, score: float) -> dict[str, str]:
    """A sentence or two for each attribute by name (paper Table 5); ``score`` is 0..100."""
    light = _light(seen)
    contrast = _level(seen.contrast, (0.13, 0.27), ("low", "moderate", "high"))
    colour = _level(seen.saturation, (0.05, 0.17, 0.4), ("greyish", "muted", "natural", "vivid"))
    warmth = _level(seen.warmth, (-0.04, 0.1), ("cool", "neutral", "warm"))
    detail = _level(seen.sharpness, (0.07, 0.13), ("blurred", "soft", "sharp"))
    grain = " with visible grain" if seen.grain > 0.0 else ""
    space = _level(seen.clutter, (0.05, 0.3, 0.7), ("empty", "simple", "busy", "cluttered"))
    symmetry = _level(seen.symmetry, (0.3, 0.75), ("asymmetric", "nearly symmetric", "symmetric"))
    subject = _level(
        seen.subject, (0.95, 1.3),
        ("lies away from the centre", "blends with the background", "stands out in the centre"),
    )  # fmt: skip
    worth = _level(score, (25, 42, 58, 72), ("poor", "weak", "fair", "good", "excellent"))
    attention = _level(score, (35, 60), ("little", "some", "much"))
    look = "plain" if colour in ("greyish", "muted") and contrast != "high" else "distinctive"
    mood = {"dark": "dark and tense", "bright": "bright and calm"}.get(
        light, "lively" if colour == "vivid" or contrast == "high" else "calm"
    )
    return {
        "Composition & Design": f"The layout is {symmetry}. The space is {space}.",
        "Visual Elements & Structure": f"The colours are {colour} and {warmth}. "
        f"The contrast is {contrast}.",
        "Technical Execution": f"The exposure is {light}. The detail is {detail}{grain}.",
        "Originality & Creativity": f"The look is {look}, with {colour} colours "
        f"and a {space} space.",
        "Theme & Communication": f"The subject {subject}. It draws {attention} interest.",
        "Emotion & Viewer Response": f"The mood is {mood}. It draws {attention} attention.",
        "Overall Gestalt": f"The overall impression is {worth}, with {light} exposure, "
        f"{contrast} contrast and {detail} detail.",
        "Comprehensive Evaluation": f"The picture is {worth} and "
        f"{_advice(light, contrast, detail, grain, space, colour)}.",
    }


def _level(value: float, limits: Sequence[float], words: Sequence[str]) -> str:
    return words[sum(value >= limit for limit in limits)]


def _light(seen: Facts) -> str:
    if seen.highlights > 0.2 or seen.luma > 0.8:
        return "overexposed"
    return _level(seen.luma, (0.15, 0.28, 0.58), ("underexposed", "dark", "even", "bright"))


def _advice(light: str, contrast: str, detail: str, grain: str, space: str, colour: str) -> str:
    """The gravest fault, if any."""
    faults = {
        "more light": light == "underexposed",
        "less light": light == "overexposed",
        "less noise": bool(grain),
        "sharper detail": detail == "blurred",
        "more contrast": contrast == "low",
        "less clutter": space == "cluttered",
        "more colour": colour == "greyish",
    }
    wanted = next((advice for advice, needed in faults.items() if needed), None)
    return f"would benefit from {wanted}" if wanted else "shows no plain technical fault"
