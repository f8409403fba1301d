"""Scores on disk as they are made, so that a long evaluation can be taken up again."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .datasets.base import csv_rows, number, refuse

COLUMNS = ("model", "data", "image", "human", "predicted")


class Predictions:
    """``predictions.csv`` of a folder: one row for each scored image, written at once."""

    def __init__(self, directory: Path, *, resume: bool = False) -> None:
        """Without ``resume`` an earlier file is replaced. Raises UsageError, with file and line,
        for one of another form."""
        self.file = directory / "predictions.csv"
        self._known: dict[tuple[str, str], dict[str, float]] = {}
        directory.mkdir(parents=True, exist_ok=True)
        going_on = resume and self.file.is_file()
        if going_on:
            self._read()
        mode = "a" if going_on else "w"
        self._stream: IO[str] = self.file.open(mode, encoding="utf-8", newline="")
        self._table: Any = csv.writer(self._stream)
        if not going_on:
            self._table.writerow(COLUMNS)

    def _read(self) -> None:
        """What is there, after cutting off a last row that a kill left unfinished."""
        with self.file.open("rb+") as raw:
            raw.truncate(raw.read().rfind(b"\n") + 1)
        for line, row in csv_rows(self.file, COLUMNS):
            try:
                score = number(row, "predicted")
            except ValueError as error:
                refuse(self.file, line, error)
            self._known.setdefault((row["model"], row["data"]), {})[row["image"]] = score

    def known(self, model: str, dataset: str) -> Mapping[str, float]:
        """What an earlier run scored, by the image's path."""
        return self._known.get((model, dataset), {})

    def add(self, model: str, dataset: str, image: Path, human: float, predicted: float) -> None:
        self._table.writerow([model, dataset, image, human, predicted])
        self._stream.flush()

    def __enter__(self) -> Predictions:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
