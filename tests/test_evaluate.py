"""Agreement with people: the figures, what is left out, the matrix beside the paper's."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from artimuse.artimuse_core.errors import ImageError, UsageError
from artimuse.artimuse_core.models import locate
from artimuse.artimuse_core.scorer import Scorer
from artimuse.cli import main
from artimuse.training import evaluate, evaluation_report, metrics, paper_tables
from artimuse.training.datasets.base import Sample

from .fakes import brightness_scorer


def run(*arguments: object):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


@pytest.fixture
def rated(tmp_path) -> list[Sample]:
    """40 greys whose ratings follow their brightness, a little off."""
    samples = []
    for index in range(40):
        Image.new("RGB", (16, 16), (6 * index,) * 3).save(tmp_path / f"{index:02d}.png")
        score = 2.3 * index + 4 * (-1) ** index + 4
        groups = {"prompt": f"p{index // 4}", "generator": "ab"[index % 2]}
        samples.append(Sample(tmp_path / f"{index:02d}.png", score, groups=groups))
    return samples


# -- figures ------------------------------------------------------------------------------------


def test_figures_by_hand() -> None:
    predicted, human = [1, 2, 3, 4], [1, 3, 2, 4]
    assert metrics.srcc(predicted, human) == pytest.approx(0.8)  # 1 - 6·2 / (4·15)
    assert metrics.kendall(predicted, human) == pytest.approx(4 / 6)  # 5 pairs agree, 1 does not
    assert metrics.plcc(predicted, human) == pytest.approx(0.8)
    assert metrics.rmse([1, 2], [4, 6]) == pytest.approx(math.sqrt(12.5))
    assert metrics.srcc([1, 1, 3, 4], [1, 2, 3, 4]) == pytest.approx(
        0.948683
    )  # a tie shares a rank
    for metric in (metrics.srcc, metrics.plcc, metrics.kendall):
        assert math.isnan(metric([1, 1, 1], [1, 2, 3]))


def test_the_logistic_fit_takes_a_curve_out_and_leaves_the_noise() -> None:
    random = np.random.default_rng(0)
    predicted = random.uniform(0, 100, 400)
    clean = 20 + 60 / (1 + np.exp(-(predicted - 40) / 8))
    fitted = metrics.logistic_fit(predicted, clean + random.normal(0, 2, 400))
    assert metrics.rmse(fitted, clean) < 0.5
    assert metrics.plcc(predicted, clean) < 0.95 < 0.999 < metrics.plcc(fitted, clean)
    falling = metrics.logistic_fit(predicted, 100 - clean)
    assert metrics.rmse(falling, 100 - clean) < 0.1
    assert metrics.logistic_fit([1, 2, 3], [1, 2, 3]) is None
    assert metrics.logistic_fit([1] * 9, range(9)) is None


def test_the_interval_is_wider_where_images_belong_together() -> None:
    random = np.random.default_rng(1)
    shift = np.repeat(random.normal(0, 10, 20), 10)  # shared by the ten images of a prompt
    human = np.repeat(random.normal(50, 10, 20), 10) + random.normal(0, 1, 200)
    predicted = human + shift
    prompts = [str(index // 10) for index in range(200)]
    alone = metrics.bootstrap_interval(metrics.srcc, predicted, human)
    together = metrics.bootstrap_interval(metrics.srcc, predicted, human, prompts)
    value = metrics.srcc(predicted, human)
    assert together[0] < alone[0] < value < alone[1] < together[1]


# -- evaluating ---------------------------------------------------------------------------------


def test_missing_and_broken_images_are_counted_and_named_apart(rated, tmp_path) -> None:
    rated[0].image.unlink()
    rated[1].image.write_bytes(b"broken")
    unrated = Sample(rated[2].image.with_name("unrated.png"))
    answer = evaluate.evaluate(brightness_scorer(), [*rated, unrated])
    assert answer.figures.n == 38
    assert answer.missing == (rated[0].image,)
    assert len(answer.failed) == 1
    assert answer.failed[0].startswith(f"{rated[1].image}: ")
    assert answer.figures.srcc > 0.95
    with pytest.raises(ImageError, match=r"1 of 2 rated images could be scored.* no such file"):
        evaluate.evaluate(brightness_scorer(), [rated[0], rated[5]])


def test_figures_per_group_and_what_the_bootstrap_draws(rated) -> None:
    answer = evaluate.evaluate(brightness_scorer(), rated, per="generator", together="prompt")
    assert {name: figures.n for name, figures in answer.groups.items()} == {"a": 20, "b": 20}
    assert answer.resampled == "prompt"
    # Within a generator the ratings follow brightness exactly.
    assert all(figures.srcc == pytest.approx(1) for figures in answer.groups.values())
    with pytest.raises(UsageError, match="no group 'seed'; all have: generator, prompt"):
        evaluate.evaluate(brightness_scorer(), rated, per="seed")
    few = evaluate.evaluate(brightness_scorer(), rated[:6], per="prompt")
    assert few.groups["p1"] is None


def test_a_model_that_says_one_thing_has_no_correlation_and_valid_json(tmp_path, rated) -> None:
    for sample in rated:
        Image.new("RGB", (16, 16)).save(sample.image)
    answer = evaluate.evaluate(brightness_scorer(), rated)
    row = json.loads(json.dumps(answer.as_dict(), allow_nan=False))
    assert row["srcc"] is row["plcc"] is row["rmse"] is None
    assert [path.name for path in evaluation_report.write([answer], tmp_path / "out")]


def test_the_report_has_every_prediction_and_a_picture(rated, tmp_path) -> None:
    rated[0].image.unlink()
    answer = evaluate.evaluate(brightness_scorer(), rated, dataset="mine", per="generator")
    evaluation_report.write([answer], tmp_path / "out")
    (row,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (row["n"], row["missing"]) == (39, [str(rated[0].image)])
    text = (tmp_path / "out" / "evaluation.md").read_text()
    assert f"{row['srcc']:.3f}" in text
    assert "by group" in text
    assert "mine: images missing: 1" in text
    with Image.open(tmp_path / "out" / "scatter.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert ((pixels[..., 0] > 180) & (pixels[..., 2] < 60)).sum() > 100, "the fitted curve"


# -- the matrix ---------------------------------------------------------------------------------


def evaluation(model: str, dataset: str, srcc: float) -> evaluate.Evaluation:
    figures = evaluate.Figures(9, srcc, (0.1, 0.9), 0.7, (0.1, 0.9), 0.4, 0.7, 9.0)
    points = tuple(evaluate.Prediction(dataset, 10.0 * i, 8.0 * i + 3) for i in range(9))
    return evaluate.Evaluation(model, dataset, figures, "image", {}, (), (), points)


def test_the_matrix_stands_beside_the_papers_and_marks_its_slips() -> None:
    models, sets = ("artimuse-ava", "artimuse-para", "nano"), ("ava", "flickr-aes")
    text = evaluation_report.matrix([evaluation(m, d, 0.5) for m in models for d in sets])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    assert rows[0] == ["", "AVA", "FLICKR-AES"]
    assert rows[2:7] == [
        ["artimuse-ava", "0.500 / 0.700", "0.500 / 0.700"],
        ["paper: ArtiMuse (AVA)", "0.827 / 0.826", "0.647 / 0.676"],
        ["artimuse-para", "0.500 / 0.700", "0.500 / 0.700"],
        ["paper: ArtiMuse (PARA)", "0.493 / 0.510", "0.936 / 0.958†"],
        ["nano", "0.500 / 0.700", "0.500 / 0.700"],
    ]
    assert "† repeats another cell" in text
    assert evaluation_report.scatter([evaluation(m, d, 0.5) for m in models for d in sets])


def test_every_doubtful_cell_of_table_13_is_marked() -> None:
    marked = {
        (row, dataset)
        for row in paper_tables.TABLE_13
        for dataset in paper_tables.DATASETS
        if paper_tables.doubtful(row, dataset)
    }
    assert marked == {
        *((f"{m} (PARA)", "flickr-aes") for m in ("Q-Align", "ArtiMuse")),
        *((f"{m} (TAD66K)", d) for m in ("Q-Align", "ArtiMuse") for d in ("para", "flickr-aes")),
    }


# -- the command --------------------------------------------------------------------------------


def table(folder, path, split: str = "") -> None:
    rows = [f"image_{i}.png,{10 + i},{'ab'[i % 2]},{split if i else 'train'}" for i in range(5)]
    path.write_text("\n".join(["image,score,generator,split", *rows]) + "\n")


def test_models_on_data_sets_make_a_matrix(folder, tmp_path) -> None:
    other = tmp_path / "other"
    shutil.copytree(locate("nano"), other)
    for name in ("one", "two"):
        table(folder, folder / f"{name}.csv")
    options = ["--data", folder / "one.csv", "--data", folder / "two.csv", "--against", other]
    result = run(*options, "--json")
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["model"], row["dataset"]) for row in rows] == [
        ("nano", "one"), ("nano", "two"), (str(other), "one"), (str(other), "two"),
    ]  # fmt: skip
    result = run(*options, "--output", tmp_path / "out")
    assert result.stdout.count("\n| nano ") == result.stdout.count(f"\n| {other}") == 2
    assert (tmp_path / "out" / "scatter.png").is_file()


def test_the_test_split_is_taken_where_there_is_one_and_said_so(folder, tmp_path) -> None:
    table(folder, folder / "r.csv", split="test")
    result = run("--data", folder / "r.csv", "--json", "--per", "generator")
    assert json.loads(result.stdout)["n"] == 4
    assert list(json.loads(result.stdout)["groups"]) == ["a", "b"]
    assert "r: 4 images of its test split" in result.stderr
    assert json.loads(run("--data", folder / "r.csv", "--split", "all", "--json").stdout)["n"] == 5
    result = run("--data", folder / "r.csv", "--split", "validation")
    assert result.exit_code == 2
    assert "no images in split 'validation'" in result.stderr


def test_an_evaluation_that_was_killed_is_taken_up_again(folder, tmp_path, monkeypatch) -> None:
    table(folder, folder / "r.csv")
    output = tmp_path / "out"
    options = ["--data", folder / "r.csv", "--split", "all", "--output", output]
    whole = run(*options)
    with (output / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["data"], float(row["human"])) for row in rows] == [
        ("nano", "r", 10 + i) for i in range(5)
    ]
    # Killed while the fourth was written.
    lines = (output / "predictions.csv").read_bytes().splitlines(keepends=True)
    (output / "predictions.csv").write_bytes(b"".join([*lines[:4], lines[4][:-9]]))
    scored: list[str] = []
    stream = Scorer.stream

    def watched(self, sources, *arguments, **named):
        scored.extend(sample.image.name for sample in sources)
        return stream(self, sources, *arguments, **named)

    monkeypatch.setattr(Scorer, "stream", watched)
    again = run(*options, "--resume")
    assert again.stdout == whole.stdout
    assert scored == ["image_3.png", "image_4.png"]
    resumed = (output / "predictions.csv").read_bytes().splitlines(keepends=True)
    assert resumed[:4] == lines[:4]
    assert len(resumed) == len(lines)
    (output / "predictions.csv").write_text("model,score\nnano,3\n")
    result = run(*options, "--resume")
    assert result.exit_code == 2
    assert "predictions.csv:1: expected columns" in result.stderr
    assert "--resume needs" in run("--data", folder / "r.csv", "--resume").stderr


def test_a_data_set_without_images_does_not_end_the_others(folder, tmp_path) -> None:
    table(folder, folder / "here.csv")
    gone = tmp_path / "gone.csv"
    table(folder, gone)
    result = run("--data", gone, "--data", folder / "here.csv", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["dataset"] == "here"
    assert "failed: nano on gone: 0 of 5 rated images could be scored" in result.stderr


def test_a_model_that_is_not_there_is_told_before_anything_is_scored(folder, tmp_path) -> None:
    table(folder, folder / "r.csv")
    options = ["--against", tmp_path / "nowhere", "--output", tmp_path / "out"]
    result = run("--data", folder / "r.csv", *options)
    assert result.exit_code in (1, 2)
    assert "nowhere" in result.stderr.splitlines()[-1]
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 1


def test_images_go_with_one_data_set(folder) -> None:
    table(folder, folder / "r.csv")
    result = run("--data", folder / "r.csv", "--data", folder / "r.csv", "--images", folder)
    assert result.exit_code == 2
    assert "--images and --scale go with one --data" in result.stderr
