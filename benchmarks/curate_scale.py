"""A folder of 100,000 tiny images end to end: memory, and what comes after scoring.

The engine is a stand-in that costs nothing, so that what is measured is the pipeline: reading,
hashing, the store, the decision, the outputs. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from artimuse.artimuse_core.scorer import Scorer
from artimuse.curation import looks, records
from artimuse.curation.decide import Wishes, rank_records
from artimuse.curation.html_report import write_report
from artimuse.curation.pipeline import LocalEngine, Memory, score_files
from artimuse.curation.scan import scan
from artimuse.curation.selection import Top
from artimuse.curation.store import Store, Wanted

import machine

Floats = npt.NDArray[np.float32]
Spent = npt.NDArray[np.float64]
"""Seconds by the clock, and of CPU time."""
Answer = TypeVar("Answer")
WIDTH = 128
"""Of the embedding, nano's."""


class StandIn:
    """Scores are brightness, embeddings a fixed random projection of the pixels."""

    device = "stand-in"
    embeds = True

    def __init__(self, size: int) -> None:
        random = np.random.default_rng(0)
        self._projection = random.standard_normal((3 * size * size, WIDTH)).astype(np.float32)

    def score_logits(self, pixel_values: Floats) -> Floats:
        return self.score_and_embed(pixel_values)[0]

    def score_and_embed(self, pixel_values: Floats) -> tuple[Floats, Floats]:
        flat = pixel_values.reshape(len(pixel_values), -1)
        score = 50 + 20 * flat.mean(axis=1)
        logits = -((np.arange(101) - score[:, None]) ** 2) / 50
        vectors = flat @ self._projection
        return logits.astype(np.float32), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def render(folder: Path, images: int, side: int) -> None:
    """Noise over colours that come again and again, so that some images are alike."""
    random = np.random.default_rng(0)
    for index in range(images):
        if index % 1000 == 0:
            part = folder / f"{index // 1000:03}"
            part.mkdir()
        base = np.random.default_rng(index % (images // 2 or 1)).integers(0, 200, (4, 4, 3))
        pixels = base.repeat(side // 4, axis=0).repeat(side // 4, axis=1)
        pixels = (pixels + random.integers(0, 40, pixels.shape)).astype(np.uint8)
        Image.fromarray(pixels).save(part / f"{index:06}.png", compress_level=1)


def peak_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def timed(what: str, run: Callable[[], Answer]) -> tuple[Answer, Spent]:
    start, cpu = time.perf_counter(), time.process_time()
    answer = run()
    seconds = time.perf_counter() - start
    used = time.process_time() - cpu
    print(f"| {what} | {seconds:.1f} | {used:.1f} | {peak_mb():.0f} |", flush=True)
    return answer, np.array([seconds, used])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=32, help="pixels")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = folder / "images"
        images.mkdir()
        scorer = Scorer(StandIn(options.side), name="stand-in", input_size=options.side)
        engine = LocalEngine(scorer, 32)
        print(f"{machine.describe()}; {options.images} images of {options.side} px")
        print("| step | seconds | CPU seconds | peak MB |")
        print("|---|---|---|---|")
        timed("render", lambda: render(images, options.images, options.side))
        files, _ = timed("scan", lambda: scan([images]))
        wanted = Wanted(hash=True, thumbnail=True, embedding=True)
        store = Store(folder / "store.sqlite")
        memory = Memory(store, "stand-in", wanted)
        tenth = files[: len(files) // 10]
        timed(f"score {len(tenth)}", lambda: score_files(engine, tenth, memory=memory))
        scored, _ = timed("score all", lambda: score_files(engine, files, memory=memory))
        scored, _ = timed("score again", lambda: score_files(engine, files, memory=memory))
        plain = Wishes(top=Top.parse("10%"))
        timed("select: --top 10%", lambda: rank_records(scored, plain))

        def decide(**wished: object) -> list[records.Record]:
            wishes = Wishes(top=Top.parse("10%"), **wished)  # type: ignore[arg-type]
            seen, _ = looks.gather(scored, wishes, memory, max_pixels=scorer.max_pixels)
            return rank_records(scored, wishes, seen)

        ranked, dedup = timed("select: --dedup 6", lambda: decide(dedup=6))
        _, diverse = timed("select: --diverse 0.3", lambda: decide(novelty=0.3))
        page = folder / "report.html"
        _, report = timed("report", lambda: write_report(page, ranked, store, title="100,000"))
        print(f"report of {page.stat().st_size / 1e6:.0f} MB", flush=True)
        timed("Parquet", lambda: records.write_records(folder / "r.parquet", ranked))
        store.close()
        for rule, spent in (("--dedup", dedup), ("--diverse", diverse)):
            seconds, cpu = spent + report
            # On a machine that does other things as well, the second says more than the first.
            print(f"{rule} and report: {seconds:.0f} s (bound 60), of CPU time {cpu:.0f} s")


if __name__ == "__main__":
    main()
