"""How fast the embedded model scores, decoding apart, and how long a first score takes.

python benchmarks/engine_speed.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from artimuse import Scorer
from artimuse.artimuse_core import bundle
from artimuse.artimuse_core.engines import OnnxEngine
from artimuse.artimuse_core.scorer import NANO, locate

import machine

BATCH = 8
REPEATS = 30
FIRST_SCORE = (
    "import artimuse; from PIL import Image; "
    "assert artimuse.Scorer.load().score(Image.new('RGB', (512, 512)))[0].ok"
)


def images_per_second(engine: OnnxEngine, size: int) -> float:
    """Median over repeated batches."""
    pixels = np.random.default_rng(0).normal(size=(BATCH, 3, size, size)).astype(np.float32)
    seconds = []
    for repeat in range(REPEATS + 3):
        start = time.perf_counter()
        engine.score_logits(pixels)
        if repeat >= 3:
            seconds.append(time.perf_counter() - start)
    return BATCH / statistics.median(seconds)


def first_score_seconds() -> float:
    """A fresh interpreter: import, load, score one image; the median of five."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", FIRST_SCORE], check=True)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    directory = locate(NANO)
    manifest = bundle.read(directory)
    shipped = sum(f.stat().st_size for f in Path(directory).iterdir() if f.is_file())
    engine = OnnxEngine(directory, manifest, device="cpu", threads=1)
    print(f"{machine.describe()}; model {Scorer.load().name}, input {manifest.input_size} px")
    print("| what | measured |")
    print("|---|---|")
    rate = images_per_second(engine, manifest.input_size)
    print(f"| images/s on one core, batch {BATCH}, decoding apart | {rate:.0f} |")
    print(f"| import, load and first score | {first_score_seconds():.2f} s |")
    print(f"| all files of the model | {shipped / 1e6:.1f} MB |")


if __name__ == "__main__":
    main()
