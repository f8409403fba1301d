"""What a model that writes says of an image: texts, and scores of single attributes.

Both take seconds an image with a large model, so each is asked once and remembered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..artimuse_core.attributes import ATTRIBUTES
from ..artimuse_core.errors import ImageError, ModelError
from .conditions import Condition
from .pipeline import Memory, read_source
from .records import Record
from .sources import source_of
from .store import Wanted

if TYPE_CHECKING:
    from ..artimuse_core.critic import Critic

ATTRIBUTE_KEYS = frozenset(attribute.key for attribute in ATTRIBUTES)


def attributes_in(where: Condition | None) -> list[str]:
    """The attributes whose scores a condition asks for."""
    return sorted(where.names & ATTRIBUTE_KEYS) if where is not None else []


def with_critiques(
    critic: Critic,
    ranked: Sequence[Record],
    memory: Memory,
    on_record: Callable[[Record], None] = lambda record: None,
) -> tuple[list[Record], list[str]]:
    """The records with ``critique`` set on the kept ones, and a line for each that failed."""

    def ask(image: Image.Image) -> Mapping[str, str]:
        return critic.critique(image).texts

    asked = [record.selected for record in ranked]
    return _with_answers("critique", ask, ranked, asked, memory, critic.max_pixels, on_record)


def with_attribute_scores(
    critic: Critic,
    scored: Sequence[Record],
    memory: Memory,
    on_record: Callable[[Record], None] = lambda record: None,
) -> tuple[list[Record], list[str]]:
    """The records with ``attributes`` set, 0..100, and a line for each that failed."""

    def ask(image: Image.Image) -> Mapping[str, float]:
        scores = critic.attribute_scores(image)
        return {attribute.key: scores[attribute.name].score for attribute in ATTRIBUTES}

    asked = [record.error is None for record in scored]
    return _with_answers("attributes", ask, scored, asked, memory, critic.max_pixels, on_record)


def _with_answers(
    field: str,
    ask: Callable[[Image.Image], Mapping[str, Any]],
    records: Sequence[Record],
    asked: Sequence[bool],
    memory: Memory,
    max_pixels: int,
    on_record: Callable[[Record], None],
) -> tuple[list[Record], list[str]]:
    """Set ``field`` of the records that are asked about. Ctrl-C ends the run: what was answered is
    remembered, and half of the answers must not decide."""
    answered, failures = list(records), list[str]()
    for place, record in enumerate(records):
        if asked[place]:
            try:
                answer: Any = _answer(field, ask, record, memory, max_pixels)
            except (ImageError, ModelError) as error:
                failures.append(f"{record.path}: no {field}: {error}")
            else:
                answered[place] = dataclasses.replace(record, **{field: answer})
            on_record(record)
    return answered, failures


def _answer(
    field: str,
    ask: Callable[[Image.Image], Mapping[str, Any]],
    record: Record,
    memory: Memory,
    max_pixels: int,
) -> Mapping[str, Any]:
    assert record.pixels is not None
    known = memory.store.said(record.pixels, memory.fingerprint, field)
    if known is not None:
        return known
    image, read = read_source(source_of(record.path), max_pixels, Wanted())
    if read.facts.pixels != record.pixels:
        raise ImageError("the image changed since it was scored")
    answer = ask(image)
    memory.store.keep_said(record.pixels, memory.fingerprint, field, answer)
    return answer
