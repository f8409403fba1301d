"""Critiques from an OpenAI-compatible endpoint that misbehaves, and from experts."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from click.testing import CliRunner
from PIL import Image

from artimuse.artimuse_core.attributes import ATTRIBUTES
from artimuse.artimuse_core.errors import ModelError, UsageError
from artimuse.cli import main
from artimuse.training import annotate, annotation_prompts, asking, datasets, mllm
from artimuse.training.datasets.base import Sample

from .conftest import interpreter
from .fake_endpoint import ANSWERS, GOOD, endpoint, text_of


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch) -> None:
    monkeypatch.setattr(mllm, "_PAUSE_S", 0.001)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def rated(tmp_path) -> list[Sample]:
    folder = tmp_path / "images"
    folder.mkdir()
    samples = []
    for index in range(12):
        Image.new("RGB", (40, 30), (20 * index, 90, 90)).save(folder / f"{index}.png")
        samples.append(Sample(folder / f"{index}.png", score=5.0 + 8 * index, split="train"))
    return samples


def patient(url: str, **options) -> mllm.Endpoint:
    return mllm.Endpoint("fake", url, **{"timeout_s": 30, "longest_wait_s": 0.05, **options})


def score_of(question: str) -> int:
    """Which of ``rated`` a Type 1 question is about."""
    return round((float(re.search(r"is ([\d.]+) out of", question)[1]) - 5) / 8)


# -- a misbehaving endpoint ---------------------------------------------------------------------

TROUBLE = [
    ["good"], ["429", "429"], ["500"], ["timeout"], ["truncated", "html"], ["hang up"],
    ["sorry", "refusal"], ["long"], ["markdown", "paragraphs"], ["chinese", "cut off"],
    ["sorry"] * 99, ["500"] * 99,
]  # fmt: skip


def trouble(question: str, times: int) -> str:
    faults = TROUBLE[score_of(question)]
    return faults[times] if times < len(faults) else "good"


def test_every_question_ends_done_or_failed_with_its_reason(rated, tmp_path) -> None:
    answers = annotate.answers(tmp_path / "out.jsonl")
    questions = annotate.questions("table", rated, 1)
    with endpoint(trouble) as there:
        tally = asking.ask_all(
            questions, answers, patient(there.url, attempts=4, timeout_s=2), concurrency=4
        )
        assert there.most_busy <= 4
    assert (tally.done, tally.failed, tally.kept) == (10, 2, 0)
    records = list(answers.read().values())
    assert {r["text"] for r in records if r["status"] == "done"} == {GOOD}
    reasons = {r["image"]: r["reason"] for r in records if r["status"] == "failed"}
    assert re.search(r"3 answers .* refused: I'm sorry", reasons[str(rated[10].image)])
    assert re.search(r"4 requests failed.* it broke", reasons[str(rated[11].image)])
    # Tokens of answers that were thrown away are counted: two refusals and the third, good one.
    (refused,) = [r for r in records if r["image"] == str(rated[6].image)]
    assert (refused["requests"], refused["tokens_in"], refused["tokens_out"]) == (3, 300, 60)

    with endpoint(lambda question, times: "good") as there:
        tally = asking.ask_all(questions, answers, patient(there.url))
        assert len(there.bodies) == 2, "only what is left is asked"
    assert (tally.done, tally.failed, tally.kept) == (2, 0, 10)
    with endpoint() as there:
        assert asking.ask_all(questions, answers, patient(there.url)).kept == 12
        assert not there.bodies


def test_what_failed_may_be_left_alone(rated, tmp_path) -> None:
    answers = annotate.answers(tmp_path / "out.jsonl")
    questions = annotate.questions("table", rated[:2], 1)
    with endpoint(lambda question, times: "bad request") as there:
        asking.ask_all(questions, answers, patient(there.url))
        tally = asking.ask_all(questions, answers, patient(there.url), skip_failed=True)
        assert len(there.bodies) == 2
    assert tally.kept == 2
    assert "image too odd" in next(iter(answers.records.values()))["reason"]


def test_an_unusable_answer_is_asked_for_again_with_the_reason(rated, tmp_path) -> None:
    with endpoint(lambda question, times: "long" if times == 0 else "good") as there:
        questions = annotate.questions("table", rated[:1], 1)
        asking.ask_all(questions, annotate.answers(tmp_path / "o.jsonl"), patient(there.url))
        texts = [text_of(body) for body in there.bodies]
    assert texts[1].startswith(texts[0])
    assert "101 words, 100 are allowed" in texts[1].removeprefix(texts[0])


def test_a_broken_image_fails_alone_and_asks_nothing(rated, tmp_path) -> None:
    rated[0].image.write_bytes(b"no image")
    answers = annotate.answers(tmp_path / "out.jsonl")
    with endpoint() as there:
        tally = asking.ask_all(annotate.questions("table", rated, 1), answers, patient(there.url))
        assert len(there.bodies) == 11
    assert (tally.done, tally.failed) == (11, 1)
    assert (
        "not an image" in answers.records[str(rated[0].image), "Comprehensive Evaluation"]["reason"]
    )


@pytest.mark.parametrize(
    ("fault", "reason"), [("key", "wrong key"), ("empty account", "pay first")]
)
def test_what_only_a_person_can_put_right_ends_the_run(rated, tmp_path, fault, reason) -> None:
    answers = annotate.answers(tmp_path / "out.jsonl")
    questions = annotate.questions("table", rated, 1)

    def script(question: str, times: int) -> str:
        return fault if score_of(question) >= 5 else "good"

    with endpoint(script) as there, pytest.raises(ModelError, match=reason):
        asking.ask_all(questions, answers, patient(there.url), concurrency=1)
    assert len(answers.read()) == 5, "what was done before is kept"


def test_an_endpoint_that_is_not_there_ends_the_run(rated, tmp_path) -> None:
    answers = annotate.answers(tmp_path / "out.jsonl")
    gone = patient("http://127.0.0.1:9/v1", attempts=2)
    with pytest.raises(ModelError, match=r"not to be reached: 2 requests failed.* no connection"):
        asking.ask_all(annotate.questions("table", rated, 1), answers, gone, concurrency=2)


def test_the_limits_newer_name_is_found_out_once(rated, tmp_path) -> None:
    with endpoint(lambda question, times: "newer name") as there:
        questions = annotate.questions("table", rated[:3], 1)
        answers = annotate.answers(tmp_path / "out.jsonl")
        tally = asking.ask_all(questions, answers, patient(there.url), concurrency=1)
        assert len(there.bodies) == 4
    assert tally.done == 3


def test_other_models_answers_do_not_mix_and_two_runs_exclude_each_other(rated, tmp_path) -> None:
    answers = annotate.answers(tmp_path / "out.jsonl")
    questions = annotate.questions("table", rated[:1], 1)
    with endpoint() as there:
        asking.ask_all(questions, answers, patient(there.url))
        other = mllm.Endpoint("other", there.url)
        with pytest.raises(UsageError, match="holds answers of fake"):
            asking.ask_all(questions, answers, other)
        with (
            annotate.answers(answers.file).appending(),
            pytest.raises(UsageError, match="another run"),
        ):
            asking.ask_all(questions, annotate.answers(answers.file), patient(there.url))


def test_a_line_cut_by_a_kill_is_dropped_and_any_other_damage_refused(rated, tmp_path) -> None:
    answers = annotate.answers(tmp_path / "out.jsonl")
    questions = annotate.questions("table", rated[:3], 1)
    with endpoint() as there:
        asking.ask_all(questions, answers, patient(there.url))
        whole = answers.file.read_bytes()
        answers.file.write_bytes(whole[:-40])
        assert len(answers.read()) == 2
        assert asking.ask_all(questions, answers, patient(there.url)).done == 1
    lines = answers.file.read_bytes().splitlines(keepends=True)
    assert sorted(lines) == sorted(whole.splitlines(keepends=True))
    answers.file.write_bytes(whole.rstrip(b"\n"))  # as an editor may leave it
    assert len(answers.read()) == 3
    with answers.appending():
        assert answers.file.read_bytes() == whole
    answers.file.write_bytes(b"{}\n" + whole)
    with pytest.raises(UsageError, match=r"out\.jsonl:1: expected an answer \(image, attribute"):
        answers.read()


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_at_any_moment_nothing_is_lost_or_asked_twice(rated, tmp_path) -> None:
    table, output = tmp_path / "rated.csv", tmp_path / "out.jsonl"
    rows = [f"{sample.image.name},{sample.score}" for sample in rated]
    table.write_text("\n".join(["image,score", *rows]) + "\n")

    def script(question: str, times: int) -> str:
        time.sleep(0.05)
        return "good"

    with endpoint(script) as there:
        command = interpreter(
            "from artimuse.cli import main; main()",
            "annotate", "--data", table, "--images", rated[0].image.parent,
            "--output", output, "--mllm", "fake", "--endpoint", there.url, "--concurrency", "2",
        )  # fmt: skip
        kills = 0
        for _ in range(20):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            before = len(there.bodies)
            while process.poll() is None and len(there.bodies) < before + 7:
                time.sleep(0.005)
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        assert kills >= 1
        assert process.returncode == 0
        records = [json.loads(line) for line in output.read_text().splitlines()]
        assert len(records) == len({r["image"] for r in records}) == 12
        # Asked again is at most what was under way, two at a time, when it was killed.
        assert len(there.bodies) <= 12 + 2 * kills


# -- what is asked ------------------------------------------------------------------------------


def test_type_1_asks_for_one_analysis_from_the_score(rated) -> None:
    (question, *_) = questions = annotate.questions("ava", rated, 1)
    assert len(questions) == 12
    assert question.key == (str(rated[0].image), "Comprehensive Evaluation")
    assert "is 5 out of 100" in question.prompt
    for wanted in ("Overall Gestalt", ATTRIBUTES[-1].description, "(<=100 words)"):
        assert wanted in question.prompt


def test_type_2_quotes_what_the_data_set_says_and_leaves_blanks_out() -> None:
    painting = Sample(
        "a.png", 65.83, attribute_scores={"Theme and logic": 71.7, "The overall": 65.0},
        comments={"Language Comment": "Rigid."}, groups={"category": "oil, cubism"},
    )  # fmt: skip
    prompt = annotation_prompts.type2("apddv2", painting, ATTRIBUTES[1])
    assert prompt.splitlines()[:-1] == [
        "For the above picture, the artist gave the following evaluation:",
        "Rigid. For other aesthetic attributes:",
        "This image has a artistic category of oil, cubism.",
        "The total aesthetic score is 65.83 out of 100.",
        "The score for theme and logic is 7.17 out of 10.",
        "The score for overall is 6.5 out of 10.",
    ]
    assert "attribute of Visual Elements & Structure. Analyze the interplay" in prompt
    four = dict.fromkeys(("Brightness", "Colorfulness", "Contrast", "Sharpness"), 30.0)
    phone = Sample("b.jpg", 80.0, attribute_scores=four, groups={"category": "Plant"})
    lines = annotation_prompts.type2("spaq", phone, ATTRIBUTES[0]).splitlines()
    assert lines[0].endswith("80 out of 100, with a high degree of aesthetic appeal.")
    assert lines[5] == "The image content belongs to the following categories: Plant."
    middling = Sample("c.jpg", 50.0, comments={"brightness": "0.4", "sharpness": "7"})
    lines = annotation_prompts.type2("koniq10k", middling, ATTRIBUTES[0]).splitlines()
    assert lines[:3] == [
        "The score for overall quality is 50 out of 100.",
        "The score for brightness is 0.4 out of 1.",
        "The score for sharpness is 7 out of 100.",
    ]


def test_type_2_asks_eight_times_of_each_image_that_has_a_text(rated) -> None:
    commented = Sample(rated[0].image, 50, comments={"note": "calm"})
    questions = annotate.questions("table", [commented, rated[1]], 2)
    assert [question.key[1] for question in questions] == [a.name for a in ATTRIBUTES]
    with pytest.raises(UsageError, match="none of the 12 images has partial texts"):
        annotate.questions("table", rated, 2)


def test_answers_that_are_no_critique_are_told_apart() -> None:
    assert annotation_prompts.check_critique(GOOD) == GOOD
    annotation_prompts.check_critique("A 3-4 step palette; café-like, 100% warm (f/2.8) - calm.")
    for name in ("long", "markdown", "paragraphs", "chinese"):
        with pytest.raises(mllm.BadAnswer):
            annotation_prompts.check_critique(ANSWERS[name])


# -- the command, and reading back --------------------------------------------------------------


def run(*arguments: object):
    return CliRunner().invoke(main, ["annotate", *map(str, arguments)])


def test_the_command_annotates_counts_and_is_read_back_as_samples(rated, tmp_path) -> None:
    table, output = tmp_path / "rated.csv", tmp_path / "out.jsonl"
    table.write_text("image,score,split\n0.png,20,train\n1.png,80,test\n2.png,50,train\n")
    (rated[2].image).write_bytes(b"broken")
    with endpoint() as there:
        options = ["--mllm", "fake", "--endpoint", there.url, "--price", "1:10"]
        options += ["--data", table, "--images", rated[0].image.parent, "--output", output]
        result = run(*options)
    assert result.exit_code == 1
    assert "type 1: questions 3, images 3" in result.stderr
    assert f"failed: {rated[2].image}" in result.stderr
    assert (
        "2 done, 1 failed, 0 from before; 2 requests, 200 tokens in, 40 out, $0.0006"
        in result.stderr
    )
    assert result.stdout == ""
    (first,) = datasets.load_source(f"annotations:{output}", split="test")
    assert first == Sample(
        rated[1].image, 80, texts={"Comprehensive Evaluation": GOOD}, split="test"
    )


def test_a_dry_run_shows_the_first_prompt_and_asks_nothing(rated, tmp_path) -> None:
    table = tmp_path / "rated.csv"
    table.write_text("image,score,comment:note\n0.png,20,calm\n1.png,80,\n")
    result = run("--data", table, "--output", tmp_path / "o.jsonl", "--dry-run")
    assert result.exit_code == 0
    assert "type 2: questions 8, images 1; with nothing to go by 1" in result.stderr
    assert "note: calm\nThe score is 20 out of 100." in result.stdout
    assert not (tmp_path / "o.jsonl").exists()


def test_experts_critiques_are_taken_over_once(tmp_path) -> None:
    table, output = tmp_path / "experts.csv", tmp_path / "out.jsonl"
    table.write_text(
        'image,score,composition_design,Overall Gestalt\na.png,70,"Firm, calm.",Good.\n'
    )
    for count in (2, 0):
        result = run("--data", table, "--output", output)
        assert f"taken over: critiques {count}, images 1" in result.stderr
    (sample,) = datasets.load("annotations", output)
    assert sample.texts == {"Composition & Design": "Firm, calm.", "Overall Gestalt": "Good."}
    table.write_text("image,attribute:beauty\na.png,Good.\n")
    result = run("--data", table, "--output", output)
    assert result.exit_code == 2
    assert "'beauty' is none of the eight attributes" in result.stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--mllm", "m"], "set OPENAI_API_KEY"),
        (["--endpoint", "http://x/v1"], "--mllm"),
        (["--mllm", "m", "--endpoint", "http://x/v1", "--price", "1"], "--price IN:OUT"),
        (["--paper-subset"], "Table 7 does not list 'table'"),
        (["--extreme-share", "0.5"], "belongs to --paper-subset"),
    ],
)
def test_wrong_options_are_refused_in_a_line(rated, tmp_path, options, reason) -> None:
    table = tmp_path / "rated.csv"
    table.write_text("image,score\n0.png,20\n")
    result = run("--data", table, "--output", tmp_path / "o.jsonl", *options)
    assert result.exit_code == 2
    assert reason in result.stderr.splitlines()[-1]
