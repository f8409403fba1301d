"""Token As Score (paper Sec. 4.3, App. C): scores as tokens, and scores read back from logits.

A :class:`ScoreTokens` is an ordered mapping token ↔ value in [0, 100]. The model answers with one
token; the score is the expectation of the values under the softmax over *these* tokens alone:

    S = Σ_i v_i · exp(l_i) / Σ_j exp(l_j)

All strategies that App. C compares are here as data; ``ORDERED_100`` (Table 9) is ArtiMuse's own.
The paper calls a set of n + 1 tokens for the values 0, 100/n, …, 100 "n tokens" (Table 9 lists 101
for "100"); for its 25 and 50 existing tokens it prints one letter too few to reach 100, so the next
letter of the row is added here: ``a…y`` becomes ``a…z``, and ``a…y A…Y`` becomes ``a…y A…Y Z``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase

import numpy as np
import numpy.typing as npt

from .errors import ModelError, UsageError


@dataclass(frozen=True, slots=True)
class Readout:
    """A batch of score distributions."""

    score: npt.NDArray[np.float32]
    """(B,) expectation, 0..100."""
    std: npt.NDArray[np.float32]
    """(B,) standard deviation in score points."""
    probs: npt.NDArray[np.float32]
    """(B, K) softmax over the K score tokens."""


@dataclass(frozen=True)
class ScoreTokens:
    """An ordered set of tokens, each standing for a score."""

    name: str
    """Key in ``STRATEGIES``."""
    tokens: tuple[str, ...]
    """Token texts by ascending score; unique."""
    values: tuple[float, ...]
    """Score of each token, strictly ascending, within [0, 100]."""
    paper: str = ""
    """Where in the paper this strategy stands."""
    single_token: bool = True
    """Whether each text is one vocabulary entry; else ``readout`` takes their log-likelihoods
    (:mod:`.answers`)."""

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.values) or len(self.tokens) < 2:
            raise UsageError(
                f"score tokens {self.name!r}: expected as many values as tokens and at least two, "
                f"got {len(self.tokens)} tokens and {len(self.values)} values"
            )
        if len(set(self.tokens)) != len(self.tokens):
            raise UsageError(f"score tokens {self.name!r}: a token stands twice")
        if any(b <= a for a, b in zip(self.values, self.values[1:], strict=False)):
            raise UsageError(f"score tokens {self.name!r}: values must ascend strictly")
        if self.values[0] < 0 or self.values[-1] > 100:
            raise UsageError(f"score tokens {self.name!r}: values must lie in 0..100")

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, score: float) -> str:
        """The token nearest to ``score`` (0..100); halfway goes to the lower, as in Eq. 1."""
        if not 0 <= score <= 100:  # also catches NaN
            raise UsageError(f"expected a score in 0..100, got {score}; normalise it first")
        distances = [abs(value - score) for value in self.values]
        return self.tokens[distances.index(min(distances))]

    def decode(self, token: str) -> float:
        """The score ``token`` stands for."""
        try:
            return self.values[self.tokens.index(token)]
        except ValueError:
            first, last = self.tokens[0], self.tokens[-1]
            raise UsageError(
                f"{token!r} is no score token of {self.name!r} ({first!r} … {last!r})"
            ) from None

    def ids(self, vocabulary: Mapping[str, int]) -> tuple[int, ...]:
        """Vocabulary ids by ascending score; they need not ascend themselves.

        Raises ModelError naming the tokens that ``vocabulary`` does not hold as single entries.
        """
        missing = [token for token in self.tokens if token not in vocabulary]
        if missing:
            raise ModelError(
                f"the tokenizer lacks {len(missing)} of the {len(self)} score tokens of "
                f"{self.name!r} (first: {missing[0]!r}); this is no checkpoint trained with them"
            )
        return tuple(vocabulary[token] for token in self.tokens)

    def readout(self, score_logits: npt.ArrayLike) -> Readout:
        """Softmax, expectation and spread in fp32.

        ``score_logits``: (B, K) or (K,), any float dtype, columns in the order of ``tokens``.
        Raises ModelError if a row holds NaN or +inf, or nothing but -inf.
        """
        logits = np.atleast_2d(np.asarray(score_logits)).astype(np.float32)
        if logits.ndim != 2 or logits.shape[1] != len(self):
            raise UsageError(
                f"expected score_logits (B, {len(self)}), got {np.shape(score_logits)}"
            )
        peak = logits.max(axis=1, keepdims=True)
        if not np.isfinite(peak).all():
            raise ModelError("the model answered with logits that are not finite; try fp32")
        weights = np.exp(logits - peak)  # at most 1: no overflow whatever the logits' size
        probs = weights / weights.sum(axis=1, keepdims=True)
        values = np.asarray(self.values, np.float32)
        score = probs @ values
        # E[(v - S)²], not E[v²] - S²: the latter cancels to noise when the spread is small.
        variance = (probs * (values - score[:, None]) ** 2).sum(axis=1)
        return Readout(score=score, std=np.sqrt(variance), probs=probs)


def _evenly(name: str, tokens: Sequence[str], paper: str, **kwargs: bool) -> ScoreTokens:
    """Tokens spaced evenly over 0..100, both ends included."""
    last = len(tokens) - 1
    values = tuple(100 * i / last for i in range(last + 1))
    return ScoreTokens(name, tuple(tokens), values, paper, **kwargs)


def expanding(n: int) -> ScoreTokens:
    """New vocabulary entries ``[AES_SCORE_TOKEN_0]`` … ``[AES_SCORE_TOKEN_n]`` (App. C.2)."""
    if n < 1:
        raise UsageError(f"expected at least 1 expanding token, got {n}")
    tokens = [f"[AES_SCORE_TOKEN_{i}]" for i in range(n + 1)]
    return _evenly(f"expanding-{n}", tokens, "App. C.2, Table 10 (b)-(f)")


def _byte_level_characters() -> list[str]:
    """The 101 characters of Table 8: Qwen2.5's vocabulary entries 15 to 115.

    Byte-level BPE numbers the printable bytes of Latin-1 first, skipping the space, the control
    characters and the soft hyphen; entry 0 is ``!`` and entry 15 is ``0``.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(code) for code in printable[15:116]]


ORDERED_100 = _evenly(
    "ordered-100",
    [
        *("a" + c for c in ascii_lowercase),  # 0..25
        *("c" + c for c in ascii_lowercase[:25]),  # 26..50
        *("d" + c for c in ascii_lowercase[:25]),  # 51..75
        *("e" + c for c in ascii_lowercase[:25]),  # 76..100
    ],
    "Table 9, Table 10 (j)",
)
NON_ORDERED_100 = _evenly("non-ordered-100", _byte_level_characters(), "Table 8, Table 10 (i)")
EXISTING_50 = _evenly(
    "existing-50",
    [*ascii_lowercase[:25], *ascii_uppercase],
    "App. C.3, Table 10 (h)",
)
EXISTING_25 = _evenly("existing-25", list(ascii_lowercase), "App. C.3, Table 10 (g)")
# Eq. 1 cuts 0..100 into five equal intervals, open below and closed above. With each level standing
# for its interval's centre, "nearest, halfway to the lower" is exactly that cut.
FIVE_LEVELS = ScoreTokens(
    "five-levels",
    ("bad", "poor", "fair", "good", "excellent"),
    (10.0, 30.0, 50.0, 70.0, 90.0),
    "App. C.1 Eq. 1-2, Table 10 (a)",
    single_token=False,  # Qwen2.5's vocabulary holds "bad", "fair" and "good" alone
)
# The number is spelled out, over several tokens; `readout` weighs whole answers.
SCORE_AS_TEXT = _evenly(
    "score-as-text", [str(i) for i in range(101)], "Sec. 4.3, Table 4 (f)", single_token=False
)

STRATEGIES: dict[str, ScoreTokens] = {
    strategy.name: strategy
    for strategy in (
        ORDERED_100,
        NON_ORDERED_100,
        EXISTING_50,
        EXISTING_25,
        *(expanding(n) for n in (25, 50, 100, 250, 500)),
        FIVE_LEVELS,
        SCORE_AS_TEXT,
    )
}


def strategy(name: str) -> ScoreTokens:
    """Look up a strategy of App. C by name; ``expanding-N`` is made for any N."""
    if name in STRATEGIES:
        return STRATEGIES[name]
    kind, _, count = name.partition("-")
    if kind == "expanding" and count.isdecimal():
        return expanding(int(count))
    raise UsageError(f"unknown score tokens {name!r}; known: {', '.join(STRATEGIES)}")
