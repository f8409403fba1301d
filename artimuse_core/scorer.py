"""Images to scores: decode ahead in threads, score in batches, keep order, outlive bad files."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from . import bundle, images, inputs
from .engines import (
    DEVICES,
    DTYPES,
    EmbeddingEngine,
    Engine,
    Floats,
    OnnxEngine,
    TorchEngine,
    default_threads,
)
from .errors import ImageError, ModelError, OutOfMemoryError, UsageError
from .models import NANO as NANO
from .models import locate as locate
from .models import name_of
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
            name=manifest.name if manifest else name_of(directory),
            input_size=engine.input_size,
            tokens=engine.tokens,
            card=manifest.card if manifest else f"checkpoint in {directory}",
            max_pixels=max_pixels,
            deterministic=deterministic,
        )

    @property
    def embeds(self) -> bool:
        """Whether :meth:`stream` can give embeddings."""
        return isinstance(self.engine, EmbeddingEngine) and self.engine.embeds

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
        prepare: Callable[[Source], tuple[Image.Image | ScoreResult, Facts]],
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        workers: int = 0,
        embed: bool = False,
    ) -> Iterator[Scored[Source, Facts]]:
        """Score ``sources`` in order, with bounded memory whatever their number.

        ``prepare`` runs in ``workers`` threads (0: one per core), ahead of the engine. It returns
        an RGB image and whatever else it found out, or raises ImageError to fail that source alone.
        Where it knows the result already, it returns that in the image's place, and the engine is
        spared. ``embed``: results carry the embedding; raises ModelError where the model has none.
        """
        if batch_size < 1:
            raise UsageError(f"expected a batch_size of at least 1, got {batch_size}")
        if embed and not self.embeds:
            raise ModelError(f"{self.name} gives no embedding; a bundle may: export it again")
        workers = workers or default_threads()

        def task(source: Source) -> tuple[Floats | ScoreResult, Facts]:
            with images.one_large_at_a_time():
                image, facts = prepare(source)
                if isinstance(image, ScoreResult):
                    return image, facts
                return preprocess(image, self.input_size), facts

        waiting: deque[tuple[Source, Future[tuple[Floats | ScoreResult, Facts]]]] = deque()
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
                yield from self._finish(batch, embed)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _finish(
        self, batch: list[tuple[Source, Future[tuple[Floats | ScoreResult, Facts]]]], embed: bool
    ) -> Iterator[Scored[Source, Facts]]:
        """Score what is not answered yet; failures and known results keep their places."""
        pixels: list[Floats] = []
        answers: list[tuple[ScoreResult | None, Facts | None]] = []
        for _, future in batch:
            try:
                values, facts = future.result()
            except ImageError as error:
                answers.append((ScoreResult.failed(str(error), self.name), None))
                continue
            if isinstance(values, ScoreResult):
                answers.append((values, facts))
            else:
                pixels.append(values)
                answers.append((None, facts))
        fresh = iter(self._score_pixels(np.stack(pixels), embed) if pixels else [])
        for (source, _), (known, found) in zip(batch, answers, strict=True):
            yield Scored(source, known or next(fresh), found)

    def _score_pixels(self, pixel_values: Floats, embed: bool) -> list[ScoreResult]:
        """(B, 3, S, S) → B results.

        Out of memory halves the batch, for good; any other failing batch is tried one by one.
        """
        size = self._largest_batch or len(pixel_values)
        if len(pixel_values) > size:
            parts = [
                pixel_values[start : start + size] for start in range(0, len(pixel_values), size)
            ]
            return [result for part in parts for result in self._score_pixels(part, embed)]
        try:
            logits, embeddings = self._evaluate(pixel_values, embed)
            read = self.tokens.readout(logits)
        except ModelError as error:
            if len(pixel_values) == 1:
                log.error("%s", error)
                return [ScoreResult.failed(str(error), self.name)]
            if isinstance(error, OutOfMemoryError):
                self._largest_batch = len(pixel_values) // 2
                log.warning("%s; going on with batches of %d", error, self._largest_batch)
                return self._score_pixels(pixel_values, embed)
            log.warning("a batch of %d failed, going one by one: %s", len(pixel_values), error)
            return [self._score_pixels(one[None], embed)[0] for one in pixel_values]
        return [
            ScoreResult(float(score), float(std), self.name, probs, embedding)
            for score, std, probs, embedding in zip(
                read.score, read.std, read.probs, embeddings, strict=True
            )
        ]

    def _evaluate(
        self, pixel_values: Floats, embed: bool
    ) -> tuple[Floats, Floats | Sequence[None]]:
        """Score logits, and the embeddings where they are wanted, from one forward pass."""
        if embed:
            assert isinstance(self.engine, EmbeddingEngine)
            return self.engine.score_and_embed(pixel_values)
        return self.engine.score_logits(pixel_values), [None] * len(pixel_values)


def _check_choice(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"unknown {what} {value!r}; known: {', '.join(known)}")


@dataclass(frozen=True)
class ModelSpec:
    """Which model, and how to run it: what :meth:`Scorer.load` is told, in another process too."""

    model: str
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = DEFAULT_BATCH_SIZE
    max_pixels: int = images.DEFAULT_MAX_PIXELS
    quantize: str = "none"
    deterministic: bool = False
    compiled: bool = False

    def scorer(self) -> Scorer:
        return Scorer.load(
            self.model,
            self.device,
            self.dtype,
            max_pixels=self.max_pixels,
            quantize=self.quantize,
            deterministic=self.deterministic,
            compiled=self.compiled,
        )
