"""nano's text stage (paper Sec. 4.3): short critiques learnt from descriptions of the pixels.

The tower stays as it is, so pictures pass through it once and a step costs little; that is why this
is not the text stage of ``stages.py``. Projector and language model learn to write, for what is
worth saying is not what the score needed to know, and the answers to the score question are held
where they were by the divergence from what they were. What is asked about a picture in one step
shares its image tokens, which pass through the language model once, as when the model is used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..artimuse_core.attributes import ATTRIBUTES
from ..artimuse_core.decoder import KeyValue, causal_mask, run_blocks
from ..artimuse_core.model import ScoringGraph
from ..artimuse_core.prompts import IM_END, attribute_question, chat_prompt
from ..artimuse_core.score_tokens import ORDERED_100
from . import augment
from .descent import Descent, RunningMeans, behind_the_tower, course, weigh
from .descriptions import describe, facts
from .half_products import fast_products
from .losses import IGNORED
from .score_batches import Pool
from .score_terms import expected_score
from .vision import Normalise, image_tokens

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextRecipe:
    """How long and how fast."""

    steps: int = 3000
    pictures: int = 48
    """A step."""
    asked: int = 3
    """Attributes that each is asked for, of the eight."""
    learning_rate: float = 1e-3
    """Peak; a tenth of the steps warm-up, then a cosine to nothing."""
    matrix_rate: float = 0.01
    """The same of the matrices inside, see :class:`.descent.Descent`."""
    keep_score: float = 10.0
    """Weight of the divergence from the answers before."""
    versions: int = 8
    """Of each picture: as it is, and parts of it, mirrored or not, every other version spoiled."""
    least: float = 0.6
    """Of its sides, in such a part."""
    seed: int = 0


@dataclass(frozen=True)
class _Seen:
    """N pictures, and what is to be said of them."""

    tokens: Tensor
    """(N, places, 4 · vision width) fp16: what the projector reads."""
    score_logits: Tensor
    """(N, K) before."""
    ids: Tensor
    """(N, attributes, T) questions, each with its answer behind it; padded."""
    labels: Tensor
    """The same, ``IGNORED`` where it is no answer."""


def train_text(
    graph: ScoringGraph, tokenizer: Any, pool: Pool, recipe: TextRecipe, system: str
) -> dict[str, float]:
    """Teach ``graph``'s projector and language model to describe; returns the mean text loss.

    In nats a token, over the ``first`` and the ``last`` tenth of the steps.
    """
    device = pool.images.device
    graph.to(device).eval()
    torch.manual_seed(recipe.seed)
    seen = _look(graph, tokenizer, pool, recipe, system)
    descent = Descent(
        *behind_the_tower(graph),
        learning_rate=recipe.learning_rate,
        matrix_rate=recipe.matrix_rate,
        weight_decay=0.0,
    )
    means, texts = RunningMeans(), []
    for step in range(recipe.steps):
        rows = torch.randint(len(seen.tokens), (recipe.pictures,), device=device)
        order = torch.rand(recipe.pictures, len(ATTRIBUTES), device=device).argsort(dim=1)
        asked = order[:, : recipe.asked]
        with fast_products(device):
            cache = graph.prefill_tokens(graph.projector(seen.tokens[rows].float()))
            kept = F.kl_div(
                F.log_softmax(graph.score_from(cache), 1),
                F.log_softmax(seen.score_logits[rows], 1),
                log_target=True, reduction="batchmean",
            )  # fmt: skip
            text = _text_loss(
                graph, cache, *(part[rows[:, None], asked] for part in (seen.ids, seen.labels))
            )
        losses = {"text": text, "keep_score": kept}
        descent.step(weigh(losses, recipe, "text"), course(step, recipe.steps))
        means.follow(losses)
        texts.append(float(text.detach()))
        if (step + 1) % 200 == 0:
            _log.info("text step %d: %s", step + 1, means)
    tenth = max(1, recipe.steps // 10)
    first, last = texts[:tenth], texts[-tenth:]
    return {"first": sum(first) / len(first), "last": sum(last) / len(last)}


@torch.no_grad()
def _look(
    graph: ScoringGraph, tokenizer: Any, pool: Pool, recipe: TextRecipe, system: str
) -> _Seen:
    """Every version of every picture, through the finished tower."""
    device = pool.images.device
    normalise = Normalise().to(device)
    values = torch.tensor(ORDERED_100.values, device=device)
    tokens, logits, texts = [], [], []
    for version in range(recipe.versions):
        for rows in torch.randperm(len(pool.images)).split(32):
            images = pool.images[rows.to(device)].float() / 255
            if version:
                images = _part(images, recipe.least)
            if version % 2:
                kind = int(torch.randint(len(augment.DISTORTIONS), ()))
                images = augment.spoil(kind, images, torch.rand(len(images), device=device))
            pixels = normalise(augment.resize(images, graph.input_size))
            tokens.append(image_tokens(graph, pixels).half())
            logits.append(graph.read(graph.projector(tokens[-1].float())))
            scores = expected_score(logits[-1], values).tolist()
            texts += [describe(f, s) for f, s in zip(facts(images.cpu()), scores, strict=True)]
    ids, labels = _encode(tokenizer, texts, system)
    return _Seen(torch.cat(tokens), torch.cat(logits), ids.to(device), labels.to(device))


def _part(images: Tensor, least: float) -> Tensor:
    """A square of (B, 3, H, H), its side ``least`` of theirs or more, mirrored every other time."""
    whole = images.shape[-1]
    side = round(whole * float(torch.empty(()).uniform_(least, 1)))
    top, left = torch.randint(whole - side + 1, (2,)).tolist()
    part = images[..., top : top + side, left : left + side]
    return part.flip(-1) if float(torch.rand(())) < 0.5 else part


def _encode(tokenizer: Any, texts: Sequence[dict[str, str]], system: str) -> tuple[Tensor, Tensor]:
    """``ids`` and ``labels`` of :class:`_Seen`."""
    rows, learnt = [], []
    for attribute in ATTRIBUTES:
        asked = chat_prompt(attribute_question(attribute), system).after
        said = [text[attribute.name] + IM_END for text in texts]
        question, *answers = tokenizer([asked, *said], add_special_tokens=False).input_ids
        rows += [torch.tensor(question + answer) for answer in answers]
        learnt += [torch.tensor([IGNORED] * len(question) + answer) for answer in answers]
    ids, labels = (
        nn.utils.rnn.pad_sequence(some, batch_first=True, padding_value=padding)
        .unflatten(0, (len(ATTRIBUTES), len(texts)))
        .transpose(0, 1)
        for some, padding in ((rows, 0), (learnt, IGNORED))
    )
    return ids, labels


def _text_loss(
    graph: ScoringGraph, cache: Sequence[KeyValue], ids: Tensor, labels: Tensor
) -> Tensor:
    """Mean cross-entropy over the answers' tokens.

    Args:
        cache: of B images.
        ids, labels: (B, questions, T).
    """
    past = [
        (keys.repeat_interleave(ids.shape[1], 0), values.repeat_interleave(ids.shape[1], 0))
        for keys, values in cache
    ]
    ids, wanted = ids.flatten(0, 1)[:, :-1], labels.flatten(0, 1)[:, 1:]
    start, length = past[0][0].shape[2], ids.shape[1]
    hidden = run_blocks(
        graph.decoder.layers,
        graph.shape,
        graph.decoder.embed_tokens(ids),
        past,
        graph.shape.rope(torch.arange(start, start + length, device=ids.device)),
        causal_mask(start, length, ids.device),
    )
    answers = wanted != IGNORED
    logits = graph.lm_head(graph.decoder.norm(hidden[answers]))
    return F.cross_entropy(logits.float(), wanted[answers])
