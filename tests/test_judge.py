"""Critiques compared: by a multimodal model, and by people on a page in a real browser."""

import json
import re
from collections import Counter

import pytest
from click.testing import CliRunner
from PIL import Image

from artimuse.artimuse_core.attributes import ATTRIBUTES
from artimuse.artimuse_core.errors import UsageError
from artimuse.cli import main
from artimuse.training import critiques, judge, mllm, questionnaire
from artimuse.training.critiques import Comparison
from artimuse.training.datasets.base import Sample

from .fake_endpoint import endpoint

MODELS = ("ArtiMuse", "InternVL3-8B", "other")
NAMES = [a.name for a in ATTRIBUTES]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch) -> None:
    monkeypatch.setattr(mllm, "_PAUSE_S", 0.001)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def study(tmp_path):
    """Three models' and the experts' critiques of two attributes of 8 images, in three formats."""
    images = tmp_path / "images"
    images.mkdir()
    rows: dict[str, list[dict]] = {name: [] for name in (*MODELS, "experts")}
    for index in range(8):
        file = images / f"{index}.png"
        Image.new("RGB", (64, 48), (30 * index, 80, 120)).save(file)
        for name in rows:
            texts = {about: f"{name} says {about} <b>& {index}" for about in NAMES[:2]}
            if name == "other":  # as artimuse annotate writes
                for about, text in texts.items():
                    rows[name].append({"image": str(file), "attribute": about, "status": "done",
                                       "text": text, "model": name})  # fmt: skip
            elif name == "experts":  # a table
                rows[name].append({"image": file.name, "score": 12.0 * index, "texts": texts,
                                   "groups": {"category": "ab"[index % 2]}})  # fmt: skip
            else:  # as artimuse critique --json prints
                rows[name].append({"path": str(file), "critique": texts})
    for name, lines in rows.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return tmp_path


def options(study) -> list[str]:
    critics = [part for name in MODELS for part in ("--critic", f"{name}={study / name}.jsonl")]
    return [*critics, "--expert", str(study / "experts.jsonl"), "--images", str(study / "images")]


def run(*arguments: object):
    return CliRunner().invoke(main, ["judge", *map(str, arguments)])


# -- by a model ---------------------------------------------------------------------------------


def shown(prompt: str) -> list[str]:
    """The models in the order in which a question shows them."""
    return re.findall(r"^model\d:\n(\S+) says", prompt, re.MULTILINE)


def prefers(prompt: str, times: int) -> str:
    """ArtiMuse on the first attribute; on the second whatever is shown first."""
    if "Attribute: Composition" in prompt:
        return f"model{shown(prompt).index('ArtiMuse') + 1}"
    return "model1"


def test_the_selection_rates_follow_the_choices_whatever_the_order(study) -> None:
    with endpoint(prefers) as there:
        asked = ["--mllm", "judge", "--endpoint", there.url, "--output", study / "judged.jsonl"]
        result = run("mllm", *options(study), *asked, "--json")
        orders = {tuple(shown(body["messages"][0]["content"][0]["text"])) for body in there.bodies}
        assert len(there.bodies) == 16
        assert result.exit_code == 0, result.stderr
        again = run("mllm", *options(study), *asked)
        assert len(there.bodies) == 16, "what is judged is not asked again"
    assert len(orders) > 2, "the order is shuffled"
    found = json.loads(result.stdout)
    assert found["rates"][NAMES[0]] == {"ArtiMuse": 100, "InternVL3-8B": 0, "other": 0}
    records = [json.loads(line) for line in (study / "judged.jsonl").read_text().splitlines()]
    first = Counter(r["order"][0] for r in records if r["attribute"] == NAMES[1])
    assert found["rates"][NAMES[1]] == {name: 100 * first[name] / 8 for name in MODELS}
    assert found["average"]["ArtiMuse"] == 50 + 50 * first["ArtiMuse"] / 8
    assert (found["questions"], found["failed"]) == (16, 0)
    assert sum(found["positions"]) == 16
    cells = [
        [c.strip() for c in line.split("|")] for line in again.stdout.splitlines() if "|" in line
    ]
    assert cells[0][2:-2] == ["ArtiMuse", "paper: ArtiMuse", "InternVL3-8B", "paper: InternVL3-8B",
                              "other"]  # fmt: skip
    assert cells[2][1:-1] == [
        "1. Composition & Design",
        "100.0%",
        "76.9%",
        "0.0%",
        "10.4%",
        "0.0%",
        "8",
    ]
    assert cells[4][3] == "71.1%"
    assert "Chosen by place in the question: 1. " in again.stdout


def test_only_an_identifier_alone_is_a_choice(study) -> None:
    assert judge.check_choice("model3", 3) == "model3"
    for text in ("model4", "Model1", "model1.", "**model1**", "The best is model2", "2", "model12"):
        with pytest.raises(mllm.BadAnswer, match="expected one of model1 to model3"):
            judge.check_choice(text, 3)
    with endpoint(lambda prompt, times: "I pick model1" if times < 9 else "model1") as there:
        asked = ["--mllm", "judge", "--endpoint", there.url, "--output", study / "judged.jsonl"]
        result = run("mllm", *options(study), *asked)
    assert result.exit_code == 1
    assert "Questions without a valid choice, not counted: 16" in result.stdout
    assert "got 'I pick model1'" in result.stderr


def test_the_question_holds_the_papers_words_the_expert_and_every_answer() -> None:
    texts = {f"m{i}": f"text {i}" for i in range(4)}
    one = Comparison("a.png", NAMES[3], texts, "the expert's words")
    text = judge.prompt(one, ["m2", "m0", "m3", "m1"])
    assert "There are four model-generated responses: model1, model2, model3, and model4." in text
    assert "(i.e., one of: model1, model2, model3, model4)" in text
    assert text.index("the expert's words") < text.index("model1:\ntext 2\n\nmodel2:\ntext 0")
    assert ATTRIBUTES[3].description in text


def test_answers_to_questions_in_another_order_are_not_mixed(study) -> None:
    comparisons = critiques.compare(
        {name: critiques.read_critiques(str(study / f"{name}.jsonl")) for name in MODELS},
        critiques.read_experts(str(study / "experts.jsonl"), study / "images"),
    )
    answers = judge.answers(study / "judged.jsonl")
    with answers.appending():
        for question in judge.questions(comparisons, seed=1):
            answers.append(question.key, {**question.record, "status": "done", "text": "model1"})
    judge.check_same_questions(judge.questions(comparisons, seed=1), answers)
    with pytest.raises(UsageError, match="with another order"):
        judge.check_same_questions(judge.questions(comparisons, seed=2), answers)


def test_only_what_all_wrote_on_is_compared(study) -> None:
    file = study / "other.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]))
    models = {name: critiques.read_critiques(str(study / f"{name}.jsonl")) for name in MODELS}
    found = critiques.compare(models, None)
    assert [(one.image.name, one.attribute) for one in found] == [
        ("0.png", NAMES[0]), ("0.png", NAMES[1]), ("1.png", NAMES[0]),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="at least two models"):
        critiques.compare({"one": models["other"]}, None)
    with pytest.raises(UsageError, match=r"no image and attribute .* \(one 3, two 0"):
        critiques.compare({"one": models["other"], "two": {}}, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"path": "a.png", "critique": {"Beauty": "x"}}', "c.jsonl:1: unknown attribute"),
        ('{"path": "a.png", "critique": {}}\n{"path": 1}', "c.jsonl:2: expected path and critique"),
        ("{", "c.jsonl:1: not JSON"),
    ],
)
def test_critiques_that_do_not_fit_are_refused_by_line(tmp_path, text, reason) -> None:
    (tmp_path / "c.jsonl").write_text(text)
    with pytest.raises(UsageError, match=reason):
        critiques.read_critiques(str(tmp_path / "c.jsonl"))


# -- by people ----------------------------------------------------------------------------------


def test_questions_cover_categories_scores_and_attributes() -> None:
    rows = [
        Comparison(f"{i:03d}.png", name, {"a": "x", "b": "y"}, None,
                   Sample(f"{i:03d}.png", 100 * (i % 50) / 50, groups={"category": "xy"[i // 90]}))
        for i in range(100) for name in NAMES
    ]  # fmt: skip
    chosen = questionnaire.choose(rows, 20, seed=3)
    assert len({one.image for one in chosen}) == 20
    assert set(Counter(one.attribute for one in chosen).values()) == {2, 3}
    # A tenth of the images is of the second category, all in the highest quarter: one of 5 strata.
    assert Counter(one.sample.groups["category"] for one in chosen)["y"] == 4
    assert {int(one.sample.score // 25) for one in chosen} == {0, 1, 2, 3}
    assert (
        chosen == questionnaire.choose(rows, 20, seed=3) != questionnaire.choose(rows, 20, seed=4)
    )
    with pytest.raises(UsageError, match="101 questions need as many images"):
        questionnaire.choose(rows, 101)


@pytest.fixture
def page(study):
    result = run(
        "questionnaire", *options(study), "--questions", 4, "--output", study / "page.html"
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == str(study / "page.html")
    return study / "page.html"


def test_the_page_needs_nothing_and_names_nobody(page) -> None:
    text = page.read_text("utf-8")
    for outside in ("http://", "https://", "@import", "<link", 'src="'):
        assert outside not in text
    data = json.loads(text.split('id="study">')[1].split("</script>")[0])
    assert len(data["questions"]) == 4
    assert "order" not in json.dumps(data)
    again = run("questionnaire", *options(page.parent), "--questions", 4, "--output", page)
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_a_participant_answers_reloads_and_saves_and_the_tally_knows_whose_text_it_was(
    browser, page, tmp_path
) -> None:
    tab = browser.new_page(accept_downloads=True)
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(page.as_uri())
    assert tab.is_disabled("#begin")
    tab.select_option("#experience", "trained")
    tab.click("#begin")
    for number in range(4):
        assert tab.is_disabled("#next")
        assert tab.evaluate("document.getElementById('picture').naturalWidth") == 64
        tab.get_by_text("ArtiMuse says").click()
        if number == 1:
            tab.keyboard.press("1")
            tab.keyboard.press("Enter")
            tab.reload()  # nothing is forgotten
            assert tab.inner_text("#count") == "2 of 4 answered"
        else:
            tab.click("#next")
    assert "All questions are answered" in tab.inner_text("#open")
    with tab.expect_download() as download:
        tab.click("#save")
    saved = tmp_path / "saved.json"
    download.value.save_as(saved)
    answers = json.loads(saved.read_text())
    assert not errors
    assert (answers["experience"], len(answers["seconds"])) == ("trained", 4)

    key = json.loads((page.parent / "page.key.json").read_text())
    chosen = [q["order"][c] for q, c in zip(key["questions"], answers["choices"], strict=True)]
    assert [chosen[number] for number in (0, 2, 3)] == ["ArtiMuse"] * 3
    result = run("tally", "--key", page.parent / "page.key.json", saved, "--json")
    found = json.loads(result.stdout)
    assert found["participants"] == 1
    assert found["counts"] == {name: Counter(chosen)[name] for name in MODELS}
    tab.close()


def participant(page, file, identity: str, chosen: list[int | None], **changes) -> None:
    key = json.loads((page.parent / "page.key.json").read_text())
    answers = {"study": key["study"], "id": identity, "experience": "none", "choices": chosen}
    file.write_text(json.dumps(answers | changes))


def test_the_tally_counts_by_model_and_experience(page, tmp_path) -> None:
    key = json.loads((page.parent / "page.key.json").read_text())
    artimuse = [question["order"].index("ArtiMuse") for question in key["questions"]]
    participant(page, tmp_path / "1.json", "a", artimuse)
    other = [question["order"].index("other") for question in key["questions"]]
    participant(page, tmp_path / "2.json", "b", [*other[:3], None], experience="professional")
    files = [tmp_path / "1.json", tmp_path / "2.json"]
    result = run("tally", "--key", page.parent / "page.key.json", *files)
    assert result.exit_code == 0
    cells = [
        [c.strip() for c in line.split("|")[1:-1]]
        for line in result.stdout.splitlines()
        if "|" in line
    ]
    assert cells[0] == ["experience", "people", "ArtiMuse", "other", "InternVL3-8B"]
    assert cells[2:] == [
        ["everybody", "2", "57.1%", "42.9%", "0.0%"],
        ["none", "", "100.0%", "0.0%", "0.0%"],
        ["professional", "", "0.0%", "100.0%", "0.0%"],
        ["paper: Human Rate", "20", "67.8%", "–", "19.2%"],
    ]
    assert "Questions left out: 1." in result.stdout


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"study": "x"}, "another questionnaire"),
        ({"choices": [0]}, "expected 4 choices"),
        ({"choices": [0, 0, 0, 3]}, "question 4: 3 is none of its answers"),
        ({"experience": "much"}, "expected id and experience"),
        ({"id": "twice"}, "the same answers as"),
    ],
)
def test_answers_that_do_not_fit_are_refused(page, tmp_path, changes, reason) -> None:
    participant(page, tmp_path / "1.json", "twice", [0, 0, 0, 0])
    participant(page, tmp_path / "2.json", "b", [0, 0, 0, 0], **changes)
    files = [tmp_path / "1.json", tmp_path / "2.json"]
    result = run("tally", "--key", page.parent / "page.key.json", *files)
    assert result.exit_code == 2
    assert reason in result.stderr
