"""Critiques by torch, over a checkpoint's scoring graph with its text weights kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import checkpoint
from .critic import Critic, Floats, Ids
from .decoder import KeyValue, join, run_blocks
from .engines import TorchEngine
from .errors import UsageError
from .models import name_of
from .prompts import IM_END, system_message
from .torch_graph import GraphRunner


def load(
    directory: Path, device: str, dtype: str, quantize: str, max_pixels: int, compiled: bool = False
) -> Critic:
    """Raises UsageError for a model that was trained to score only."""
    if not checkpoint.writes(checkpoint.read_config(directory)):
        raise UsageError(
            f"{name_of(directory)} was trained to score only; critiques need another --model, "
            "e.g. a checkpoint directory in the official format"
        )
    runner = GraphRunner(
        directory, device=device, dtype=dtype, quantize=quantize, compiled=compiled
    )
    return over(runner, directory, name_of(directory), max_pixels)


def over(runner: GraphRunner, directory: Path, name: str, max_pixels: int) -> Critic:
    """A critic over weights that are loaded already, from ``directory``."""
    config = checkpoint.read_config(directory)
    return Critic(
        TorchWriter(runner.graph, runner.device, runner.dtype),
        TransformersTokenizer(checkpoint.load_tokenizer(directory)),
        system=system_message(config),
        score_question=checkpoint.score_question(config),
        name=name,
        card=f"checkpoint in {directory}",
        tokens=runner.tokens,
        max_pixels=max_pixels,
        engine=lambda: TorchEngine.over(runner),
        draft=bool(config.get("draft")),
    )


class TransformersTokenizer:
    """See :class:`.critic.Tokenizer`."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.stop: int = tokenizer.convert_tokens_to_ids(IM_END)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text


class TorchWriter:
    """See :class:`.critic.Writer`."""

    def __init__(self, graph: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.graph = graph
        self._device, self._dtype = device, dtype

    @property
    def device(self) -> str:
        return str(self._device)

    @property
    def input_size(self) -> int:
        size: int = self.graph.input_size
        return size

    @torch.inference_mode()
    def prefill(self, pixel_values: Floats) -> tuple[Floats, list[KeyValue]]:
        pixels = torch.from_numpy(pixel_values).to(self._device, self._dtype)
        cache = self.graph.prefill(pixels)
        logits: Floats = self.graph.score_from(cache).cpu().numpy()
        return logits, cache

    def greedy(self, cache: list[KeyValue], questions: Sequence[list[int]]) -> Iterator[Ids]:
        branches = Branches(self.graph, cache, questions)
        with torch.inference_mode():
            chosen = branches.start().argmax(dim=-1)
        while True:
            yield chosen.cpu().numpy()
            with torch.inference_mode():
                chosen = branches.step(chosen).argmax(dim=-1)

    @torch.inference_mode()
    def score_logits(self, cache: list[KeyValue], questions: Sequence[list[int]]) -> Floats:
        logits = Branches(self.graph, cache, questions).start()
        wanted: Floats = logits[:, self.graph.score_ids].cpu().numpy()
        return wanted


class Branches:
    """Rows of different lengths behind one shared cache.

    Questions are padded on the right to a common width Q, so row r's new tokens sit in slots
    P + Q, P + Q + 1, … while their positions go on from P + len(r); padding is never attended to.
    """

    def __init__(self, graph: Any, cache: list[KeyValue], questions: Sequence[list[int]]) -> None:
        self._graph, self._cache = graph, cache
        device = cache[0][0].device
        self._shared = cache[0][0].shape[2]  # P
        self._lengths = torch.tensor([len(ids) for ids in questions], device=device)
        width = max(map(len, questions))
        padded = [ids + [0] * (width - len(ids)) for ids in questions]
        self._ids = torch.tensor(padded, device=device)  # (R, Q)
        self._written = 0

    def start(self) -> Tensor:
        """Prefill the questions; (R, vocabulary) logits after each one's last token."""
        width, device = self._ids.shape[1], self._ids.device
        slots = torch.arange(width, device=device)
        causal = slots[None, :] <= slots[:, None]  # (Q, Q)
        mask = torch.cat([causal.new_ones(width, self._shared), causal], dim=1)
        hidden = self._run(self._ids, self._shared + slots, mask)  # padding comes after, unseen
        rows = torch.arange(len(self._ids), device=device)
        return self._logits(hidden[rows, self._lengths - 1])

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token a row (R,); (R, vocabulary) logits."""
        width, device = self._ids.shape[1], self._ids.device
        question = torch.arange(width, device=device)[None, :] < self._lengths[:, None]  # (R, Q)
        ones = question.new_ones(len(question), 1)
        seen = [ones.expand(-1, self._shared), question, ones.expand(-1, self._written + 1)]
        mask = torch.cat(seen, dim=1)[:, None, None]  # (R, 1, 1, P + Q + written + 1)
        positions = (self._shared + self._lengths + self._written)[:, None]  # (R, 1)
        self._written += 1
        return self._logits(self._run(tokens[:, None], positions, mask)[:, 0])

    def _run(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        new: list[KeyValue] = []
        hidden = run_blocks(
            self._graph.decoder.layers,
            self._graph.shape,
            self._graph.decoder.embed_tokens(ids),
            self._cache,
            self._graph.shape.rope(positions),
            mask,
            collect=new,
        )
        self._cache = [join(past, pair) for past, pair in zip(self._cache, new, strict=True)]
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._graph.lm_head(self._graph.decoder.norm(hidden)).float()
        return logits
