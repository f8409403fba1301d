"""What the node costs beside the engine: 8 images through ArtiMuse Score, and their pixels alone.

Run it with ComfyUI's own interpreter, with artimuse installed there:

COMFYUI_PATH=…/ComfyUI python benchmarks/comfy_overhead.py
"""

from __future__ import annotations

import asyncio
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable

sys.path.insert(0, os.environ["COMFYUI_PATH"])
import numpy as np
import torch
from comfy.cli_args import args

import artimuse
from artimuse import Scorer

import machine

BATCH, REPEATS = 8, 15


def milliseconds(work: Callable[[], object]) -> tuple[float, float]:
    """Medians an image: by the clock, and of all cores' work, which other programs leave alone."""
    clock, work_done = [], []
    for _ in range(REPEATS):
        start, before = time.perf_counter(), time.process_time()
        work()
        clock.append(1000 * (time.perf_counter() - start) / BATCH)
        work_done.append(1000 * (time.process_time() - before) / BATCH)
    return statistics.median(clock), statistics.median(work_done)


def main() -> None:
    args.cpu = True
    extension = asyncio.run(artimuse.comfy_entrypoint())
    nodes = {n.__name__: n for n in asyncio.run(extension.get_node_list())}
    score = nodes["ArtiMuseScore"]
    scorer = Scorer.load()
    print(f"{machine.describe()}; model {scorer.name}, batch {BATCH}")
    print("| ms an image: clock (work) | engine | node | overhead |")
    print("|---|---|---|---|")
    for side in (512, 1024):
        images = torch.rand(BATCH, side, side, 3)
        size = (BATCH, 3, scorer.input_size, scorer.input_size)
        pixels = np.random.default_rng(0).normal(size=size).astype(np.float32)
        score.execute([images])
        bare = milliseconds(functools.partial(scorer.engine.score_logits, pixels))
        node = milliseconds(functools.partial(score.execute, [images]))
        cells = (bare, node, (node[0] - bare[0], node[1] - bare[1]))
        row = " | ".join(f"{clock:.1f} ({work:.1f})" for clock, work in cells)
        print(f"| {side}x{side} | {row} |")


if __name__ == "__main__":
    main()
