"""Images to scores: decode ahead in threads, score in batches, keep order, outlive bad files."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from . import bundle, images, inputs
from .engines import DEVICES, DTYPES, Engine, Floats, OnnxEngine, TorchEngine, default_threads
from .errors import ImageError, ModelError, OutOfMemoryError, UsageError
from .models import NANO as NANO
from .models import locate as locate
from .preprocess import preprocess
from .results import ScoreResult
from .score_tokens import ORDERED_100, ScoreTokens

log = logging.getLogger(__name__)

BACKENDS = ("auto", "onnx", "torch")
DEFAULT_BATCH_SIZE = 8

Source = TypeVar("Source")
Facts = TypeVar("Facts")


@dataclass(frozen=True)
class Scored(Generic[Source, Facts]):
    """One answer of :meth:`Scorer.stream`."""

    source: Source
    result: ScoreResult
    facts: Facts | None
    """What ``prepare`` learnt about the source; None where it failed."""


class Scorer:
    """Scores images with one model. Make one with :meth:`load`."""

    def __init__(
        self,
        engine: Engine,
        *,
        name: str,
        input_size: int,
        tokens: ScoreTokens = ORDERED_100,
        card: str = "",
        max_pixels: int = images.DEFAULT_MAX_PIXELS,
        deterministic: bool = False,
    ) -> None:
        self.engine = engine
        self.name = name
        self.input_size = input_size
        self.tokens = tokens
        self.card = card
        """One line saying what the model is and how far to trust it."""
        self.max_pixels = max_pixels
        self._largest_batch: int | None = 1 if deterministic else None

    @classmethod
    def load(
        cls,
        model: str | Path = NANO,
        device: str = "auto",
        dtype: str = "auto",
        *,
        backend: str = "auto",
        max_pixels: int = images.DEFAULT_MAX_PIXELS,
        quantize: str = "none",
        deterministic: bool = False,
        compiled: bool = False,
    ) -> Scorer:
        """Load a model.

        Args:
            model: ``"nano"`` (inside the package), a published model (``"artimuse"``, …; see
                :data:`.models.PUBLISHED`), a hub id, or a directory holding an ONNX bundle, a
                checkpoint (the official InternVLChat or transformers' native format) or a PEFT
                adapter over one.
            device: ``auto``, ``cpu``, ``cuda`` (``cuda:1``, …) or ``mps``.
            dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16``; a bundle's is fixed.
            backend: ``onnx`` or ``torch`` where a directory serves both; ``auto`` takes ONNX.
            max_pixels: larger images are answered with an error instead of being decoded.
            quantize: ``int8`` or ``nf4`` weights for a checkpoint on a small card.
            deterministic: each image is computed alone, so that its score does not depend on its
                neighbours in the last digits either. Slower on a GPU.
            compiled: run a checkpoint's graph through ``torch.compile``: minutes at first, faster
                from then on. For GPUs; on a CPU it gains nothing.

        Raises UsageError for options that make no sense, ModelError for a model that cannot be
        used, MissingExtraError where ``torch`` is needed and absent.
        """
        _check_choice("device", device.partition(":")[0], DEVICES)
        _check_choice("dtype", dtype, DTYPES)
        _check_choice("backend", backend, BACKENDS)
        directory = locate(model)
        manifest = bundle.read(directory) if bundle.is_bundle(directory) else None
        if manifest is not None and backend in ("auto", "onnx"):
            if dtype not in ("auto", manifest.precision):
                raise UsageError(
                    f"dtype {dtype!r}: this bundle computes in {manifest.precision}; "
                    "leave dtype at auto, or use the torch backend"
                )
            if quantize != "none":
                raise UsageError(
                    f"quantize {quantize!r}: a bundle's weights are fixed; export it quantized, or "
                    "use the torch backend over its checkpoint"
                )
            return cls(
                OnnxEngine(directory, manifest, device=device),
                name=manifest.name,
                input_size=manifest.input_size,
                tokens=manifest.tokens(),
                card=manifest.card,
                max_pixels=max_pixels,
                deterministic=deterministic,
            )
        if backend == "onnx":
            raise UsageError(f"{directory} holds no ONNX bundle (no {bundle.MANIFEST})")
        engine = TorchEngine(
            directory, device=device, dtype=dtype, quantize=quantize, compiled=compiled
        )
        return cls(
            engine,
            name=manifest.name if manifest else directory.resolve().name,
            input_size=engine.input_size,
            tokens=engine.tokens,
            card=manifest.card if manifest else f"checkpoint in {directory}",
            max_pixels=max_pixels,
            deterministic=deterministic,
        )

    def score(self, source: Any, *, batch_size: int = DEFAULT_BATCH_SIZE) -> list[ScoreResult]:
        """Score one image or many, in order; see :mod:`.inputs` for what counts as an image.

        An image that cannot be read gives a result with ``error`` set and a NaN score. A wrong
        shape, range or type raises ImageInputError before anything is scored.
        """
        sources = list(inputs.flatten(source))

        def prepare(item: images.ImageSource | Image.Image) -> tuple[Image.Image, None]:
            return images.load_image(item, max_pixels=self.max_pixels), None

        answers = self.stream(sources, prepare, batch_size=batch_size)
        return [answer.result for answer in answers]

    def stream(
        self,
        sources: Iterable[Source],
        prepare: Callable[[Source], tuple[Image.Image, Facts]],
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        workers: int = 0,
    ) -> Iterator[Scored[Source, Facts]]:
        """Score ``sources`` in order, with bounded memory whatever their number.

        ``prepare`` runs in ``workers`` threads (0: one per core), ahead of the engine. It returns
        an RGB image and whatever else it found out, or raises ImageError to fail that source alone.
        """
        if batch_size < 1:
            raise UsageError(f"expected a batch_size of at least 1, got {batch_size}")
        workers = workers or default_threads()

        def task(source: Source) -> tuple[Floats, Facts]:
            with images.one_large_at_a_time():
                image, facts = prepare(source)
                return preprocess(image, self.input_size), facts

        waiting: deque[tuple[Source, Future[tuple[Floats, Facts]]]] = deque()
        ahead = 2 * batch_size + workers
        upcoming = iter(sources)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="artimuse-decode")
        try:
            while True:
                for source in upcoming:
                    waiting.append((source, pool.submit(task, source)))
                    if len(waiting) >= ahead:
                        break
                if not waiting:
                    return
                batch = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
                yield from self._finish(batch)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _finish(
        self, batch: list[tuple[Source, Future[tuple[Floats, Facts]]]]
    ) -> Iterator[Scored[Source, Facts]]:
        """Score the decodable part of a batch; put failures back in their places."""
        pixels: list[Floats] = []
        outcomes: list[Facts | str] = []  # facts, or the reason
        readable: list[bool] = []
        for _, future in batch:
            try:
                values, facts = future.result()
            except ImageError as error:
                outcomes.append(str(error))
                readable.append(False)
            else:
                pixels.append(values)
                outcomes.append(facts)
                readable.append(True)
        results = iter(self._score_pixels(np.stack(pixels)) if pixels else [])
        for (source, _), outcome, fine in zip(batch, outcomes, readable, strict=True):
            if fine:
                yield Scored(source, next(results), outcome)  # type: ignore[arg-type]
            else:
                yield Scored(source, ScoreResult.failed(str(outcome), self.name), None)

    def _score_pixels(self, pixel_values: Floats) -> list[ScoreResult]:
        """(B, 3, S, S) → B results.

        Out of memory halves the batch, for good; any other failing batch is tried one by one.
        """
        size = self._largest_batch or len(pixel_values)
        if len(pixel_values) > size:
            parts = [
                pixel_values[start : start + size] for start in range(0, len(pixel_values), size)
            ]
            return [result for part in parts for result in self._score_pixels(part)]
        try:
            read = self.tokens.readout(self.engine.score_logits(pixel_values))
        except ModelError as error:
            if len(pixel_values) == 1:
                log.error("%s", error)
                return [ScoreResult.failed(str(error), self.name)]
            if isinstance(error, OutOfMemoryError):
                self._largest_batch = len(pixel_values) // 2
                log.warning("%s; going on with batches of %d", error, self._largest_batch)
                return self._score_pixels(pixel_values)
            log.warning("a batch of %d failed, going one by one: %s", len(pixel_values), error)
            return [self._score_pixels(one[None])[0] for one in pixel_values]
        return [
            ScoreResult(float(score), float(std), self.name, probs)
            for score, std, probs in zip(read.score, read.std, read.probs, strict=True)
        ]


def _check_choice(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"unknown {what} {value!r}; known: {', '.join(known)}")
