import json
import math

import numpy as np
import pytest

from artimuse.artimuse_core.errors import ModelError, UsageError
from artimuse.artimuse_core.score_tokens import (
    EXISTING_25,
    EXISTING_50,
    FIVE_LEVELS,
    NON_ORDERED_100,
    ORDERED_100,
    SCORE_AS_TEXT,
    STRATEGIES,
    ScoreTokens,
    strategy,
)

# Paper, Table 9, row by row.
TABLE_9 = """
aa ab ac ad ae af ag ah ai aj ak al am an ao ap aq ar as at
au av aw ax ay az ca cb cc cd ce cf cg ch ci cj ck cl cm cn
co cp cq cr cs ct cu cv cw cx cy da db dc dd de df dg dh di
dj dk dl dm dn do dp dq dr ds dt du dv dw dx dy ea eb ec ed
ee ef eg eh ei ej ek el em en eo ep eq er es et eu ev ew ex ey
""".split()
# Paper, Table 8, row by row.
TABLE_8 = """
0 1 2 3 4 5 6 7 8 9 : ; < = > ? @ A B C
D E F G H I J K L M N O P Q R S T U V W
X Y Z [ \\ ] ^ _ ` a b c d e f g h i j k
l m n o p q r s t u v w x y z { | } ~ ¡
¢ £ ¤ ¥ ¦ § ¨ © ª « ¬ ® ¯ ° ± ² ³ ´ µ ¶ ·
""".split()


def test_ordered_tokens_are_table_9() -> None:
    assert list(ORDERED_100.tokens) == TABLE_9
    assert list(ORDERED_100.values) == list(range(101))


def test_non_ordered_tokens_are_table_8() -> None:
    assert list(NON_ORDERED_100.tokens) == TABLE_8
    assert list(NON_ORDERED_100.values) == list(range(101))


def test_ids_are_those_of_the_real_tokenizer(shared_data) -> None:
    vocabulary = json.loads((shared_data / "internvl3-8b/vocab.json").read_text("utf-8"))
    wanted = json.loads((shared_data / "internvl3-8b/score_token_ids.json").read_text())
    assert dict(zip(ORDERED_100.tokens, ORDERED_100.ids(vocabulary), strict=True)) == wanted
    assert NON_ORDERED_100.ids(vocabulary) == tuple(range(15, 116))  # Table 8, "Token ID"


def test_score_tokens_encode_to_one_id_under_the_real_tokenizer(shared_data) -> None:
    from artimuse.artimuse_core.checkpoint import load_tokenizer

    tokenizer = load_tokenizer(shared_data / "internvl3-8b")
    wanted = json.loads((shared_data / "internvl3-8b/score_token_ids.json").read_text())
    for token, token_id in wanted.items():
        assert tokenizer(token, add_special_tokens=False).input_ids == [token_id]


@pytest.mark.parametrize("tokens", STRATEGIES.values(), ids=STRATEGIES)
def test_every_strategy_spans_its_range_and_round_trips(tokens: ScoreTokens) -> None:
    low, high = (10, 90) if tokens is FIVE_LEVELS else (0, 100)
    assert (tokens.values[0], tokens.values[-1]) == (low, high)
    for token, value in zip(tokens.tokens, tokens.values, strict=True):
        assert tokens.encode(value) == token
        assert tokens.decode(token) == value


def test_steps_are_those_of_the_paper() -> None:
    assert EXISTING_25.values[:3] == (0, 4, 8)
    assert EXISTING_25.tokens[:25] == tuple("abcdefghijklmnopqrstuvwxy")
    assert EXISTING_50.values[:3] == (0, 2, 4)
    assert EXISTING_50.decode("A") == 50
    assert strategy("expanding-25").tokens[:2] == ("[AES_SCORE_TOKEN_0]", "[AES_SCORE_TOKEN_1]")
    assert strategy("expanding-25").tokens[-1] == "[AES_SCORE_TOKEN_25]"
    assert strategy("expanding-40").values[1] == 2.5


@pytest.mark.parametrize(
    ("score", "level"),
    [(0, "bad"), (20, "bad"), (20.01, "poor"), (40, "poor"), (60, "fair"), (80, "good"),
     (80.01, "excellent"), (100, "excellent")],
)  # fmt: skip
def test_levels_are_cut_as_in_equation_1(score: float, level: str) -> None:
    assert FIVE_LEVELS.encode(score) == level


def test_score_goes_to_the_nearest_token() -> None:
    assert ORDERED_100.encode(71.4) == ORDERED_100.tokens[71]
    assert ORDERED_100.encode(71.6) == ORDERED_100.tokens[72]
    assert EXISTING_25.encode(5.9) == "b"
    assert SCORE_AS_TEXT.encode(86.2) == "86"


@pytest.mark.parametrize("score", [-1, 100.5, math.nan])
def test_scores_outside_the_range_are_refused(score: float) -> None:
    with pytest.raises(UsageError, match=r"0\.\.100"):
        ORDERED_100.encode(score)


def test_readout_is_the_expectation_over_the_tokens() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (5, 101))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    mean = probs @ np.arange(101)
    std = np.sqrt((probs * (np.arange(101) - mean[:, None]) ** 2).sum(1))
    read = ORDERED_100.readout(logits)
    np.testing.assert_allclose(read.score, mean, rtol=1e-5)
    np.testing.assert_allclose(read.std, std, rtol=1e-4)
    assert read.score.dtype == read.std.dtype == read.probs.dtype == np.float32


def test_readout_is_stable_for_huge_logits() -> None:
    logits = np.full((1, 101), -1e30, np.float32)
    logits[0, 40] = logits[0, 60] = 3e4
    read = ORDERED_100.readout(logits)
    assert read.score[0] == pytest.approx(50)
    assert read.std[0] == pytest.approx(10)


def test_readout_of_a_certain_model_has_no_spread() -> None:
    logits = np.full(101, -np.inf)
    logits[99] = 0
    read = ORDERED_100.readout(logits)
    assert (read.score[0], read.std[0]) == (99, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_readout_refuses_rows_without_an_answer(bad: float) -> None:
    with pytest.raises(ModelError, match="not finite"):
        ORDERED_100.readout(np.full((1, 101), bad))


def test_readout_refuses_logits_of_other_tokens() -> None:
    with pytest.raises(UsageError, match=r"\(B, 101\)"):
        ORDERED_100.readout(np.zeros((2, 100)))


def test_missing_tokens_are_named() -> None:
    with pytest.raises(ModelError, match=r"lacks 100 of the 101 .* 'ab'"):
        ORDERED_100.ids({"aa": 0})


def test_unknown_strategy_lists_the_known() -> None:
    with pytest.raises(UsageError, match="ordered-100"):
        strategy("letters")
