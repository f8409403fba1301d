"""Is there a faster way to a model's pixels than decoding with Pillow, and what does it cost?

For each image, as a JPEG and as a PNG: the time to decode and to squash to the model's input, on
one core, and for ways that change pixels the change of the score. opencv and simplejpeg are
compared where they are installed. Prints a table in Markdown; decision 0033 draws the conclusion.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from artimuse import Scorer
from artimuse.artimuse_core.images import load_image
from artimuse.artimuse_core.preprocess import preprocess, resize
from artimuse.curation.scan import scan

import machine

Floats = npt.NDArray[np.float32]
Decode = Callable[[bytes], Image.Image]
ROUNDS = 3


def drafted(side: int) -> Decode:
    """Pillow's draft mode: libjpeg leaves out what a scale of 1/2, 1/4 or 1/8 does not need."""

    def decode(data: bytes) -> Image.Image:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (side, side))
        return image.convert("RGB")

    return decode


def others() -> dict[str, Decode]:
    """Full decoders besides Pillow, as far as they are here."""
    found: dict[str, Decode] = {}
    try:
        import cv2
    except ImportError:
        pass
    else:
        cv2.setNumThreads(1)
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

        def opencv(data: bytes) -> Image.Image:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
            return Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))

        found["opencv"] = opencv
    try:
        import simplejpeg
    except ImportError:
        pass
    else:
        found["simplejpeg"] = lambda data: Image.fromarray(simplejpeg.decode_jpeg(data))
    return found


def measure(decode: Decode, files: list[bytes], size: int) -> tuple[float, Floats]:
    """Milliseconds an image of CPU time, the best of some rounds, and the pixel values."""
    best = np.inf
    for _ in range(ROUNDS):
        start = time.process_time()
        for data in files:
            resize(decode(data), size)
        best = min(best, (time.process_time() - start) / len(files) * 1e3)
    return best, np.stack([preprocess(decode(data), size) for data in files])


def scores(scorer: Scorer, pixels: Floats) -> Floats:
    parts = [pixels[i : i + 16] for i in range(0, len(pixels), 16)]
    read = [scorer.tokens.readout(scorer.engine.score_logits(part)).score for part in parts]
    return np.concatenate(read)


def encoded(files: list[Path], form: str, side: int) -> list[bytes]:
    """The images at ``side`` pixels and quality 90."""
    found = []
    for path in files:
        image = load_image(path)
        image = image.resize((side, side), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, form, **({"quality": 90} if form == "JPEG" else {"compress_level": 4}))
        found.append(file.getvalue())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="a folder to take images from")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 2048], help="pixels")
    parser.add_argument("--model", default="nano")
    options = parser.parse_args()
    files = [Path(str(file)) for file in scan([options.images])]
    files = files[:: max(1, len(files) // options.count)][: options.count]
    scorer = Scorer.load(options.model)
    size = scorer.input_size
    print(f"{machine.describe()}; {len(files)} images, model {scorer.name}, input {size} px")
    print("| image | decoder | ms | mean change | largest change | pixels equal |")
    print("|---|---|---|---|---|---|")
    for form in ("JPEG", "PNG"):
        for side in options.sides:
            data = encoded(files, form, side)
            ways: dict[str, Decode] = {"Pillow": load_image}
            if form == "JPEG":
                ways |= {
                    "draft to the input": drafted(size),
                    "draft to twice it": drafted(2 * size),
                }
            ways |= {n: way for n, way in others().items() if form == "JPEG" or n == "opencv"}
            reference: tuple[Floats, Floats] | None = None
            for name, decode in ways.items():
                spent, pixels = measure(decode, data, size)
                found = scores(scorer, pixels)
                reference = reference or (pixels, found)
                change = np.abs(found - reference[1])
                equal = "yes" if np.array_equal(pixels, reference[0]) else "no"
                print(
                    f"| {form} {side}×{side} | {name} | {spent:.1f} | {change.mean():.2f} | "
                    f"{change.max():.2f} | {equal} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
