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
from . import selection
from .metadata import read_metadata
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
        info=read_metadata(image.info),
    )


def rank_records(
    records: Sequence[Record],
    *,
    top: selection.Top | None = None,
    min_score: float | None = None,
) -> list[Record]:
    """The records from best to worst with ``rank`` and ``selected`` set, failures last."""
    scores = [record.score for record in records]
    ranking = selection.rank(scores, [record.path for record in records])
    kept = set(selection.select(scores, ranking, top=top, min_score=min_score))
    ranked = [
        dataclasses.replace(records[index], rank=place, selected=index in kept)
        for place, index in enumerate(ranking, start=1)
    ]
    return ranked + [record for record in records if record.error is not None]


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
