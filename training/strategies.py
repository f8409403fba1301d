"""Token strategies (paper App. C) in training: how to ask, and how to make room for new tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..artimuse_core import checkpoint
from ..artimuse_core.score_tokens import FIVE_LEVELS, SCORE_AS_TEXT, ScoreTokens


def question(tokens: ScoreTokens, config: Mapping[str, Any]) -> str:
    """The score question for ``tokens``: the base's own if it answers in these tokens already.

    The paper prints none but the one for ``ordered-100``; the others are ours.
    """
    if tokens == checkpoint.score_tokens(config):
        return checkpoint.score_question(config)
    if tokens == FIVE_LEVELS:
        return f"Rate the aesthetics of the image. Answer with one of: {', '.join(tokens.tokens)}."
    ask = "Rate the aesthetics score of the image in 0-100."
    if tokens == SCORE_AS_TEXT:
        return f"{ask} Answer with an integer only."
    marks = [round(i * (len(tokens) - 1) / 4) for i in range(5)]
    mapping = ", ".join(f"{tokens.values[i]:g}-{_shown(tokens.tokens[i])}" for i in marks)
    return f"{ask} Answer with one of {len(tokens)} tokens: {mapping}."


def _shown(token: str) -> str:
    return f"'{token}'" if token in ",.-" else token


def expand_vocabulary(model: Any, tokenizer: Any, tokens: ScoreTokens) -> list[str]:
    """Add the strategy's new tokens (App. C.2); names of the tensors that grew.

    New rows start at the mean of the old ones with a little noise, as transformers does by
    default; nothing is done for strategies of existing tokens.
    """
    if not tokens.name.startswith("expanding-"):
        return []
    added = tokenizer.add_tokens([t for t in tokens.tokens if t not in tokenizer.get_vocab()])
    if added:
        rows = model.lm_head.weight.shape[0]
        wanted = max(rows, len(tokenizer))
        for module, name in (
            (model.model.language_model.embed_tokens, "num_embeddings"),
            (model.lm_head, "out_features"),
        ):
            old = module.weight.data
            mean, spread = old.float().mean(0), old.float().std(0)
            new = mean + 0.02 * spread * torch.randn(wanted - rows, old.shape[1])
            module.weight = torch.nn.Parameter(torch.cat([old, new.to(old.dtype)]))
            setattr(module, name, wanted)
        model.config.text_config.vocab_size = wanted
    return ["model.language_model.embed_tokens.weight", "lm_head.weight"]
