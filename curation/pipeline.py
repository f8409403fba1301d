"""From files to ranked records: one read of each file feeds its hash, metadata and pixels."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from ..artimuse_core.errors import ImageError
from ..artimuse_core.images import load_image
from ..artimuse_core.scorer import DEFAULT_BATCH_SIZE, Scored, Scorer
from .metadata import GenerationInfo, hidden_parameters, read_metadata
from .records import Facts, Record


def score_files(
    scorer: Scorer,
    files: Sequence[Path],
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    on_record: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """One unranked record per file, in order. ``on_record`` sees each as it is made.

    A KeyboardInterrupt ends the run early; the records made so far are returned.
    """
    records: list[Record] = []

    def prepare(path: Path) -> tuple[Image.Image, Facts]:
        return read_image(path, scorer.max_pixels)

    try:
        for scored in scorer.stream(files, prepare, batch_size=batch_size):
            records.append(_record(scored))
            on_record(records[-1])
    except KeyboardInterrupt:
        pass
    return records


def read_image(path: Path, max_pixels: int) -> tuple[Image.Image, Facts]:
    """Read a file once; raises ImageError with one line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read the file: {error.strerror or error}") from error
    image = load_image(data, max_pixels=max_pixels)
    return image, Facts(
        width=image.width,
        height=image.height,
        sha256=hashlib.sha256(data).hexdigest(),
        info=_generation_info(image, data),
    )


def _generation_info(image: Image.Image, data: bytes) -> GenerationInfo:
    info = read_metadata(image.info)
    if info.generator is None and (hidden := hidden_parameters(data)):
        return read_metadata(hidden)
    return info


def _record(scored: Scored[Path, Facts]) -> Record:
    result, facts = scored.result, scored.facts
    record = Record(str(scored.source), result.score, result.std, result.model, result.error)
    if facts is None:
        return record
    return dataclasses.replace(
        record,
        width=facts.width,
        height=facts.height,
        sha256=facts.sha256,
        **dataclasses.asdict(facts.info),
    )
