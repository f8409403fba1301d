"""Which shape for the embedded model: what a tower sees before any training, and what it costs.

Pooled features of the starting tower (mean, spread and mean size over the places) go through ridge
regression to the ratings of the training prompts; agreement is measured on the validation prompts,
which no shipped figure uses.

    python benchmarks/nano_shapes.py --data AGIQA-3K-FOLDER [--shapes nano,wide]
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from artimuse.artimuse_core.model import ScoringGraph
from artimuse.training import nano
from artimuse.training.datasets import agiqa3k
from artimuse.training.datasets.agiqa3k import Rating
from artimuse.training.metrics import plcc, srcc, within
from artimuse.training.score_batches import Pool
from artimuse.training.vision import Normalise

import machine

SHAPES = {
    "slim": nano.NanoShape(vision_width=96, vision_layers=2, vision_mlp=192),
    "nano": nano.NanoShape(vision_layers=3),
    "wide": nano.NanoShape(vision_width=256, vision_layers=2, vision_mlp=512),
}
# Input side and patch; the first two have the same number of places.
SIZES = ((224, 16), (448, 32), (384, 32), (512, 32))
CPU = torch.device("cpu")


@torch.no_grad()
def pooled(graph: ScoringGraph, ratings: Sequence[Rating]) -> np.ndarray:
    """(n, 3 · width) of what the tower sees."""
    normalise, rows = Normalise(), []
    for pixels in nano.squashed([rating.image for rating in ratings], graph.input_size):
        places = graph.image_features(normalise(pixels.float() / 255))
        rows.append(torch.cat([places.mean(1), places.std(1), places.abs().mean(1)], dim=1))
    return torch.cat(rows).numpy()


def ridge(x: np.ndarray, y: np.ndarray, others: np.ndarray, strength: float = 300.0) -> np.ndarray:
    """Predictions for ``others``; features standardised by the training ones."""
    mean, std = x.mean(0), x.std(0) + 1e-6
    x, others = (x - mean) / std, np.clip((others - mean) / std, -5, 5)
    weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ (y - y.mean()))
    return others @ weights + y.mean()


def agreement(predicted: np.ndarray, ratings: Sequence[Rating]) -> str:
    human = np.array([rating.score for rating in ratings])
    generators = [rating.generator for rating in ratings]
    figures = (srcc(predicted, human), plcc(predicted, human), within(predicted, human, generators))
    return " | ".join(f"{figure:.3f}" for figure in figures)


@torch.no_grad()
def speed(graph: ScoringGraph, batch: int = 8, repeats: int = 5) -> float:
    """Images a second of one core, torch."""
    pixels = torch.randn(batch, 3, graph.input_size, graph.input_size)
    graph(pixels)
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        graph(pixels)
        taken.append(time.process_time() - started)
    return batch / min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="AGIQA-3K: labels.csv, images/")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="which of them, by commas")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    parts = agiqa3k.split(agiqa3k.load(options.data))
    trained, held = parts["train"], parts["validation"]
    few = nano.load_pool(trained[:80], 0, CPU)
    print(f"{machine.describe()}; {len(held)} images of validation prompts\n")
    columns = "| shape | pixels | patch | parameters | images/s a core (torch) "
    columns += "| SRCC at the start | PLCC | within "
    print(columns + "|")
    print("|---" * columns.count("|") + "|")
    for name in options.shapes.split(","):
        for size, patch in SIZES:
            shape = replace(SHAPES[name], input_size=size, patch_size=patch)
            print(measure(name, shape, trained, held, few), flush=True)


def measure(
    name: str, shape: nano.NanoShape, trained: Sequence[Rating], held: Sequence[Rating], few: Pool
) -> str:
    """One line of the table."""
    config = nano.NanoConfig(shape=shape, text=None)
    with tempfile.TemporaryDirectory() as folder:
        graph = nano.build(config, Path(folder))
    nano.initialise(graph, few, 0)
    graph.eval()
    known = np.array([rating.score for rating in trained])
    start = ridge(pooled(graph, trained), known, pooled(graph, held))
    parameters = sum(weight.numel() for weight in graph.parameters())
    row = f"| {name} | {shape.input_size} | {shape.patch_size} | {parameters / 1e6:.1f} M "
    row += f"| {speed(graph):.0f} | {agreement(start, held)} |"
    return row


if __name__ == "__main__":
    sys.exit(main())
