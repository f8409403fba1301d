"""The node "ArtiMuse Score Plot"."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import comfy.model_management
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..artimuse_core.images import load_image
from ..artimuse_core.inputs import flatten
from . import models
from .batches import split_images
from .schema import check_option, describe, first, validate_options
from .scoring import model_input, scores_input, wired_or_scored

ORDERS = ("best first", "as they came")
INK, FAINT, BAR, PAPER = "#222222", "#bbbbbb", "#4a7fb5", "#ffffff"
GAP, CAPTION = 8, 26
"""Pixels."""
PLOT_SIZE = (640, 360)
BINS = 20
"""Of 5 points each."""


class ArtiMuseScorePlot(io.ComfyNode):
    """Images → a contact sheet with scores, and a histogram of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return describe(
            node_id="ArtiMuseScorePlot",
            display_name="ArtiMuse Score Plot",
            description="A contact sheet of the images with their scores, and a histogram.",
            search_aliases=["contact sheet", "grid", "histogram", "overview"],
            inputs=[
                io.Image.Input("images", tooltip="A batch, or a list of images of any sizes."),
                io.Int.Input("columns", default=4, min=1, max=64, tooltip="Images in a row."),
                io.Int.Input(
                    "tile",
                    default=256,
                    min=32,
                    max=2048,
                    step=8,
                    tooltip="Side of the square an image fits into, in pixels.",
                ),
                io.Combo.Input(
                    "order",
                    options=list(ORDERS),
                    default=ORDERS[0],
                    tooltip="Of the images on the sheet.",
                ),
                model_input(),
                scores_input(),
            ],
            outputs=[
                io.Image.Output(
                    "contact_sheet",
                    display_name="contact_sheet",
                    tooltip="Each image with its place and score.",
                ),
                io.Image.Output(
                    "histogram",
                    display_name="histogram",
                    tooltip="How many images have which score.",
                ),
            ],
            is_input_list=True,
        )

    @classmethod
    def validate_inputs(cls, order: Any = None) -> bool | str:
        return validate_options(order=(order, ORDERS))

    @classmethod
    def execute(
        cls,
        images: list[Any],
        columns: list[int],
        tile: list[int],
        order: list[str],
        model: list[models.LoadedModel] | None = None,
        scores: list[float] | None = None,
    ) -> io.NodeOutput:
        best_first = check_option("order", order, ORDERS) == ORDERS[0]
        total = len(split_images(images))
        numbers, _ = wired_or_scored(images, total, model, scores)
        cells = [
            (load_image(image), f"#{index}  {numbers[index]:.1f}", numbers[index])
            for index, image in enumerate(flatten(images))
        ]
        if best_first:
            cells.sort(key=lambda cell: -cell[2])
        sheet = contact_sheet([cell[:2] for cell in cells], first(columns), first(tile))
        return io.NodeOutput(to_image(sheet), to_image(histogram(numbers)))


def contact_sheet(cells: Sequence[tuple[Image.Image, str]], columns: int, tile: int) -> Image.Image:
    """Images, each fitted into a square of ``tile`` pixels, above their captions."""
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    size = (GAP + columns * (tile + GAP), GAP + rows * (tile + CAPTION + GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=16)
    for place, (image, caption) in enumerate(cells):
        left = GAP + place % columns * (tile + GAP)
        top = GAP + place // columns * (tile + CAPTION + GAP)
        fitted = ImageOps.contain(image, (tile, tile), Image.Resampling.LANCZOS)
        sheet.paste(fitted, (left + (tile - fitted.width) // 2, top + tile - fitted.height))
        draw.text((left + tile / 2, top + tile + 4), caption, INK, font, anchor="ma")
    return sheet


def histogram(scores: Sequence[float]) -> Image.Image:
    """Counts of scores over 0..100, with the mean marked."""
    width, height = PLOT_SIZE
    left, right, top, bottom = 48, width - 16, 44, height - 40
    counts, _ = np.histogram(scores, bins=BINS, range=(0, 100))
    most = max(1, int(counts.max()))
    plot = Image.new("RGB", PLOT_SIZE, PAPER)
    draw, font = ImageDraw.Draw(plot), ImageFont.load_default(size=14)

    def x(score: float) -> float:
        return left + (right - left) * score / 100

    def y(count: float) -> float:
        return bottom - (bottom - top) * count / most

    for tick in sorted({0, most // 2, most}):
        draw.line([(left, y(tick)), (right, y(tick))], fill=FAINT)
        draw.text((left - 8, y(tick)), str(tick), INK, font, anchor="rm")
    for index, count in enumerate(counts):
        if count:
            start, end = x(100 * index / BINS), x(100 * (index + 1) / BINS)
            draw.rectangle([start + 1, y(int(count)), end - 1, bottom], fill=BAR)
    for tick in range(0, 101, 20):
        draw.text((x(tick), bottom + 8), str(tick), INK, font, anchor="ma")
    mean = statistics.fmean(scores)
    draw.line([(x(mean), top), (x(mean), bottom)], fill=INK, width=2)
    title = f"{len(scores)} scores, mean {mean:.1f}, best {max(scores):.1f}"
    draw.text((left, 14), title, INK, font)
    return plot


def to_image(picture: Image.Image) -> torch.Tensor:
    """RGB → IMAGE (1, H, W, 3), where ComfyUI keeps such things."""
    pixels = torch.from_numpy(np.asarray(picture, np.float32) / np.float32(255))
    return pixels[None].to(comfy.model_management.intermediate_device())
