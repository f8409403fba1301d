"""nano's text stage (paper Sec. 4.3): short critiques learnt from descriptions of the pixels.

The tower stays as it is, so pictures pass through it once and a step costs little; that is why this
is not the text stage of ``stages.py``. Projector and language model learn to write, for what is
worth saying is not what the score needed to know, and the answers to the score question are held
where they were by the divergence from what they were. What is asked about a picture in one step
shares its image tokens, which pass through the language model once, as when the model is used. To
see symmetry takes help of its own, see :mod:`.symmetry`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..artimuse_core.attributes import ATTRIBUTES, attribute
from ..artimuse_core.decoder import KeyValue, causal_mask, run_blocks
from ..artimuse_core.model import ScoringGraph
from ..artimuse_core.prompts import IM_END, attribute_question, chat_prompt
from ..artimuse_core.score_tokens import ORDERED_100
from . import augment
from .descent import Descent, RunningMeans, behind_the_tower, course, weigh
from .descriptions import describe, facts
from .half_products import fast_products
from .losses import IGNORED
from .score_batches import Pool, cut_out
from .score_terms import expected_score
from .symmetry import fold, mirror_loss
from .vision import see

_log = logging.getLogger(__name__)

_COMPOSITION = ATTRIBUTES.index(attribute("composition_design"))


@dataclass(frozen=True)
class TextRecipe:
    """How long and how fast."""

    steps: int = 3000
    pictures: int = 48
    """A step."""
    asked: int = 4
    """Attributes that each is asked for, of the eight: composition always, the others in turn."""
    learning_rate: float = 1e-3
    """Peak; a tenth of the steps warm-up, then a cosine to nothing."""
    matrix_rate: float = 0.01
    """The same of the matrices inside, see :class:`.descent.Descent`."""
    keep_score: float = 20.0
    """Weight of the divergence from the answers before."""
    symmetry: float = 1.0
    """Weight of the square error of the symmetry itself, in variances."""
    mirror: float = 0.3
    """Weight of :func:`.symmetry.mirror_loss`."""
    versions: int = 12
    """Of each picture: as it is, then moved or a part of it, mirrored or not; every other version
    spoiled, every third folded before, see :func:`.symmetry.fold`."""
    least: float = 0.6
    """Of its sides, in such a part; half of the batches are of wholes."""
    shift: int = 13
    """Pixels by which a version may reach over the edge."""
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
    symmetry: Tensor
    """(N,) of the pictures, mean 0 and variance 1."""


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
    weights, matrices = behind_the_tower(graph)
    told = nn.Linear(graph.lm_head.in_features, 1, device=device)
    nn.init.zeros_(told.weight)
    descent = Descent(
        [*weights, *told.parameters()],
        matrices,
        learning_rate=recipe.learning_rate,
        matrix_rate=recipe.matrix_rate,
        weight_decay=0.0,
    )
    means, texts = RunningMeans(), []
    for step in range(recipe.steps):
        rows = torch.randint(len(seen.tokens), (recipe.pictures,), device=device)
        turn = torch.rand(recipe.pictures, len(ATTRIBUTES), device=device)
        turn[:, _COMPOSITION] = -1
        asked = turn.argsort(dim=1)[:, : recipe.asked]
        with fast_products(device):
            image = graph.projector(seen.tokens[rows].float())
            cache = graph.prefill_tokens(image)
            kept = F.kl_div(
                F.log_softmax(graph.score_from(cache), 1),
                F.log_softmax(seen.score_logits[rows], 1),
                log_target=True, reduction="batchmean",
            )  # fmt: skip
            ids, labels = (part[rows[:, None], asked] for part in (seen.ids, seen.labels))
            answers = labels[..., 1:] != IGNORED  # where they are to be told from
            hidden = graph.decoder.norm(_read(graph, cache, ids[..., :-1])[answers])
            composition = answers.clone()
            composition[:, 1:] = False
            symmetry = seen.symmetry[rows, None, None].expand(answers.shape)[composition]
            losses = {
                "text": F.cross_entropy(graph.lm_head(hidden).float(), labels[..., 1:][answers]),
                "keep_score": kept,
                "symmetry": F.mse_loss(told(hidden[composition[answers]])[:, 0].float(), symmetry),
                "mirror": mirror_loss(graph, image, cache[0][0]),
            }
        descent.step(weigh(losses, recipe, "text"), course(step, recipe.steps))
        means.follow(losses)
        texts.append(float(losses["text"].detach()))
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
    values = torch.tensor(ORDERED_100.values, device=device)
    tokens, logits, symmetry, texts = [], [], [], []
    for version in range(recipe.versions):
        for rows in torch.randperm(len(pool.images)).split(32):
            images = _cut(pool.images, rows, recipe) if version else pool.images[rows] / 255
            if version % 3 == 2:
                images = fold(images)
            if version % 2:
                kind = 1 + int(torch.randint(len(augment.FAULTS), ()))
                images = augment.spoil(kind, images, torch.rand(len(images), device=device))
            tokens.append(see(graph, images).half())
            logits.append(graph.read(graph.projector(tokens[-1].float())))
            scores = expected_score(logits[-1], values).tolist()
            measured = facts(images.cpu())
            symmetry += [f.symmetry for f in measured]
            texts += [describe(f, s) for f, s in zip(measured, scores, strict=True)]
    ids, labels = (part.to(device) for part in _encode(tokenizer, texts, system))
    target = torch.tensor(symmetry, device=device)
    target = (target - target.mean()) / target.std()
    return _Seen(torch.cat(tokens), torch.cat(logits), ids, labels, target)


def _cut(images: Tensor, rows: Tensor, recipe: TextRecipe) -> Tensor:
    """Wholes or squares out of them, (b, 3, h, h) in 0..1; moved, half of them mirrored."""
    side = images.shape[-1]
    if float(torch.rand(())) < 0.5:
        side = round(side * float(torch.empty(()).uniform_(recipe.least, 1)))
    cut = cut_out(images, rows, (side, side), slack=recipe.shift)
    augment.flip_some(cut)
    return cut


def _encode(tokenizer: Any, texts: Sequence[dict[str, str]], system: str) -> tuple[Tensor, Tensor]:
    """``ids`` and ``labels`` of :class:`_Seen`."""
    rows, learnt = [], []
    for about in ATTRIBUTES:
        asked = chat_prompt(attribute_question(about), system).after
        said = [text[about.name] + IM_END for text in texts]
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


def _read(graph: ScoringGraph, cache: Sequence[KeyValue], ids: Tensor) -> Tensor:
    """(B, questions, T, LLM width), not normed, of ``ids (B, questions, T)`` behind B images."""
    past = [
        (keys.repeat_interleave(ids.shape[1], 0), values.repeat_interleave(ids.shape[1], 0))
        for keys, values in cache
    ]
    start, length = past[0][0].shape[2], ids.shape[2]
    return run_blocks(
        graph.decoder.layers,
        graph.shape,
        graph.decoder.embed_tokens(ids.flatten(0, 1)),
        past,
        graph.shape.rope(torch.arange(start, start + length, device=ids.device)),
        causal_mask(start, length, ids.device),
    ).unflatten(0, ids.shape[:2])
