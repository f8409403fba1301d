"""How far to trust the embedded model: agreement with people, and its behaviour on spoiled images.

All on prompts that it was never trained on (see `held_out.py`), read by the decoder that users run.

    python benchmarks/nano_quality.py --data AGIQA-3K-FOLDER [--model DIR] [--against DIR]

--model takes another bundle or checkpoint, --against one that it is compared with, in pairs;
--side enlarges the pictures before they are spoiled, for faults as large pictures have them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from artimuse import Scorer
from artimuse.artimuse_core.images import load_image
from artimuse.training.datasets import agiqa3k
from artimuse.training.metrics import Agreement, agreement, bootstrap_interval, plcc, srcc, within

import held_out
import machine

sys.path.append(str(Path(__file__).resolve().parent.parent / "examples"))
from rendering import spoil

FAULTS = {
    "heavy blur (σ 1/60 of the height)": spoil.blur(1 / 60),
    "heavy noise (σ 0.25)": spoil.noise(0.25),
    "JPEG quality 5": spoil.jpeg(5),
    "-2 EV": spoil.expose(-2),
    "+2 EV": spoil.expose(2),
    "90% grey veil": spoil.veil(0.9),
}
QUARTERS = 4


def scores(scorer: Scorer, images: list[Image.Image]) -> np.ndarray:
    return np.array([result.score for result in scorer.score(images)])


def changed(
    scorer: Scorer, files: list[Path], change: Callable[[Image.Image], Image.Image]
) -> np.ndarray:
    """Scores of changed images, a few in memory at a time."""
    chunks = [files[start : start + 32] for start in range(0, len(files), 32)]
    return np.concatenate([scores(scorer, [change(load_image(f)) for f in c]) for c in chunks])


def worthless() -> dict[str, Image.Image]:
    random = np.random.default_rng(0)
    pure = {
        f"noise {side}": Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
        for side in (64, 224, 512, 1024)
    }
    colours = ("black", "white", "grey", "red", "teal", "khaki", "navy", "pink")
    flat = {colour: Image.new("RGB", (512, 512), colour) for colour in colours}
    return (
        pure | flat | {f"1×1 {c}": Image.new("RGB", (1, 1), c) for c in ("black", "white", "teal")}
    )


def print_agreement(figures: Agreement) -> None:
    """The head of a table, and a row for each correlation."""
    print("| | measured | 95% interval |")
    print("|---|---|---|")
    for name, figure, (low, high) in (
        ("SRCC", figures.srcc, figures.srcc_interval),
        ("PLCC", figures.plcc, figures.plcc_interval),
        (
            "SRCC within a generator, mean",
            figures.srcc_within_generator,
            figures.srcc_within_generator_interval,
        ),
    ):
        print(f"| {name} | {figure:.3f} | {low:.3f} to {high:.3f} |")


def print_difference(
    predicted: np.ndarray, against: np.ndarray, ratings: list[agiqa3k.Rating]
) -> None:
    """By how much the first agrees better with people; both are drawn together."""
    names = np.array([rating.generator for rating in ratings])
    human = np.array([rating.score for rating in ratings])
    prompts = [rating.prompt for rating in ratings]

    def inside(scores: np.ndarray, people: np.ndarray, rows: np.ndarray) -> float:
        return within(scores, people, names[rows])

    metrics = {
        "SRCC": lambda scores, people, rows: srcc(scores, people),
        "PLCC": lambda scores, people, rows: plcc(scores, people),
        "SRCC within a generator, mean": inside,
    }
    print("\n| better than the other by | measured | 95% interval |")
    print("|---|---|---|")
    rows = np.arange(len(human))
    for name, metric in metrics.items():

        def better(one: np.ndarray, people: np.ndarray, drawn: np.ndarray, m=metric) -> float:
            return m(one, people, drawn) - m(against[drawn], people, drawn)

        low, high = bootstrap_interval(better, predicted, human, prompts, along=rows, samples=300)
        print(f"| {name} | {better(predicted, human, rows):.3f} | {low:.3f} to {high:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", help="another, to be compared with in pairs")
    parser.add_argument("--side", type=int, help="of the pictures that are spoiled, pixels")
    options, ratings = held_out.parse(parser)
    files = [rating.image for rating in ratings]
    scorer = Scorer.load(options.model, "cpu")
    print(f"{machine.describe()}; {scorer.card}\n")

    results = scorer.score(files)
    predicted = np.array([result.score for result in results])
    spread = np.array([result.std for result in results])
    human = np.array([rating.score for rating in ratings])
    figures = agreement(predicted, ratings)
    prompts = {rating.prompt for rating in ratings}
    print(f"{figures.n} images of {len(prompts)} prompts, the test part:\n")
    print_agreement(figures)
    print(f"| mean error, points | {np.abs(predicted - human).mean():.1f} | |")

    if options.against:
        other = np.array([r.score for r in Scorer.load(options.against, "cpu").score(files)])
        print_difference(predicted, other, ratings)

    print("\n| reported spread, quarter | spread | mean error, points |")
    print("|---|---|---|")
    for part in np.array_split(np.argsort(spread), QUARTERS):
        error = np.abs(predicted - human)[part].mean()
        print(f"| {spread[part].min():.1f} to {spread[part].max():.1f} "
              f"| {spread[part].mean():.1f} | {error:.1f} |")  # fmt: skip

    def enlarged(image: Image.Image) -> Image.Image:
        side = options.side
        return image.resize((side, side), Image.Resampling.LANCZOS) if side else image

    print("\n| spoiled by | scored lower than the original | mean drop, points |")
    print("|---|---|---|")
    random = np.random.default_rng(0)
    clean = changed(scorer, files, enlarged) if options.side else predicted
    for name, fault in FAULTS.items():
        drop = clean - changed(scorer, files, lambda image, f=fault: f(enlarged(image), random))
        print(f"| {name} | {np.mean(drop > 0):.1%} | {drop.mean():.1f} |")
    mirrored = changed(scorer, files, lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    print(f"\nmirrored left to right: {np.abs(mirrored - predicted).mean():.2f} points on average")

    lowest = np.quantile([rating.score for rating in agiqa3k.load(options.data)], 0.1)
    pictures = worthless()
    poor = scores(scorer, list(pictures.values()))
    above = [name for name, score in zip(pictures, poor, strict=True) if score > lowest]
    print(
        f"flat colours, pure noise, 1×1 images: {len(poor) - len(above)} of {len(poor)} in the "
        f"lowest decile of human scores (below {lowest:.1f})"
        + (f"; above it: {', '.join(above)}" if above else "")
    )


if __name__ == "__main__":
    main()
