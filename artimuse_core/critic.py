"""Critiques: what a model says about an image, attribute by attribute (paper Sec. 4.2, App. D.3).

The image is encoded and prefilled once. The score and all attributes branch from that cache, the
attributes as one batch, greedy by default as the reference decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import checkpoint
from .attributes import ATTRIBUTES, Attribute
from .bundle import is_bundle
from .decoder import KeyValue, join, run_blocks
from .engines import TorchEngine
from .errors import UsageError
from .images import DEFAULT_MAX_PIXELS, load_image
from .preprocess import preprocess
from .prompts import (
    IM_END,
    attribute_question,
    attribute_score_question,
    chat_prompt,
    system_message,
)
from .results import ScoreResult
from .score_tokens import ORDERED_100
from .scorer import Scorer
from .torch_graph import GraphRunner

DEFAULT_MAX_NEW_TOKENS = 512

OnText = Callable[[Attribute, str], None]
"""Called with each new piece of an attribute's text as it is written."""


@dataclass(frozen=True)
class Critique:
    """A score and a text for each attribute asked for."""

    result: ScoreResult
    texts: dict[str, str]
    """By attribute name, in the order asked."""
    attribute_scores: dict[str, ScoreResult] = field(default_factory=dict)
    """Experimental, and empty unless asked for: no published weights are tuned on the question."""


class Critic:
    """Writes critiques with a checkpoint; make one with :meth:`load`."""

    def __init__(
        self,
        runner: GraphRunner,
        tokenizer: Any,
        config: Mapping[str, Any],
        name: str,
        max_pixels: int,
    ) -> None:
        self.runner = runner
        self.name = name
        self._graph = runner.graph
        self._tokenizer = tokenizer
        self._system = system_message(config)
        self._score_question = checkpoint.score_question(config)
        self.max_pixels = max_pixels
        self._stop: int = tokenizer.convert_tokens_to_ids(IM_END)

    @classmethod
    def load(
        cls,
        directory: Path,
        device: str = "auto",
        dtype: str = "auto",
        *,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        quantize: str = "none",
        compiled: bool = False,
    ) -> Critic:
        """From a checkpoint directory; options as in ``Scorer.load``.

        Raises UsageError for a model that was trained to score only, or an ONNX bundle alone.
        """
        if is_bundle(directory) and not (directory / "config.json").is_file():
            raise UsageError(
                f"{directory} is an ONNX bundle, which scores only; critiques need the checkpoint"
            )
        config = checkpoint.read_config(directory)
        if not config.get("critiques", True):
            raise UsageError(
                f"{directory.name} was trained to score only; critiques need another --model, "
                "e.g. a checkpoint directory in the official format"
            )
        return cls(
            GraphRunner(
                directory, device=device, dtype=dtype, quantize=quantize, compiled=compiled
            ),
            checkpoint.load_tokenizer(directory),
            config,
            directory.resolve().name,
            max_pixels,
        )

    def scorer(self, *, card: str = "", deterministic: bool = False) -> Scorer:
        """A scorer over the same weights."""
        return Scorer(
            TorchEngine.over(self.runner),
            name=self.name,
            input_size=self._graph.input_size,
            card=card,
            max_pixels=self.max_pixels,
            deterministic=deterministic,
        )

    @torch.inference_mode()
    def critique(
        self,
        image: Any,
        attributes: Sequence[Attribute] = ATTRIBUTES,
        *,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        on_text: OnText = lambda attribute, text: None,
        attribute_scores: bool = False,
    ) -> Critique:
        """Score one image (anything ``images.load_image`` takes) and criticise it.

        ``attribute_scores`` also asks the score question of each attribute: experimental.
        Raises ImageError if the image cannot be read.
        """
        if max_new_tokens < 1:
            raise UsageError(f"expected max_new_tokens of at least 1, got {max_new_tokens}")
        cache = self._prefill(image)
        read = ORDERED_100.readout(self._graph.score_from(cache).cpu().numpy())
        result = ScoreResult(float(read.score[0]), float(read.std[0]), self.name, read.probs[0])
        texts = self._write(cache, attributes, max_new_tokens, on_text) if attributes else []
        scores = self._attribute_scores(cache, attributes) if attribute_scores else {}
        return Critique(result, {a.name: t for a, t in zip(attributes, texts, strict=True)}, scores)

    @torch.inference_mode()
    def attribute_scores(
        self, image: Any, attributes: Sequence[Attribute] = ATTRIBUTES
    ) -> dict[str, ScoreResult]:
        """The score question of each attribute, by its name; no texts. Experimental.

        Raises ImageError if the image cannot be read.
        """
        return self._attribute_scores(self._prefill(image), attributes)

    def _prefill(self, image: Any) -> list[KeyValue]:
        picture = load_image(image, max_pixels=self.max_pixels)
        pixels = torch.from_numpy(preprocess(picture, self._graph.input_size))[None]
        return self._graph.prefill(pixels.to(self.runner.device, self.runner.dtype))

    def _attribute_scores(
        self, cache: list[KeyValue], attributes: Sequence[Attribute]
    ) -> dict[str, ScoreResult]:
        if not attributes:
            return {}
        questions = [attribute_score_question(a, self._score_question) for a in attributes]
        logits = _Batch(self._graph, cache, [self._ids(q) for q in questions]).start()
        read = ORDERED_100.readout(logits[:, self._graph.score_ids].cpu().numpy())
        return {
            attribute.name: ScoreResult(float(score), float(std), self.name, probs)
            for attribute, score, std, probs in zip(
                attributes, read.score, read.std, read.probs, strict=True
            )
        }

    def _ids(self, question: str) -> list[int]:
        """Tokens from the end of the image to where the answer begins."""
        text = chat_prompt(question, self._system).after
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _write(
        self,
        cache: list[KeyValue],
        attributes: Sequence[Attribute],
        max_new_tokens: int,
        on_text: OnText,
    ) -> list[str]:
        """Greedy decoding of all questions at once, each row from the shared image cache."""
        questions = [self._ids(attribute_question(attribute)) for attribute in attributes]
        batch = _Batch(self._graph, cache, questions)
        logits = batch.start()
        streams = [_Stream(self._tokenizer) for _ in attributes]
        running = set(range(len(attributes)))
        for step in range(max_new_tokens):
            chosen = logits.argmax(dim=-1)  # (R,)
            for row in sorted(running):
                token = int(chosen[row])
                piece = streams[row].end() if token == self._stop else streams[row].add(token)
                if token == self._stop:
                    running.discard(row)
                if piece:
                    on_text(attributes[row], piece)
            if not running or step == max_new_tokens - 1:
                break
            logits = batch.step(chosen)
        for row in sorted(running):
            if piece := streams[row].end():
                on_text(attributes[row], piece)
        return [stream.text.strip() for stream in streams]


class _Batch:
    """Rows of different lengths behind one shared cache.

    Questions are padded on the right to a common width Q, so row r's new tokens sit in slots
    P + Q, P + Q + 1, … while their positions go on from P + len(r); padding is never attended to.
    """

    def __init__(self, graph: Any, cache: list[KeyValue], questions: list[list[int]]) -> None:
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


class _Stream:
    """Token ids to text as they come, holding back characters that are not complete yet."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = 0
        self.text = ""

    def add(self, token: int) -> str:
        """What can be shown now that was not shown before."""
        self._ids.append(token)
        self.text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        complete = self.text.rstrip("\N{REPLACEMENT CHARACTER}")
        piece, self._shown = complete[self._shown :], max(self._shown, len(complete))
        return piece

    def end(self) -> str:
        """The rest, complete or not."""
        piece, self._shown = self.text[self._shown :], len(self.text)
        return piece
