"""How much curating costs above merely decoding and resizing, and whether memory stays flat.

Both sides run on the same files, the same cores and in turns within one run, so that a busy machine
slows both. The floor is Pillow alone: decode, convert to RGB, resize, in one thread per core.

    python benchmarks/curate_speed.py [--images 1000] [--growth 5000]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from artimuse import Scorer
from artimuse.artimuse_core.engines import default_threads
from artimuse.curation.decide import Wishes, rank_records
from artimuse.curation.pipeline import Memory, score_files
from artimuse.curation.selection import Top
from artimuse.curation.store import Store, Wanted

import machine

SIDE = 1024
ROUNDS = 3


def render(folder: Path, distinct: int, count: int) -> list[Path]:
    """``count`` PNGs of 1024×1024 with a photograph's entropy; all but ``distinct`` are links."""
    random = np.random.default_rng(0)
    files = []
    for index in range(count):
        file = folder / f"image_{index:05d}.png"
        if index < distinct:
            coarse = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            grain = random.normal(0, 6, (SIDE, SIDE, 3))
            pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1)).save(file)
            os.utime(file, (1.6e9, 1.6e9))  # else too fresh for the store to trust its time
        else:
            os.link(files[index % distinct], file)
        files.append(file)
    return files


def decode_and_resize(files: list[Path], size: int, cores: int) -> float:
    """Seconds for Pillow alone."""

    def one(file: Path) -> None:
        with Image.open(file) as image:
            image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)

    start = time.perf_counter()
    with ThreadPoolExecutor(cores) as pool:
        for _ in pool.map(one, files):
            pass
    return time.perf_counter() - start


class Forgetful(Store):
    """A store that does not know pixels it has seen, only files."""

    def known(self, pixels: bytes, model: str, wanted: Wanted) -> None:
        return None


def curate(scorer: Scorer, files: list[Path], store: Store) -> float:
    """Seconds for everything ``artimuse curate`` does between scan and table."""
    start = time.perf_counter()
    memory = Memory(store, scorer.name)
    records = rank_records(score_files(scorer, files, memory=memory), Wishes(top=Top.parse("10%")))
    assert all(record.error is None for record in records)
    return time.perf_counter() - start


def peak_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--growth", type=int, default=5000, help="for the memory check; 0: none")
    options = parser.parse_args()
    cores = default_threads()
    with tempfile.TemporaryDirectory() as name:
        files = render(Path(name), 60, max(options.images, options.growth))
        scorer = Scorer.load()
        part = files[: options.images // ROUNDS]
        curate(scorer, part[:16], Store(None))  # warm up
        ratios, floors, ours, warm = [], [], [], []
        for number in range(ROUNDS):
            floors.append(decode_and_resize(part, scorer.input_size, cores))
            # Links hold equal pixels; each must be scored as if it were new.
            store = Forgetful(Path(name) / f"{number}.sqlite")
            ours.append(curate(scorer, part, store))
            ratios.append(ours[-1] / floors[-1])
            warm.append(curate(scorer, part, store))
            store.close()
        total = ROUNDS * len(part)
        print(f"{machine.describe()}; model {scorer.name}, input {scorer.input_size} px")
        print(f"| {total} PNGs of {SIDE}×{SIDE} | seconds | images/s |")
        print("|---|---|---|")
        print(f"| decode and resize (Pillow) | {sum(floors):.1f} | {total / sum(floors):.1f} |")
        print(f"| artimuse curate | {sum(ours):.1f} | {total / sum(ours):.1f} |")
        print(f"| artimuse curate again | {sum(warm):.1f} | {total / sum(warm):.1f} |")
        print(f"a second run is {sum(ours) / sum(warm):.0f} times faster (bound 30)")
        spread = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"ratio {statistics.median(ratios):.2f} (rounds: {spread}; bound 1.30)")
        if options.growth:
            curate(scorer, files[: options.images], Forgetful(None))
            before = peak_mb()
            curate(scorer, files[: options.growth], Forgetful(None))
            growth = peak_mb() - before
            print(
                f"peak memory {before:.0f} MB after {options.images} images, "
                f"{growth:+.0f} MB after {options.growth} (bound +100 MB)"
            )


if __name__ == "__main__":
    main()
