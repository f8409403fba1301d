"""What each finished stage of a training run left, so that a run that was cut off goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_log = logging.getLogger(__name__)


class KeptStages:
    """One file a stage in ``folder``; they are made, or read again, in the order they are asked.

    Args:
        resume: read what an earlier run made, where all that decides it is the same.
    """

    def __init__(self, folder: Path, *, resume: bool) -> None:
        self.folder, self.resume = folder, resume
        self._decided: list[str] = []

    def __call__(self, name: str, decides: object, make: Callable[[], Any]) -> Any:
        """What ``make`` makes: tensors, numbers and texts in dicts, lists and tuples.

        Args:
            decides: whatever decides it, besides the stages before, as its ``repr`` says.
        """
        self._decided.append(f"{name}: {decides!r}")
        file, decided = self.folder / f"{name}.pt", "\n".join(self._decided)
        if self.resume and file.exists():
            kept = _read(file)
            if kept["decided"] == decided:
                _log.info("%s: read from %s", name, file)
                return kept["made"]
            _log.info("%s: %s is of another recipe, made again", name, file)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        torch.save({"decided": decided, "made": make()}, partial)
        partial.replace(file)
        return _read(file)["made"]  # as a run that goes on has it: in the file, not in memory


def _read(file: Path) -> dict[str, Any]:
    kept: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return kept
