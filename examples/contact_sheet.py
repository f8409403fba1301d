"""Rank a folder and draw its best and worst images with their scores: the picture in the README.

python examples/contact_sheet.py examples/generations docs/ranking.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from artimuse import Scorer

TILE, GAP, CAPTION = 200, 12, 30
INK, PAPER = "#222222", "#ffffff"


def contact_sheet(rows: list[list[tuple[Path, str]]]) -> Image.Image:
    """Rows of (image file, caption), each image cropped to a square tile."""
    width = GAP + max(map(len, rows)) * (TILE + GAP)
    sheet = Image.new("RGB", (width, GAP + len(rows) * (TILE + CAPTION + GAP)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for row, cells in enumerate(rows):
        for column, (file, caption) in enumerate(cells):
            left, top = GAP + column * (TILE + GAP), GAP + row * (TILE + CAPTION + GAP)
            with Image.open(file) as image:
                sheet.paste(ImageOps.fit(image.convert("RGB"), (TILE, TILE)), (left, top))
            draw.text((left + 2, top + TILE + 5), caption, font=font, fill=INK)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--columns", type=int, default=6, help="images a row: best, then worst")
    options = parser.parse_args()
    files = sorted(options.folder.glob("*.png"))
    results = Scorer.load().score(files)
    ranked = sorted(
        ((result.score, file) for result, file in zip(results, files, strict=True) if result.ok),
        reverse=True,
    )
    captioned = [(file, f"{score:.1f}") for score, file in ranked]
    sheet = contact_sheet([captioned[: options.columns], captioned[-options.columns :]])
    sheet.quantize(160).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
