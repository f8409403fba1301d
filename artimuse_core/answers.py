"""How a model's answer to the score question is spelled, in token ids."""

from __future__ import annotations

from typing import Any

from .prompts import IM_END
from .score_tokens import ScoreTokens


def answer_ids(tokens: ScoreTokens, tokenizer: Any) -> list[list[int]]:
    """The answers by ascending score: one id each, or several with the end of the turn.

    The end belongs to answers in words: without it, "1" would be at least as likely as "10".
    Raises ModelError where a single token is not in the vocabulary.
    """
    if tokens.single_token:
        return [[token] for token in tokens.ids(tokenizer.get_vocab())]
    end = tokenizer.convert_tokens_to_ids(IM_END)
    return [[*tokenizer(text, add_special_tokens=False).input_ids, end] for text in tokens.tokens]
