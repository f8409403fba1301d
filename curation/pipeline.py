"""From files to scored records.

One read of each file feeds its hashes, metadata, thumbnail and score; what the store knows already
is not read at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..artimuse_core.engines import default_threads
from ..artimuse_core.errors import ImageError
from ..artimuse_core.images import load_image
from ..artimuse_core.results import ScoreResult
from ..artimuse_core.scorer import DEFAULT_BATCH_SIZE, Scorer
from .metadata import GenerationInfo, hidden_parameters, read_metadata
from .records import Facts, Record
from .store import Known, Stamp, Store, Visuals, Wanted
from .write_metadata import png_without_texts

THUMBNAIL_SIDE = 192
"""Pixels of a thumbnail's longer side."""

_STRIP_PIXELS = 4_000_000


@dataclass(frozen=True)
class Memory:
    """The store, and for which model and needs it is asked."""

    store: Store
    fingerprint: str
    wanted: Wanted = field(default_factory=Wanted)


@dataclass(frozen=True, slots=True)
class _Read:
    """What one reading of a file gave."""

    facts: Facts
    visuals: Visuals
    stamp: Stamp
    read_ns: int


class _RememberedError(ImageError):
    """Not an error of the image: its pixels have a score, and the engine can be spared."""


def score_files(
    scorer: Scorer,
    files: Sequence[Path],
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    on_record: Callable[[Record], None] = lambda record: None,
    memory: Memory | None = None,
) -> list[Record]:
    """One unranked record per file, in order. ``on_record`` sees each as it is made.

    With ``memory``, unchanged files are not read and known pixels not scored. A KeyboardInterrupt
    ends the run early; the records made so far are returned.
    """
    made: dict[Path, Record] = {}

    def done(path: Path, record: Record) -> None:
        made[path] = record
        on_record(record)

    try:
        if memory is not None:
            for path, facts, known in memory.store.recall(files, memory.fingerprint, memory.wanted):
                if facts.width * facts.height <= scorer.max_pixels:
                    done(path, _record(path, scorer.name, known, facts))
        missing = [path for path in files if path not in made]
        _score_missing(scorer, missing, batch_size, done, memory)
    except KeyboardInterrupt:
        pass
    finally:
        if memory is not None:
            memory.store.commit()
    return [made[path] for path in files if path in made]


def _score_missing(
    scorer: Scorer,
    files: Sequence[Path],
    batch_size: int,
    done: Callable[[Path, Record], None],
    memory: Memory | None,
) -> None:
    wanted = memory.wanted if memory else Wanted()
    remembered: dict[Path, tuple[_Read, Known]] = {}

    def prepare(path: Path) -> tuple[Image.Image, _Read]:
        image, read = _read(path, scorer.max_pixels, wanted)
        known = memory.store.score_of(read.facts.pixels, memory.fingerprint) if memory else None
        if known is not None:
            remembered[path] = (read, known)
            raise _RememberedError("scored before")
        return image, read

    for scored in scorer.stream(files, prepare, batch_size=batch_size):
        path, read, result = scored.source, scored.facts, scored.result
        if path in remembered:
            read, known = remembered.pop(path)
        elif read is None or result.error is not None:
            facts = read.facts if read else None
            record = Record(str(path), result.score, result.std, result.model, result.error)
            done(path, _with_facts(record, facts) if facts else record)
            continue
        else:
            known = _known(result)
        if memory is not None:
            memory.store.keep(
                path, read.stamp, read.facts, read.visuals, memory.fingerprint, known,
                read_ns=read.read_ns,
            )  # fmt: skip
        done(path, _record(path, scorer.name, known, read.facts))


def reference_hashes(
    files: Sequence[Path], store: Store, max_pixels: int
) -> tuple[list[tuple[str, int]], list[str]]:
    """Path and perceptual hash of images that are only compared with, and a line per failure."""

    def one(path: Path) -> int | str:
        try:
            known = store.hash_of(path)
            if known is not None:
                return known
            _, read = _read(path, max_pixels, Wanted(hash=True))
        except (ImageError, OSError) as error:
            return f"{path}: {error}"
        store.keep(path, read.stamp, read.facts, read.visuals, "", None, read_ns=read.read_ns)
        return read.visuals.hash or 0

    with ThreadPoolExecutor(default_threads()) as pool:
        answers = list(zip(files, pool.map(one, files), strict=True))
    store.commit()
    found = [(str(path), answer) for path, answer in answers if isinstance(answer, int)]
    return found, [answer for _, answer in answers if isinstance(answer, str)]


def read_image(path: Path, max_pixels: int) -> tuple[Image.Image, Facts]:
    """Read a file once; raises ImageError with one line."""
    image, read = _read(path, max_pixels, Wanted())
    return image, read.facts


def _read(path: Path, max_pixels: int, wanted: Wanted) -> tuple[Image.Image, _Read]:
    read_ns = time.time_ns()
    try:
        stamp = Stamp.of(path)
        data = path.read_bytes()
        if Stamp.of(path) != stamp:
            raise ImageError("the file changed while it was read")
    except OSError as error:
        raise ImageError(f"cannot read the file: {error.strerror or error}") from error
    image = _decode(data, max_pixels)
    facts = Facts(
        width=image.width,
        height=image.height,
        sha256=hashlib.sha256(data).hexdigest(),
        info=_generation_info(image, data),
        pixels=pixel_hash(image),
    )
    visuals = Visuals(
        hash=perceptual_hash(image) if wanted.hash else None,
        thumbnail=_thumbnail(image) if wanted.thumbnail else None,
    )
    return image, _Read(facts, visuals, stamp, read_ns)


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    """An image, also where its text chunks are too huge or broken for Pillow to open it."""
    try:
        return load_image(data, max_pixels=max_pixels)
    except ImageError:
        bare = png_without_texts(data)
        if bare is None:
            raise
        return load_image(bare, max_pixels=max_pixels)


def pixel_hash(image: Image.Image) -> bytes:
    """16 bytes that two images share if, and only if, their size and RGB pixels are equal."""
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):  # in strips: a large image is not copied whole
        box = (0, top, image.width, min(top + rows, image.height))
        digest.update(image.tobytes() if rows >= image.height else image.crop(box).tobytes())
    return digest.digest()[:16]


def perceptual_hash(image: Image.Image) -> int:
    """64-bit DCT hash (imagehash.phash) as a signed integer; similar images differ in few bits."""
    import imagehash

    # Shrunk first, which is most of the cost; the hash itself looks at 32×32 greys.
    bits = imagehash.phash(image.reduce(max(1, min(image.size) // 128))).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big", signed=True)


def _thumbnail(image: Image.Image) -> bytes:
    small = image.copy() if max(image.size) <= THUMBNAIL_SIDE else image
    scale = THUMBNAIL_SIDE / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        small = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    file = io.BytesIO()
    small.info.clear()  # no metadata in it
    small.save(file, "WEBP", quality=70, method=2)
    return file.getvalue()


def _generation_info(image: Image.Image, data: bytes) -> GenerationInfo:
    info = read_metadata(image.info)
    if info.generator is None and (hidden := hidden_parameters(data)):
        return read_metadata(hidden)
    return info


def _known(result: ScoreResult) -> Known:
    probs = None if result.probs is None else result.probs.astype(np.float16).tobytes()
    return Known(result.score, result.std, probs)


def _record(path: Path, model: str, known: Known, facts: Facts) -> Record:
    record = Record(str(path), known.score, known.std, model, probs=known.probs)
    return _with_facts(record, facts)


def _with_facts(record: Record, facts: Facts) -> Record:
    info: dict[str, Any] = dataclasses.asdict(facts.info)
    for name, value in info.items():
        if isinstance(value, str):  # the same few texts come in thousands of files
            info[name] = sys.intern(value)
    return dataclasses.replace(
        record,
        width=facts.width,
        height=facts.height,
        sha256=facts.sha256,
        pixels=facts.pixels,
        **info,
    )
