"""What can go wrong, as a tree to catch from.

Every message is one line that says what came, what was expected and what to do.

    ArtiMuseError
    ├── UsageError            the call itself is wrong (exit code 2 on the command line)
    │   ├── ImageInputError   an array or tensor of the wrong shape, range or dtype
    │   └── MissingExtraError an optional dependency is not installed
    ├── ImageError            one image cannot be used; a run goes on past it
    └── ModelError            a checkpoint or bundle cannot be used, or a model answered nonsense
        └── OutOfMemoryError  the device cannot hold this batch; a smaller one may fit
"""

from __future__ import annotations


class ArtiMuseError(Exception):
    """Base of all errors this package raises on purpose."""


class UsageError(ArtiMuseError):
    """The caller asked for something that makes no sense; nothing was done."""


class ImageInputError(UsageError):
    """An in-memory image has the wrong shape, range or dtype."""


class MissingExtraError(UsageError):
    """An optional dependency is not installed; the message names the extra."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed: pip install 'artimuse[{extra}]'")


class ImageError(ArtiMuseError):
    """One image cannot be decoded or scored: broken, too large, or no image at all."""


class ModelError(ArtiMuseError):
    """A checkpoint, bundle or backend cannot be used."""


class OutOfMemoryError(ModelError):
    """The device ran out of memory on this batch."""
