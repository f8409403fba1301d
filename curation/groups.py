"""What images have in common: the prompt, the seed, the folder they lie in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..artimuse_core.errors import UsageError
from .records import Record
from .sources import folder_of

NONE = "(none)"
"""The group of images that do not say; they share one."""


def _spaced(prompt: str | None) -> str | None:
    return " ".join(prompt.split()) if prompt else None


KEYS: Mapping[str, Callable[[Record], object]] = {
    "prompt": lambda record: _spaced(record.info.prompt),
    "seed": lambda record: record.info.seed,
    "generator": lambda record: record.info.generator,
    "workflow": lambda record: record.info.workflow,
    "checkpoint": lambda record: record.info.checkpoint,
    "folder": lambda record: folder_of(record.path),
}


def check_key(option: str, key: str) -> str:
    """Raise UsageError for a group that nobody knows."""
    if key not in KEYS:
        raise UsageError(f"{option} {key!r}: expected one of {', '.join(KEYS)}")
    return key


def group_of(record: Record, key: str) -> str:
    """The name of the group a record belongs to."""
    value = KEYS[key](record)
    return NONE if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Per:
    """``--per KEY:K``: the best K of each group."""

    key: str
    count: int

    @classmethod
    def parse(cls, text: str) -> Per:
        """Read ``prompt``, ``folder:3``; K is 1 where it is left out. Raises UsageError."""
        key, colon, number = text.strip().partition(":")
        check_key("--per", key)
        if colon and not (number.isdecimal() and int(number) > 0):
            raise UsageError(f"--per {text!r}: expected a count of at least 1 after the colon")
        return cls(key, int(number) if colon else 1)
