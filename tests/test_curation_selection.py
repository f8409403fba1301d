import math
from statistics import fmean

import pytest

from artimuse.artimuse_core.errors import UsageError
from artimuse.curation.conditions import Condition
from artimuse.curation.decide import Wishes, parse_where, rank_records
from artimuse.curation.groups import NONE, Per
from artimuse.curation.metadata import GenerationInfo
from artimuse.curation.records import Record
from artimuse.curation.selection import (
    Rules,
    Top,
    choose,
    lower_bounds,
    parse_buckets,
    rank,
    sort_into,
    standings,
)


def kept(scores, rules: Rules, **options) -> list[int]:
    return choose(scores, rank(scores, [str(i) for i in range(len(scores))]), rules, **options).kept


def test_an_image_must_pass_all_rules() -> None:
    scores = [90, 80, 70, 60]
    assert kept(scores, Rules()) == [0, 1, 2, 3]
    assert kept(scores, Rules(top=Top.parse("3"), min_score=75)) == [0, 1]
    assert kept(scores, Rules(top=Top.parse("1"), min_score=60)) == [0]
    assert kept(scores, Rules(min_score=95)) == []
    assert kept(scores, Rules(min_score=70, max_score=80)) == [1, 2]


def test_top_is_filled_from_what_the_other_rules_left() -> None:
    scores = [90, 80, 70, 60]
    assert kept(scores, Rules(top=Top.parse("2"), max_score=85)) == [1, 2]
    assert kept(scores, Rules(top=Top.parse("50%")), dropped={0: "copy"}) == [1, 2]


def test_best_of_each_group() -> None:
    scores = [90, 80, 70, 60, 50]
    rules = Rules(best_per_group=1)
    assert kept(scores, rules, groups=list("aabbc")) == [0, 2, 4]
    assert kept(scores, Rules(best_per_group=2), groups=list("aaabb")) == [0, 1, 3, 4]
    # A dropped image does not use up its group's place.
    assert kept(scores, rules, groups=list("aabbc"), dropped={0: "copy"}) == [1, 2, 4]


def test_every_refusal_has_its_reason() -> None:
    scores = [90.0, 80.0, 70.0, 60.0]
    rules = Rules(top=Top.parse("1"), max_score=85, best_per_group=1)
    choice = choose(scores, [0, 1, 2, 3], rules, groups=list("aabb"), dropped={3: "copy"})
    reasons = [choice.verdicts[i].reason for i in range(4)]
    assert reasons == ["above the maximum score of 85", "kept", "below the top 1", "copy"]


def test_lower_bound_prefers_the_surer_image() -> None:
    assert rank(lower_bounds([70, 68], [10, 2]), ["a", "b"]) == [1, 0]


def test_an_easy_prompt_cannot_sweep_the_top() -> None:
    easy = [80, 82, 84, 86, 88, 90] * 5
    hard = [30, 32, 34, 36, 38, 40] * 5
    groups = ["easy"] * 30 + ["hard"] * 30
    ranking = rank(standings(easy + hard, groups), [f"{i:02}" for i in range(60)])
    best = ranking[:10]
    assert sum(index < 30 for index in best) == 5
    assert {(easy + hard)[index] for index in best} == {90, 40}


def test_small_groups_are_drawn_toward_the_whole() -> None:
    values = [50, 40, 60, 45, 55, 90]
    groups = ["a"] * 5 + ["alone"]
    fair = standings(values, groups)
    assert 50 < fair[5] < 100  # its own group's mean alone would put it at exactly 50
    assert fair[0] == pytest.approx(50, abs=10)
    assert standings([70.0], ["a"]) == [50]
    assert math.isnan(standings([70.0, math.nan], ["a", "b"])[1])


def test_large_groups_speak_for_themselves() -> None:
    low = [10 + i % 10 for i in range(1000)]
    high = [80 + i % 10 for i in range(1000)]
    fair = standings(low + high, ["low"] * 1000 + ["high"] * 1000)
    assert fmean(fair[:1000]) == pytest.approx(fmean(fair[1000:]), abs=1)


@pytest.mark.parametrize(
    ("text", "scores", "names"),
    [
        ("great,rest", [4, 3, 2, 1], "great great rest rest"),
        ("great:3,good:2,rest", [4, 3, 2, 1], "great great good rest"),
        ("great:25%,good:50%,rest", [4, 3, 2, 1], "great good good rest"),
        ("a,b,c", [3, 2, 1], "a b c"),
    ],
)
def test_buckets(text: str, scores: list[float], names: str) -> None:
    places = sort_into(parse_buckets(text), scores, range(len(scores)))
    assert " ".join(places[i] for i in range(len(scores))) == names


@pytest.mark.parametrize(
    "text",
    ["one", "a,a", "a:1,b:2,c", "a:10%,b:5,c", "a:1,b:2", "a:60%,b:60%,c", "../a,b", "a:x,b",
     "a:101,b"],
)  # fmt: skip
def test_buckets_refuse_nonsense(text: str) -> None:
    with pytest.raises(UsageError, match="--buckets"):
        parse_buckets(text)


NAMES = {"score": 50.0, "std": 5.0, "width": 1024, "prompt": "a cat", "seed": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("score >= 70 and std < 8 and width >= 1024", True),
        ("score >= 70 and std < 6", False),
        ("not score < 70 or width == 1", True),
        ("60 < score <= 75", True),
        ("'Cat' in prompt", True),
        ("'cat' in prompt", False),
        ("'cat' in lower(prompt)", True),
        ("width in (512, 1024)", True),
        ("width not in [512]", True),
        ("score - std > 60 and width / 2 == 512", True),
        ("len(prompt) > 3", True),
        ("seed is None", True),
        ("seed is not None", False),
        # What an image does not have makes a comparison unknown, and unknown is not kept.
        ("seed > 3", False),
        ("not seed > 3", False),
        ("seed > 3 or score > 70", True),
        ("seed > 3 and score > 70", False),
        ("score / (width - 1024) > 1", False),
    ],
)
def test_where(text: str, expected: bool) -> None:
    values = {"score": 71.5, "std": 7.0, "width": 1024, "prompt": "A Cat", "seed": None}
    assert Condition.parse(text, NAMES).holds(values) is expected


@pytest.mark.parametrize(
    "text",
    [
        "", "score >", "scroe > 3", "__import__('os').system('true')", "prompt.upper() == 'A'",
        "(lambda: 1)() == 1", "[x for x in prompt]", "score", "score > 'a'", "prompt > 3",
        "prompt == 3", "'a' * 9 == prompt", "2 ** 9 > score", "score is 3", "lower(score) == 1",
        "prompt[0] == 'a'", "open('x') == 1", "score := 3", "f'{score}' == '1'",
        "score > 1 and prompt > 2", "score > " + "(" * 300 + "1" + ")" * 300, "1" * 3000 + " > 1",
    ],
)  # fmt: skip
def test_where_refuses_everything_else(text: str) -> None:
    with pytest.raises(UsageError, match="--where"):
        Condition.parse(text, NAMES)


def record(path: str, score: float, **fields) -> Record:
    return Record(path, score, 1.0, "m", info=GenerationInfo(**fields))


def test_where_knows_every_field_of_a_record() -> None:
    text = "name == 'a.png' and folder == 'x' and cfg < 5 and 'lora' in loras"
    condition = parse_where(text)
    records = [record("x/a.png", 5, cfg=4.5, loras="lora.pt"), record("x/b.png", 6)]
    ranked = rank_records(records, Wishes(where=condition))
    assert [(r.path, r.selected) for r in ranked] == [("x/b.png", False), ("x/a.png", True)]
    assert ranked[0].reason == f"not where {text}"


def test_per_groups_prompts_whatever_their_spacing() -> None:
    records = [
        record("a", 9, prompt="a cat"),
        record("b", 8, prompt="a  cat\n"),
        record("c", 7, prompt="a dog"),
        record("d", 6),
        record("e", 5),
    ]
    ranked = rank_records(records, Wishes(per=Per.parse("prompt")))
    assert [r.path for r in ranked if r.selected] == ["a", "c", "d"]
    assert ranked[-1].group == NONE


@pytest.mark.parametrize("text", ["colour", "prompt:0", "prompt:x", "prompt:", ":2"])
def test_per_refuses_nonsense(text: str) -> None:
    with pytest.raises(UsageError, match="--per"):
        Per.parse(text)


def test_fair_ranks_carry_their_percentile() -> None:
    prompts = (("x", 80), ("y", 20))
    records = [record(f"{p}{i}", s + i, prompt=p) for p, s in prompts for i in range(4)]
    ranked = rank_records(records, Wishes(fair_by="prompt", top=Top.parse("2")))
    assert {r.path for r in ranked if r.selected} == {"x3", "y3"}
    assert all(0 < r.standing < 100 for r in ranked)
