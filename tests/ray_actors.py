"""What actors of a Ray cluster load in tests: a slow brightness scorer that says which it is."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from fakes import BrightnessEngine

from artimuse.artimuse_core.scorer import ModelSpec, Scorer

LOG = "ARTIMUSE_TEST_ACTORS"
"""Environment variable: a file that each batch adds its process's id to."""


class SlowEngine(BrightnessEngine):
    def score_and_embed(self, pixel_values: Any) -> Any:
        with Path(os.environ[LOG]).open("a") as file:
            file.write(f"{os.getpid()} {len(pixel_values)}\n")
        time.sleep(0.1)
        return super().score_and_embed(pixel_values)


class SlowSpec(ModelSpec):
    def scorer(self) -> Scorer:
        return slow_scorer(self.max_pixels)


def slow_scorer(max_pixels: int) -> Scorer:
    return Scorer(SlowEngine(), name="brightness", input_size=16, max_pixels=max_pixels)
