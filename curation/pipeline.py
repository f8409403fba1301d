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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..artimuse_core.engines import default_threads
from ..artimuse_core.errors import ImageError
from ..artimuse_core.images import load_image
from ..artimuse_core.results import ScoreResult
from ..artimuse_core.scorer import DEFAULT_BATCH_SIZE, Scorer
from .metadata import GenerationInfo, hidden_parameters, read_metadata
from .records import Facts, Record
from .sources import Remote, Source, Stamp, stamp_of
from .store import Known, Store, Visuals, Wanted
from .write_metadata import png_without_texts

THUMBNAIL_SIDE = 192
"""Pixels of a thumbnail's longer side."""

REMOTE_READERS = 16
"""Threads where images come over a network: they wait more than they compute."""

_STRIP_PIXELS = 4_000_000


@dataclass(frozen=True)
class Memory:
    """The store, and for which model and needs it is asked."""

    store: Store
    fingerprint: str
    wanted: Wanted = field(default_factory=Wanted)

    def remembered(self, sources: Sequence[Source]) -> Iterator[tuple[Source, Facts, Known]]:
        """The unchanged files of which all is known."""
        return self.store.recall(sources, self.fingerprint, self.wanted)

    def known(self, pixels: bytes) -> Known | None:
        return self.store.known(pixels, self.fingerprint, self.wanted)

    def keep(self, answer: Answer) -> None:
        """Failures are not remembered: they cost little, and a file may be repaired."""
        read = answer.read
        if read is not None and answer.result.ok:
            self.store.keep(
                answer.source, read.stamp, read.facts, read.visuals,
                self.fingerprint, _known(answer.result), read_ns=read.read_ns,
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Read:
    """What one reading of a file gave."""

    facts: Facts
    visuals: Visuals
    stamp: Stamp | None
    read_ns: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one image; may come from another process."""

    source: Source
    result: ScoreResult
    read: Read | None
    """None where it could not be read."""


Recall = Callable[[bytes], ScoreResult | None]
"""The result of known pixels."""


class Engine(Protocol):
    """Reads and scores images, here or elsewhere."""

    @property
    def name(self) -> str:
        """The model's."""
        ...

    @property
    def max_pixels(self) -> int: ...

    def answers(
        self, sources: Sequence[Source], wanted: Wanted, recall: Recall
    ) -> Iterator[Answer]:
        """One answer a source, in any order. ``recall`` may spare scoring known pixels."""
        ...


@dataclass(frozen=True)
class LocalEngine:
    """Threads decode, and one model scores, in this process."""

    scorer: Scorer
    batch_size: int = DEFAULT_BATCH_SIZE

    @property
    def name(self) -> str:
        return self.scorer.name

    @property
    def max_pixels(self) -> int:
        return self.scorer.max_pixels

    def answers(
        self, sources: Sequence[Source], wanted: Wanted, recall: Recall
    ) -> Iterator[Answer]:
        def prepare(source: Source) -> tuple[Image.Image | ScoreResult, Read]:
            image, read = read_source(source, self.max_pixels, wanted)
            return recall(read.facts.pixels) or image, read

        remote = any(isinstance(source, Remote) for source in sources)
        answers = self.scorer.stream(
            sources,
            prepare,
            batch_size=self.batch_size,
            workers=REMOTE_READERS if remote else 0,
            embed=wanted.embedding,
        )
        for scored in answers:
            yield Answer(scored.source, scored.result, scored.facts)


def score_files(
    engine: Engine | Scorer,
    sources: Sequence[Source],
    *,
    on_record: Callable[[Record], None] = lambda record: None,
    memory: Memory | None = None,
) -> list[Record]:
    """One unranked record per source, in order. ``on_record`` sees each as it is made.

    With ``memory``, unchanged files are not read and known pixels not scored. A KeyboardInterrupt
    ends the run early; the records made so far are returned.
    """
    if isinstance(engine, Scorer):
        engine = LocalEngine(engine)
    made: dict[Source, Record] = {}

    def done(source: Source, record: Record) -> None:
        made[source] = record
        on_record(record)

    try:
        if memory is not None:
            for source, facts, known in memory.remembered(sources):
                if facts.width * facts.height <= engine.max_pixels:
                    result = _result(known, engine.name)
                    done(source, _record(source, result, facts))
        missing = [source for source in sources if source not in made]
        wanted = memory.wanted if memory else Wanted()

        def recall(pixels: bytes) -> ScoreResult | None:
            known = memory.known(pixels) if memory else None
            return _result(known, engine.name) if known else None

        for answer in engine.answers(missing, wanted, recall):
            if memory is not None:
                memory.keep(answer)
            told = answer.read.facts if answer.read else None
            done(answer.source, _record(answer.source, answer.result, told))
    except KeyboardInterrupt:
        pass
    finally:
        if memory is not None:
            memory.store.commit()
    return [made[source] for source in sources if source in made]


def reference_hashes(
    sources: Sequence[Source], store: Store, max_pixels: int
) -> tuple[list[tuple[str, int]], list[str]]:
    """Path and perceptual hash of images that are only compared with, and a line per failure."""

    def one(source: Source) -> int | str:
        try:
            known = store.hash_of(source)
            if known is not None:
                return known
            _, read = read_source(source, max_pixels, Wanted(hash=True))
        except (ImageError, OSError) as error:
            return f"{source}: {error}"
        store.keep(source, read.stamp, read.facts, read.visuals, "", None, read_ns=read.read_ns)
        return read.visuals.hash or 0

    with ThreadPoolExecutor(default_threads()) as pool:
        answers = list(zip(sources, pool.map(one, sources), strict=True))
    store.commit()
    found = [(str(source), answer) for source, answer in answers if isinstance(answer, int)]
    return found, [answer for _, answer in answers if isinstance(answer, str)]


def read_source(source: Source, max_pixels: int, wanted: Wanted) -> tuple[Image.Image, Read]:
    """Read an image once, for all that is wanted of it. Raises ImageError with one line."""
    read_ns = time.time_ns()
    try:
        stamp = stamp_of(source)
        data = source.read_bytes()
        if stamp_of(source) != stamp:
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
    return image, Read(facts, visuals, stamp, read_ns)


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
    probs, embedding = (
        None if values is None else values.astype(np.float16).tobytes()
        for values in (result.probs, result.embedding)
    )
    return Known(result.score, result.std, probs, embedding)


def _result(known: Known, model: str) -> ScoreResult:
    probs, embedding = (
        None if values is None else np.frombuffer(values, np.float16).astype(np.float32)
        for values in (known.probs, known.embedding)
    )
    return ScoreResult(known.score, known.std, model, probs, embedding)


def _record(source: Source, result: ScoreResult, facts: Facts | None) -> Record:
    record = Record(
        str(source),
        result.score,
        result.std,
        result.model,
        result.error,
        probs=_known(result).probs,
    )
    if facts is None:
        return record
    return dataclasses.replace(
        record,
        width=facts.width,
        height=facts.height,
        sha256=facts.sha256,
        pixels=facts.pixels,
        info=_interned(facts.info),
    )


def _interned(info: GenerationInfo) -> GenerationInfo:
    """The same few texts come in thousands of files; each is held once."""
    told: dict[str, Any] = dataclasses.asdict(info)
    shared = {name: sys.intern(text) for name, text in told.items() if isinstance(text, str)}
    return GenerationInfo(**(told | shared))
