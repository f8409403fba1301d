import csv
import hashlib
import json
import re
import shutil

import pytest
from click.testing import CliRunner, Result

from artimuse import cli

from .fakes import brightness_scorer


@pytest.fixture(autouse=True)
def _fake_model(monkeypatch) -> None:
    from artimuse.artimuse_core.scorer import Scorer

    monkeypatch.setattr(Scorer, "load", lambda *args, **options: brightness_scorer())


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def fingerprint(folder) -> dict[str, tuple[str, int]]:
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_curate_prints_a_ranking_and_keeps_its_hands_off(folder) -> None:
    before = fingerprint(folder)
    result = run("curate", folder, "--top", "10%")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["rank", "score", "±", "std", "file"]
    assert len(lines) == 7
    assert [line.startswith("*") for line in lines[1:]] == [True] + [False] * 5
    assert "model brightness on fake: mean brightness" in result.stderr
    assert "6 scored, 1 kept" in result.stderr
    assert fingerprint(folder) == before


def test_curate_repeats_to_the_byte(folder) -> None:
    assert run("curate", folder, "--json").stdout == run("curate", folder, "--json").stdout


def test_curate_json_is_one_record_a_line(folder) -> None:
    result = run("curate", folder, "--top", "2", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["selected"] for row in rows] == [True, True, False, False, False, False]


def test_a_broken_image_is_reported_and_the_exit_code_is_1(folder) -> None:
    (folder / "broken.png").write_bytes(b"x")
    result = run("curate", folder, "--json")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 7
    assert f"failed: {folder / 'broken.png'}: not an image" in result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["score"] is None


def test_out_and_copy_to(folder, tmp_path) -> None:
    out, best = tmp_path / "run.csv", tmp_path / "best"
    result = run("curate", folder, "--top", "2", "--out", out, "--copy-to", best)
    assert result.exit_code == 0
    with out.open(encoding="utf-8", newline="") as file:
        kept = [row["path"] for row in csv.DictReader(file) if row["selected"] == "True"]
    assert sorted(path.name for path in best.iterdir()) == sorted(p.split("/")[-1] for p in kept)
    assert len(kept) == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--top", "zero"], "expected a count"),
        (["--out", "run.xls"], "jsonl"),
        (["--copy-to", "best"], "needs --top"),
        (["--top", "1", "--copy-to", "a", "--move-to", "b"], "one action a run"),
        (["--where", "score > 'x'"], "makes no sense"),
        (["--undo", "nonsense"], "no run has touched"),
        (["--min-score", "200"], "range"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_wrong_usage_exits_2_before_scoring(folder, options: list[str], reason: str) -> None:
    result = run("curate", folder, *options)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert result.stdout == ""
    assert "model" not in result.stderr


def test_missing_empty_and_imageless_folders_exit_2(tmp_path) -> None:
    for path in (tmp_path / "none", tmp_path):
        result = run("curate", path, "--top", "10%")
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1


def test_score_prints_json_with_exactly_the_contract_keys(folder) -> None:
    result = run("score", folder / "image_0.png", folder / "later", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [list(row) for row in rows] == [["path", "score", "std", "model", "error"]] * 2
    assert run("score", folder / "image_0.png").stdout.endswith("image_0.png\n")


def test_paths_with_control_characters_stay_on_one_line(folder) -> None:
    shutil.copy(folder / "image_0.png", folder / "two\nlines \x1b[31m.png")
    result = run("curate", folder)
    assert "two\\nlines \\x1b[31m.png" in result.stdout
    assert len(result.stdout.splitlines()) == 8


def write_ratings(folder, path, scores) -> None:
    names = [f"image_{i}.png" for i in range(len(scores))]
    rows = [f"{name},{score}" for name, score in zip(names, scores, strict=True)]
    path.write_text("\n".join(["image,score", *rows]) + "\n")


def test_evaluate_prints_the_contracts_keys(folder, tmp_path) -> None:
    data = tmp_path / "ratings.csv"
    scored = [json.loads(line) for line in run("score", folder, "--json").stdout.splitlines()]
    write_ratings(folder, data, [row["score"] * 0.05 for row in scored[:5]])
    result = run("evaluate", "--data", data, "--images", folder, "--json")
    assert result.exit_code == 0
    figures = json.loads(result.stdout)
    assert figures == {"srcc": pytest.approx(1), "plcc": pytest.approx(1), "n": 5}


def test_evaluate_leaves_out_what_it_cannot_read_and_says_so(folder, tmp_path) -> None:
    data = tmp_path / "ratings.csv"
    write_ratings(folder, data, [1, 2, 3, 4, 5, 6])  # image_5 lies in a subfolder
    result = run("evaluate", "--data", data, "--images", folder, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["n"] == 5
    assert f"missing: {folder / 'image_5.png'}" in result.stderr


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("r.csv", "image,score\na.png,high\n", r"r\.csv:2: expected"),
        ("r.csv", "picture,mos\na.png,3\n", r"r\.csv:1: expected columns image"),
        ("r.csv", "image,score\na.png,nan\n", "not a number"),
        ("r.csv", "image,score\n", "holds no rated images"),
        ("r.csv", "image,score\na.png,3\nb.png,-1\n", r"r\.csv:3: -1 lies outside"),
        ("r.jsonl", '{"image": "a.png", "score": 1}\n{', r"r\.jsonl:2: not JSON"),
        ("r.txt", "", r"\.csv or \.jsonl"),
    ],
)
def test_ratings_that_do_not_fit_are_refused(tmp_path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    result = run("evaluate", "--data", tmp_path / name)
    assert result.exit_code == 2
    assert re.search(reason, result.stderr)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["score"],
        ["critique"],
        ["curate"],
        ["evaluate"],
        ["annotate"],
        ["judge"],
        ["judge", "mllm"],
        ["judge", "questionnaire"],
        ["judge", "tally"],
        ["export"],
        ["export", "onnx"],
        ["export", "tensorrt"],
        ["export", "verify"],
    ],
)
def test_every_command_has_help(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_critique_json_goes_on_past_a_bad_image(folder, tiny_checkpoint) -> None:
    (folder / "broken.png").write_bytes(b"x")
    options = ["--attribute", "overall_gestalt", "--max-new-tokens", "3", "--json"]
    files = [folder / "broken.png", folder / "image_0.png"]
    result = run("critique", *files, "--model", tiny_checkpoint, *options)
    assert result.exit_code == 1
    bad, good = (json.loads(line) for line in result.stdout.splitlines())
    assert (bad["score"], bad["critique"]) == (None, {})
    assert list(good["critique"]) == ["Overall Gestalt"]
    assert good["error"] is None


def test_critique_of_an_unknown_attribute_lists_the_known(folder) -> None:
    result = run("critique", folder, "--attribute", "beauty")
    assert result.exit_code == 2
    assert "overall_gestalt" in result.stderr


def test_artimuse_curate_is_curate(folder, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["artimuse-curate", str(folder), "--top", "1"])
    with pytest.raises(SystemExit) as stop:
        cli.curate_main()
    assert stop.value.code == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("*    1")


def test_convert_and_selftest_through_the_command(tiny_checkpoint, tmp_path) -> None:
    converted = run("convert", tiny_checkpoint, tmp_path / "native")
    assert converted.exit_code == 0, converted.output
    tested = run("selftest", "--model", tmp_path / "native", "--device", "cpu")
    assert tested.exit_code == 0, tested.output
    assert [line.split()[0] for line in tested.stdout.splitlines()] == ["PASS"] * 6
    again = run("convert", tiny_checkpoint, tmp_path / "native")
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_model_options_reach_the_scorer(monkeypatch, folder) -> None:
    from artimuse.artimuse_core.scorer import Scorer

    given = []

    def load(*arguments: object, **options: object) -> Scorer:
        given.append((arguments, options))
        return brightness_scorer()

    monkeypatch.setattr(Scorer, "load", load)
    run("score", folder, "--deterministic", "--compile", "--quantize", "nf4", "--max-pixels", 2)
    run("curate", folder, "--model", "artimuse", "--device", "cpu", "--dtype", "fp32")
    plain = {"max_pixels": 89_000_000, "quantize": "none"} | dict.fromkeys(
        ("deterministic", "compiled"), False
    )
    assert given == [
        (
            ("nano", "auto", "auto"),
            {"max_pixels": 2_000_000, "quantize": "nf4", "deterministic": True, "compiled": True},
        ),
        (("artimuse", "cpu", "fp32"), plain),
    ]
