"""Critiques by onnxruntime, over a bundle's prefill and decode graphs; no torch.

The decode graph continues R sequences by T tokens each from a cache of P slots; what of the cache a
row may see is an input, so that questions of different lengths share one batch, padded on the
right. The same graph reads the questions (T as long as the longest) and writes (T = 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import bundle, providers
from .critic import Critic, Floats, Ids
from .engines import OnnxEngine, onnx_session, onnxruntime_providers
from .errors import MissingExtraError, ModelError
from .images import one_line
from .prompts import IM_END


def load(directory: Path, manifest: bundle.Manifest, device: str, max_pixels: int) -> Critic:
    """Raises ModelError where a file is missing or not the manifest's."""
    try:
        files = bundle.WriterFiles(**manifest.writer)
    except TypeError as error:
        raise ModelError(f"{directory} is no bundle of this version: {error}") from error
    bundle.check_files(directory, files.sha256)
    return Critic(
        OnnxWriter(directory, manifest, files, device),
        FileTokenizer(directory / files.tokenizer),
        system=files.system_message,
        score_question=files.score_question,
        name=manifest.name,
        card=manifest.card,
        tokens=manifest.tokens(),
        max_pixels=max_pixels,
        engine=lambda: OnnxEngine(directory, manifest, device=device),
        draft=files.draft,
    )


class FileTokenizer:
    """See :class:`.critic.Tokenizer`; of a ``tokenizer.json``."""

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingExtraError("tokenizers", "critique") from error
        self._tokenizer: Any = Tokenizer.from_file(str(path))
        stop = self._tokenizer.token_to_id(IM_END)
        if stop is None:
            raise ModelError(f"{path} has no token {IM_END}")
        self.stop: int = stop

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


class OnnxWriter:
    """See :class:`.critic.Writer`. A cache is (layers, 2, rows, heads, slots, head width)."""

    def __init__(
        self,
        directory: Path,
        manifest: bundle.Manifest,
        files: bundle.WriterFiles,
        device: str = "auto",
    ) -> None:
        asked = providers.choose(device, onnxruntime_providers(), precision=manifest.precision)
        index = int(device.partition(":")[2] or 0)
        self._prefill, self._decode = (
            onnx_session((directory / name).read_bytes(), directory, asked, index=index)
            for name in (files.prefill, files.decode)
        )
        self._device = providers.started(asked, self._decode.get_providers(), device)
        self._score_ids = np.array(files.score_ids)
        self._size = manifest.input_size

    @property
    def device(self) -> str:
        return self._device

    @property
    def input_size(self) -> int:
        return self._size

    def prefill(self, pixel_values: Floats) -> tuple[Floats, Floats]:
        logits, cache = _run(self._prefill, pixel_values=pixel_values)
        return logits, cache

    def greedy(self, cache: Floats, questions: Sequence[list[int]]) -> Iterator[Ids]:
        branches = _Branches(self._decode, cache, questions)
        logits = branches.start()
        while True:
            chosen = logits.argmax(axis=-1)
            yield chosen
            logits = branches.step(chosen)

    def score_logits(self, cache: Floats, questions: Sequence[list[int]]) -> Floats:
        logits: Floats = _Branches(self._decode, cache, questions).start()[:, self._score_ids]
        return logits


class _Branches:
    """R questions behind one shared cache of P slots, each with its own answer."""

    def __init__(self, session: Any, cache: Floats, questions: Sequence[list[int]]) -> None:
        self._session = session
        self._lengths = np.array([len(ids) for ids in questions])
        width = int(self._lengths.max())
        self._ids = np.array([ids + [0] * (width - len(ids)) for ids in questions])  # (R, Q)
        rows, slots = len(questions), cache.shape[4]
        self._cache = np.repeat(cache, rows, axis=2)
        self._seen = np.ones((rows, slots), bool)  # (R, slots)
        self._position = slots + np.zeros(rows, np.int64)  # of the next token

    def start(self) -> Floats:
        """Read the questions; (R, vocabulary) logits after each one's last token."""
        slots = np.arange(self._ids.shape[1])
        logits = self._run(self._ids, self._position[:, None] + slots, self._lengths - 1)
        self._see(slots[None] < self._lengths[:, None])  # never the padding
        self._position = self._position + self._lengths
        return logits

    def step(self, tokens: Ids) -> Floats:
        """Append one token a row (R,); (R, vocabulary) logits."""
        logits = self._run(tokens[:, None], self._position[:, None], np.zeros_like(tokens))
        self._see(np.ones((len(tokens), 1), bool))
        self._position = self._position + 1
        return logits

    def _see(self, new: npt.NDArray[np.bool_]) -> None:
        self._seen = np.concatenate([self._seen, new], axis=1)

    def _run(self, ids: Ids, positions: Ids, last: Ids) -> Floats:
        logits, self._cache = _run(
            self._session, ids=ids, positions=positions, seen=self._seen, past=self._cache,
            last=last,
        )  # fmt: skip
        return logits


def _run(session: Any, **inputs: Any) -> tuple[Floats, Floats]:
    try:
        first, second = session.run(None, inputs)
    except Exception as error:
        raise ModelError(f"onnxruntime failed: {one_line(error)}") from error
    return first, second
