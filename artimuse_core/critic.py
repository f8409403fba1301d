"""Critiques: what a model says about an image, attribute by attribute (paper Sec. 4.2, App. D.3).

The image is encoded and prefilled once. The score and all attributes branch from that cache, the
attributes as one batch, greedy by default as the reference decodes. What computes is a
:class:`Writer`: torch over a checkpoint, or onnxruntime over a bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from . import bundle
from .attributes import ATTRIBUTES, Attribute
from .engines import Engine
from .errors import MissingExtraError, UsageError
from .images import DEFAULT_MAX_PIXELS, load_image
from .preprocess import preprocess
from .prompts import attribute_question, attribute_score_question, chat_prompt
from .results import ScoreResult
from .score_tokens import ORDERED_100, ScoreTokens
from .scorer import Scorer

DEFAULT_MAX_NEW_TOKENS = 512
DRAFT = "[draft model] "
"""Before each text of a model that says of itself that it is a draft, wherever the text goes."""

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

OnText = Callable[[Attribute, str], None]
"""Called with each new piece of an attribute's text as it is written."""


class Tokenizer(Protocol):
    """Text to token ids and back."""

    stop: int
    """Id of the token that ends an answer."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...


class Writer(Protocol):
    """A model that scores an image and writes about it, from one prefill."""

    @property
    def device(self) -> str: ...

    @property
    def input_size(self) -> int: ...

    def prefill(self, pixel_values: Floats) -> tuple[Floats, Any]:
        """(1, 3, S, S) → score logits (1, K), and the cache that questions branch from."""
        ...

    def greedy(self, cache: Any, questions: Sequence[list[int]]) -> Iterator[Ids]:
        """The most likely next token of each of R questions (R,), again and again, without end."""
        ...

    def score_logits(self, cache: Any, questions: Sequence[list[int]]) -> Floats:
        """(R, K) logits of the score tokens as the first token of each answer."""
        ...


@dataclass(frozen=True)
class Critique:
    """A score and a text for each attribute asked for."""

    result: ScoreResult
    texts: dict[str, str]
    """By attribute name, in the order asked."""
    attribute_scores: dict[str, ScoreResult] = field(default_factory=dict)
    """Experimental, and empty unless asked for: no published weights are tuned on the question."""


class Critic:
    """Writes critiques with a checkpoint or a bundle; make one with :meth:`load`."""

    def __init__(
        self,
        writer: Writer,
        tokenizer: Tokenizer,
        *,
        system: str,
        score_question: str,
        name: str,
        card: str = "",
        tokens: ScoreTokens = ORDERED_100,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        engine: Callable[[], Engine] | None = None,
        draft: bool = False,
    ) -> None:
        """``engine`` makes what :meth:`scorer` scores with; ``card`` is one line on the model;
        ``draft`` marks every text.
        """
        self._mark = DRAFT if draft else ""
        self.writer = writer
        self._engine = engine
        self.tokens = tokens
        self.name = name
        self.card = card
        self._tokenizer = tokenizer
        self._system = system
        self._score_question = score_question
        self.max_pixels = max_pixels

    @property
    def device(self) -> str:
        """Where it computes, for messages."""
        return self.writer.device

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
        """From a checkpoint directory, or a bundle with critiques; options as in ``Scorer.load``.

        Raises UsageError for a model that was trained or exported to score only.
        """
        if bundle.is_bundle(directory):
            manifest = bundle.read(directory)
            if manifest.writer:
                from . import critic_onnx

                if dtype not in ("auto", manifest.precision) or quantize != "none":
                    raise UsageError(f"this bundle computes in {manifest.precision}; leave --dtype "
                                     "at auto and --quantize at none")  # fmt: skip
                return critic_onnx.load(directory, manifest, device, max_pixels)
            if not (directory / "config.json").is_file():
                raise UsageError(
                    f"{directory} is an ONNX bundle that scores only; export it with --critique, "
                    "or give the checkpoint"
                )
        try:
            from . import critic_torch
        except ImportError as error:
            raise MissingExtraError(error.name or "torch", "torch") from error
        return critic_torch.load(directory, device, dtype, quantize, max_pixels, compiled)

    def scorer(self, *, deterministic: bool = False) -> Scorer:
        """A scorer over the same weights."""
        if self._engine is None:
            raise ValueError("made without an engine to score with")
        return Scorer(
            self._engine(),
            name=self.name,
            input_size=self.writer.input_size,
            tokens=self.tokens,
            card=self.card,
            max_pixels=self.max_pixels,
            deterministic=deterministic,
        )

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
        logits, cache = self._prefill(image)
        read = self.tokens.readout(logits)
        result = ScoreResult(float(read.score[0]), float(read.std[0]), self.name, read.probs[0])
        texts = self._write(cache, attributes, max_new_tokens, on_text) if attributes else []
        scores = self._attribute_scores(cache, attributes) if attribute_scores else {}
        return Critique(result, {a.name: t for a, t in zip(attributes, texts, strict=True)}, scores)

    def attribute_scores(
        self, image: Any, attributes: Sequence[Attribute] = ATTRIBUTES
    ) -> dict[str, ScoreResult]:
        """The score question of each attribute, by its name; no texts. Experimental.

        Raises ImageError if the image cannot be read.
        """
        return self._attribute_scores(self._prefill(image)[1], attributes)

    def _prefill(self, image: Any) -> tuple[Floats, Any]:
        picture = load_image(image, max_pixels=self.max_pixels)
        return self.writer.prefill(preprocess(picture, self.writer.input_size)[None])

    def _attribute_scores(
        self, cache: Any, attributes: Sequence[Attribute]
    ) -> dict[str, ScoreResult]:
        if not attributes:
            return {}
        if not self.tokens.single_token:
            raise UsageError(f"{self.name} answers in words; attribute scores need score tokens")
        questions = [attribute_score_question(a, self._score_question) for a in attributes]
        logits = self.writer.score_logits(cache, [self._ids(q) for q in questions])
        read = self.tokens.readout(logits)
        return {
            attribute.name: ScoreResult(float(score), float(std), self.name, probs)
            for attribute, score, std, probs in zip(
                attributes, read.score, read.std, read.probs, strict=True
            )
        }

    def _ids(self, question: str) -> list[int]:
        """Tokens from the end of the image to where the answer begins."""
        return self._tokenizer.encode(chat_prompt(question, self._system).after)

    def _write(
        self, cache: Any, attributes: Sequence[Attribute], max_new_tokens: int, on_text: OnText
    ) -> list[str]:
        """Greedy decoding of all questions at once, each row from the shared image cache."""
        questions = [self._ids(attribute_question(attribute)) for attribute in attributes]
        streams = [_Stream(self._tokenizer) for _ in attributes]
        running = set(range(len(attributes)))
        for chosen in islice(self.writer.greedy(cache, questions), max_new_tokens):
            for row in sorted(running):
                token = int(chosen[row])
                ended = token == self._tokenizer.stop
                piece = streams[row].end() if ended else streams[row].add(token)
                if ended:
                    running.discard(row)
                if piece:
                    on_text(attributes[row], streams[row].begin(self._mark) + piece)
            if not running:
                break
        for row in sorted(running):
            if piece := streams[row].end():
                on_text(attributes[row], streams[row].begin(self._mark) + piece)
        return [self._mark + stream.text.strip() for stream in streams]


class _Stream:
    """Token ids to text as they come, holding back characters that are not complete yet."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = 0
        self._begun = False
        self.text = ""

    def begin(self, mark: str) -> str:
        """``mark``, the first time."""
        begun, self._begun = self._begun, True
        return "" if begun else mark

    def add(self, token: int) -> str:
        """What can be shown now that was not shown before."""
        self._ids.append(token)
        self.text = self._tokenizer.decode(self._ids)
        complete = self.text.rstrip("\N{REPLACEMENT CHARACTER}")
        piece, self._shown = complete[self._shown :], max(self._shown, len(complete))
        return piece

    def end(self) -> str:
        """The rest, complete or not."""
        piece, self._shown = self.text[self._shown :], len(self.text)
        return piece
