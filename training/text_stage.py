"""nano's text stage (paper Sec. 4.3): short critiques learnt from descriptions of the pixels.

The tower and the projector stay as they are, so image tokens are computed once and a step costs
little; that is why this is not the text stage of ``stages.py``. The language model learns to write,
and its answers to the score question are held where they were by the divergence from what they
were.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..artimuse_core.attributes import ATTRIBUTES
from ..artimuse_core.model import ScoringGraph
from ..artimuse_core.prompts import IM_END, attribute_question, chat_prompt
from ..artimuse_core.score_tokens import ORDERED_100
from . import augment
from .descriptions import describe, facts
from .losses import IGNORED
from .score_batches import Pool
from .score_terms import expected_score
from .vision import Normalise

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextRecipe:
    """How long and how fast."""

    steps: int = 1000
    batch: int = 48
    """Pictures a step, each asked for one attribute."""
    learning_rate: float = 1e-3
    keep_score: float = 5.0
    """Weight of the divergence from the answers before."""
    versions: int = 2
    """Versions of each picture: as it is, and spoiled."""
    seed: int = 0


@dataclass
class _Seen:
    """Image tokens of many pictures, and what is to be said of them."""

    tokens: Tensor
    """(N, image tokens, LLM width)."""
    score_logits: Tensor
    """(N, K) before."""
    texts: list[dict[str, str]]


def train_text(
    graph: ScoringGraph, tokenizer: Any, pool: Pool, recipe: TextRecipe, system: str
) -> dict[str, float]:
    """Teach ``graph``'s language model to describe; returns the mean text loss, first and last.

    The losses are in nats a token, over the first and the last tenth of the steps.
    """
    torch.manual_seed(recipe.seed)
    seen = _look(graph, pool, recipe.versions)
    graph.requires_grad_(False)
    trained = [*graph.decoder.parameters(), *graph.lm_head.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    graph.train()
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, betas=(0.9, 0.98))
    questions = [_encode_question(tokenizer, attribute, system) for attribute in ATTRIBUTES]
    losses = []
    for step in range(recipe.steps):
        done = step / recipe.steps
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, (step + 1) / 50, 2 * (1 - done))
        rows = torch.randint(len(seen.texts), (recipe.batch,))
        asked = torch.randint(len(ATTRIBUTES), (recipe.batch,)).tolist()
        answers = [
            tokenizer.encode(seen.texts[row][ATTRIBUTES[a].name] + IM_END, add_special_tokens=False)
            for row, a in zip(rows.tolist(), asked, strict=True)
        ]
        text = _text_loss(graph, seen.tokens[rows], [questions[a] for a in asked], answers)
        kept = F.kl_div(
            F.log_softmax(graph.read(seen.tokens[rows]), 1),
            F.log_softmax(seen.score_logits[rows], 1),
            log_target=True, reduction="batchmean",
        )  # fmt: skip
        optimizer.zero_grad(set_to_none=True)
        (text + recipe.keep_score * kept).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(float(text.detach()))
        if (step + 1) % 250 == 0:
            _log.info(
                "text step %d: text %.3f kept %.4f", step + 1, losses[-1], float(kept.detach())
            )
    graph.eval()
    tenth = max(1, recipe.steps // 10)
    first, last = losses[:tenth], losses[-tenth:]
    return {"first": sum(first) / len(first), "last": sum(last) / len(last)}


@torch.no_grad()
def _look(graph: ScoringGraph, pool: Pool, versions: int, batch: int = 32) -> _Seen:
    """Every picture as it is and spoiled, through the finished tower."""
    graph.eval()
    normalise = Normalise().to(pool.images.device)
    values = torch.tensor(ORDERED_100.values, device=pool.images.device)
    tokens, logits, texts = [], [], []
    for version in range(versions):
        for start in range(0, len(pool.images), batch):
            images = pool.images[start : start + batch].float() / 255
            if version:
                kind = int(torch.randint(len(augment.DISTORTIONS), ()))
                images = augment.spoil(kind, images, torch.rand(len(images), device=images.device))
            pixels = augment.resize(images, graph.input_size)
            embedded = graph.image_embeddings(normalise(pixels))
            answer = graph.read(embedded)
            scores = expected_score(answer, values)
            tokens.append(embedded)
            logits.append(answer)
            texts += [
                describe(f, s) for f, s in zip(facts(images.cpu()), scores.tolist(), strict=True)
            ]
    return _Seen(torch.cat(tokens), torch.cat(logits), texts)


def _encode_question(tokenizer: Any, attribute: Any, system: str) -> list[int]:
    prompt = chat_prompt(attribute_question(attribute), system)
    ids: list[int] = tokenizer.encode(prompt.after, add_special_tokens=False)
    return ids


def _text_loss(
    graph: ScoringGraph, image: Tensor, questions: list[list[int]], answers: list[list[int]]
) -> Tensor:
    """Mean cross-entropy over the tokens of the answers, each after its question."""
    texts = [question + answer for question, answer in zip(questions, answers, strict=True)]
    length = max(map(len, texts))
    ids = torch.tensor([text + [0] * (length - len(text)) for text in texts], device=image.device)
    labels = torch.full_like(ids, IGNORED)
    for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        labels[row, len(question) : len(question) + len(answer)] = torch.tensor(answer)
    embed = graph.decoder.embed_tokens
    before = embed(graph.before_ids).expand(len(ids), -1, -1)
    hidden = graph.decoder(
        inputs_embeds=torch.cat([before, image, embed(ids)], dim=1), use_cache=False
    ).last_hidden_state
    predicting = hidden[:, before.shape[1] + image.shape[1] - 1 : -1]  # of each token of ``ids``
    wanted = labels != IGNORED
    return F.cross_entropy(graph.lm_head(predicting[wanted]).float(), labels[wanted])
