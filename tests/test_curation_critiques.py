"""Texts of the kept images and attribute scores in --where, with a checkpoint that writes."""

import csv
import json
import os
import shutil

import pytest
from click.testing import CliRunner

from artimuse import cli
from artimuse.artimuse_core import critic as critics
from artimuse.artimuse_core.attributes import ATTRIBUTES
from artimuse.artimuse_core.engines import TorchEngine
from artimuse.artimuse_core.scorer import Scorer

ASKED = "composition_design"


@pytest.fixture
def writer(tiny_checkpoint, monkeypatch):
    """The checkpoint's path; texts are kept short, and calls of the critic are counted."""
    calls = {"critique": 0, "attribute_scores": 0}
    whole, scores = critics.Critic.critique, critics.Critic.attribute_scores

    def critique(self, image):
        calls["critique"] += 1
        return whole(self, image, max_new_tokens=3)

    def attribute_scores(self, image):
        calls["attribute_scores"] += 1
        return scores(self, image)

    monkeypatch.setattr(critics.Critic, "critique", critique)
    monkeypatch.setattr(critics.Critic, "attribute_scores", attribute_scores)
    return str(tiny_checkpoint), calls


@pytest.fixture
def old(folder):
    for path in folder.rglob("*.png"):
        os.utime(path, (1.6e9, 1.6e9))
    return folder


def curate(*arguments: object):
    return CliRunner().invoke(cli.main, ["curate", *map(str, arguments)])


def test_the_kept_images_have_texts_which_are_asked_for_once(old, writer, tmp_path) -> None:
    model, calls = writer
    page, table = tmp_path / "r.html", tmp_path / "r.csv"
    for _ in range(2):
        result = curate(old, "--model", model, "--top", "2", "--critique", "--json",
                        "--report", page, "--out", table)  # fmt: skip
        assert result.exit_code == 0, result.stderr
    assert calls == {"critique": 2, "attribute_scores": 0}
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["critique"] is not None for row in rows] == [True, True, False, False, False, False]
    assert list(rows[0]["critique"]) == [attribute.name for attribute in ATTRIBUTES]
    with table.open(encoding="utf-8", newline="") as file:
        told = [row["critique"] for row in csv.DictReader(file)]
    assert [text and json.loads(text) for text in told] == [r["critique"] or "" for r in rows]
    columns = json.loads(page.read_text("utf-8").split('id="rows">')[1].split("</script>")[0])
    assert columns["critique"][0] == rows[0]["critique"]
    assert columns["critique"][2:] == [None] * 4


def test_one_model_scores_and_writes_as_two_would(tiny_checkpoint, folder) -> None:
    critic = critics.Critic.load(tiny_checkpoint, "cpu")
    scorer = critic.scorer()
    assert isinstance(scorer.engine, TorchEngine)
    files = sorted(folder.glob("image_*.png"))
    alone = Scorer.load(tiny_checkpoint, "cpu").score(files)
    assert [r.score for r in scorer.score(files)] == pytest.approx([r.score for r in alone])
    whole = critic.critique(files[0], max_new_tokens=1, attribute_scores=True).attribute_scores
    assert {n: r.score for n, r in critic.attribute_scores(files[0]).items()} == pytest.approx(
        {name: result.score for name, result in whole.items()}, abs=1e-3
    )


def test_attribute_scores_decide_and_are_asked_for_once(old, writer) -> None:
    model, calls = writer
    first = curate(old, "--model", model, "--where", f"{ASKED} >= 0", "--json")
    assert first.exit_code == 0, first.stderr
    rows = [json.loads(line) for line in first.stdout.splitlines()]
    assert all(row["selected"] for row in rows)
    assert set(rows[0]["attributes"]) == {attribute.key for attribute in ATTRIBUTES}
    cut = sorted(row["attributes"][ASKED] for row in rows)[3]
    result = curate(old, "--model", model, "--where", f"{ASKED} >= {cut!r}", "--json")
    again = [json.loads(line) for line in result.stdout.splitlines()]
    assert sum(row["selected"] for row in again) == 3
    assert all(row["selected"] == (row["attributes"][ASKED] >= cut) for row in again)
    assert calls == {"critique": 0, "attribute_scores": 6}
    plain = curate(old, "--model", model, "--where", "score >= 0", "--json")
    assert json.loads(plain.stdout.splitlines()[0])["attributes"] is None


def test_an_image_that_changed_meanwhile_fails_alone(old, writer, monkeypatch) -> None:
    from artimuse.curation import critiques

    whole = critiques.source_of

    def swapped(path: str):
        if path.endswith("image_0.png"):
            shutil.copy(old / "image_1.png", path)
        return whole(path)

    monkeypatch.setattr(critiques, "source_of", swapped)
    result = curate(old, "--model", writer[0], "--top", "6", "--critique", "--json")
    assert result.exit_code == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert sum(row["critique"] is None for row in rows) == 1
    assert "image_0.png: no critique: the image changed since it was scored" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--top", "2", "--critique"], "--critique: scoring was trained to score only"),
        (["--where", f"{ASKED} > 5"], f"--where {ASKED}: scoring was trained to score only"),
        (["--critique"], "--critique needs --top or another rule"),
        (["--where", "composition > 5"], "unknown name 'composition'; known: "),
    ],
)
def test_a_model_that_cannot_is_one_line_before_scoring(
    folder, scoring_checkpoint, arguments, reason, monkeypatch
) -> None:
    monkeypatch.setattr(Scorer, "stream", lambda *args, **options: pytest.fail("scored"))
    result = curate(folder, *arguments, "--model", scoring_checkpoint)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_bundle_alone_writes_nothing(folder, tiny_bundle) -> None:
    result = curate(folder, "--top", "2", "--critique", "--model", tiny_bundle)
    assert result.exit_code == 2
    assert "that scores only" in result.stderr
