"""From samples to batches: prompt, pixels, answer. All three come from the core.

The order of samples is a pure function of the seed and the position in the run: :class:`Run` is all
epochs laid end to end, each shuffled anew and filled up to whole optimiser steps with nothing
(position → None). Whoever resumes at a position, or shares positions out over devices, sees each
sample exactly once an epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..artimuse_core.answers import answer_ids
from ..artimuse_core.attributes import attribute
from ..artimuse_core.errors import ImageError, UsageError
from ..artimuse_core.images import load_image
from ..artimuse_core.preprocess import preprocess, resize
from ..artimuse_core.prompts import IM_END, IMG_CONTEXT, attribute_question, chat_prompt
from ..artimuse_core.score_tokens import ScoreTokens
from .datasets.base import Sample
from .losses import IGNORED
from .tiling import tiles

_log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one image, with its answer."""

    image: Path
    question: str
    answer: tuple[int, ...]
    """Token ids, the end of the turn included."""
    score: float = NAN
    """0..100; NaN for texts."""
    std: float = NAN


@dataclass(frozen=True, slots=True)
class Example:
    """An item with its pixels."""

    item: Item
    pixel_values: npt.NDArray[np.float32]
    """(tiles, 3, S, S)."""


def score_items(
    samples: Sequence[Sample], tokens: ScoreTokens, tokenizer: Any, question: str
) -> list[Item]:
    """Ratings as answers of the strategy ``tokens``."""
    answers = answer_ids(tokens, tokenizer)
    end = tokenizer.convert_tokens_to_ids(IM_END)
    if tokens.single_token:
        answers = [[*ids, end] for ids in answers]
    items = []
    for sample in samples:
        assert sample.score is not None
        answer = answers[tokens.tokens.index(tokens.encode(sample.score))]
        std = NAN if sample.std is None else sample.std
        items.append(Item(sample.image, question, tuple(answer), sample.score, std))
    return items


def text_items(samples: Sequence[Sample], tokenizer: Any) -> list[Item]:
    """Critiques, one item an attribute."""
    end = tokenizer.convert_tokens_to_ids(IM_END)
    items = []
    for sample in samples:
        for name, text in sample.texts.items():
            ids = tokenizer(text.strip(), add_special_tokens=False).input_ids
            question = attribute_question(attribute(name))
            items.append(Item(sample.image, question, (*ids, end)))
    return items


class Decoder:
    """Images as pixel values, small ones kept in memory: many epochs decode each file once."""

    def __init__(self, size: int, max_tiles: int = 1, cache_bytes: int = 1 << 29) -> None:
        self.size, self.max_tiles = size, max_tiles
        self._room = cache_bytes // (3 * size * size)
        self._kept: dict[Path, Pixels] = {}

    def __call__(self, path: Path) -> npt.NDArray[np.float32]:
        """(tiles, 3, S, S) fp32. Raises ImageError."""
        if path in self._kept:
            return preprocess(Image.fromarray(self._kept[path]), self.size)[None]
        image = load_image(path)
        if self.max_tiles > 1:
            cut = tiles(image, self.max_tiles, self.size)
            return np.stack([preprocess(tile, self.size) for tile in cut])
        image = resize(image, self.size)
        if len(self._kept) < self._room:
            self._kept[path] = np.asarray(image)
        return preprocess(image, self.size)[None]


class Items(Dataset[Example | None]):
    """Items in order; None, and marked in ``failed``, where the image cannot be read."""

    def __init__(self, items: Sequence[Item], decoder: Decoder) -> None:
        self.items, self._decode = items, decoder
        # Shared with the processes that decode.
        self.failed = torch.zeros(len(items), dtype=torch.bool)
        self.failed.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example | None:
        item = self.items[index]
        try:
            return Example(item, self._decode(item.image))
        except ImageError as error:
            if not self.failed[index]:
                _log.error("left out: %s: %s", item.image, error)
            self.failed[index] = True
            return None


class Run(Dataset[Example | None]):
    """Every position of a whole training run; see the module's text."""

    def __init__(self, items: Items, epochs: int, batch_size: int, seed: int) -> None:
        self._items, self._epochs, self._seed = items, epochs, seed
        self.steps_per_epoch = -(-len(items) // batch_size)
        self._positions = self.steps_per_epoch * batch_size
        self._orders: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return self._epochs * self._positions

    def index(self, position: int) -> int | None:
        """Which item stands at a position; None where an epoch is filled up."""
        epoch, place = divmod(position, self._positions)
        return self._order(epoch)[place] if place < len(self._items) else None

    def __getitem__(self, position: int) -> Example | None:
        index = self.index(position)
        return None if index is None else self._items[index]

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            random = np.random.default_rng((self._seed, epoch))
            self._orders = {epoch: random.permutation(len(self._items)).tolist()}
        return self._orders[epoch]


class Collator:
    """Examples → one batch, padded on the left so that all answers end at the same place.

    (Rotary positions are relative, so where a row begins changes nothing.) What is None is left
    out; a batch of nothing but None gets one blank row without an answer.
    """

    def __init__(
        self, tokenizer: Any, system: str, *, size: int, image_tokens: int, max_length: int
    ) -> None:
        self._tokenizer, self._system = tokenizer, system
        self._size, self._image_tokens, self._max_length = size, image_tokens, max_length
        self._image_id: int = tokenizer.convert_tokens_to_ids(IMG_CONTEXT)
        self._prompts: dict[str, tuple[list[int], list[int]]] = {}

    def __call__(self, examples: Sequence[Example | None]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` (B, N), ``pixel_values`` (tiles, 3, S, S),
        ``labels`` (B, T) for the last T positions, ``score`` and ``std`` (B,)."""
        present = [example for example in examples if example is not None] or [self._blank()]
        rows = [self._ids(example) for example in present]
        length = max(len(prompt) + len(answer) for prompt, answer in rows)
        answered = max(1, *(len(answer) for _, answer in rows))
        input_ids = torch.full((len(rows), length), self._pad_id)
        attention_mask = torch.zeros((len(rows), length), dtype=torch.long)
        labels = torch.full((len(rows), answered + 1), IGNORED)
        for row, (prompt, answer) in enumerate(rows):
            ids = torch.tensor(prompt + answer)
            input_ids[row, length - len(ids) :] = ids
            attention_mask[row, length - len(ids) :] = 1
            if answer:
                labels[row, -len(answer) :] = torch.tensor(answer)
        pixels = np.concatenate([example.pixel_values for example in present])
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "pixel_values": torch.from_numpy(pixels),
            "labels": labels,
            "score": torch.tensor([example.item.score for example in present]),
            "std": torch.tensor([example.item.std for example in present]),
        }

    @property
    def _pad_id(self) -> int:
        padding = self._tokenizer.pad_token_id
        return 0 if padding is None else padding

    def _blank(self) -> Example:
        item = Item(Path(), "", ())
        return Example(item, np.zeros((1, 3, self._size, self._size), np.float32))

    def _ids(self, example: Example) -> tuple[list[int], list[int]]:
        before, after = self._prompt(example.item.question)
        image = [self._image_id] * (self._image_tokens * len(example.pixel_values))
        prompt = [*before, *image, *after]
        room = self._max_length - len(prompt)
        if room < 1:
            raise UsageError(
                f"max_length {self._max_length}: the question alone has {len(prompt)} tokens"
            )
        return prompt, list(example.item.answer[:room])

    def _prompt(self, question: str) -> tuple[list[int], list[int]]:
        if question not in self._prompts:
            prompt = chat_prompt(question, self._system)
            self._prompts[question] = tuple(
                self._tokenizer(text, add_special_tokens=False).input_ids
                for text in (prompt.before, prompt.after)
            )
        return self._prompts[question]
