"""Real folders, killed runs, vanishing files, two runs at once: nothing is lost or doubled."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from artimuse import cli
from artimuse.artimuse_core.scorer import Scorer
from artimuse.curation.pipeline import Memory, score_files
from artimuse.curation.scan import scan
from artimuse.curation.store import FILE, Store

from .conftest import interpreter
from .fakes import brightness_scorer


def tree(root: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_real_folders_are_read_and_left_as_they_are(shared_data, tmp_path, monkeypatch) -> None:
    pytest.importorskip("imagehash")
    monkeypatch.setattr(Scorer, "load", lambda *args, **options: brightness_scorer())
    folders = [shared_data / name for name in ("generations", "hostile", "metadata")]
    before = [tree(folder) for folder in folders]
    arguments = ["curate", *map(str, folders), "--top", "10%", "--dedup", "4", "--json"]
    arguments += ["--fair-by", "generator", "--buckets", "great,good,rest"]
    arguments += ["--copy-to", str(tmp_path / "best"), "--report", str(tmp_path / "r.html")]
    arguments += ["--out", str(tmp_path / "r.parquet")]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == len(scan(folders))
    failed = [row for row in rows if row["error"] is not None]
    assert len(failed) >= 10
    for row in failed:
        assert "\n" not in row["error"]
        assert f"failed: {row['path']}: {row['error']}" in result.stderr
    assert sum(row["prompt"] is not None for row in rows) > 50
    assert [tree(folder) for folder in folders] == before
    copies = sum(path.is_file() for path in (tmp_path / "best").rglob("*"))
    assert copies == sum(row["selected"] for row in rows)


CURATE = """
import fakes
from artimuse import cli
from artimuse.artimuse_core.scorer import Scorer
scorer = fakes.brightness_scorer()
whole = scorer.engine.score_logits
def loudly(pixel_values):
    print("batch", file=sys.stderr, flush=True)
    return whole(pixel_values)
scorer.engine.score_logits = loudly
def load(*args, **options):
    print("scanned", file=sys.stderr, flush=True)
    sys.stdin.readline()
    return scorer
Scorer.load = load
cli.main(["curate", *sys.argv[1:]])
"""


def curate(*arguments: object) -> subprocess.Popen[str]:
    """A run that has found its images and waits for a line before it scores them."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    run = subprocess.Popen(interpreter(CURATE, *arguments), text=True, **pipes)
    while run.stderr.readline() not in ("scanned\n", ""):
        pass
    return run


def go(run: subprocess.Popen[str]) -> None:
    run.stdin.write("\n")
    run.stdin.flush()


def many(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        path = folder / f"{index:03}.png"
        Image.fromarray(pixels).save(path)
        os.utime(path, (1.6e9, 1.6e9))
    return folder


def test_a_killed_run_resumes_where_it_was(tmp_path) -> None:
    folder = many(tmp_path / "images", 200)
    before = tree(folder)
    for batches in (11, 10):  # of 8 images; they are remembered by the 64
        child = curate(folder)
        go(child)
        while batches:
            batches -= child.stderr.readline() == "batch\n"
        child.send_signal(signal.SIGKILL)
        child.communicate()
    store = Store(Path(os.environ["ARTIMUSE_CACHE"]) / FILE)
    assert store._one("PRAGMA integrity_check", ()) == ("ok",)
    known = store._one("SELECT count(*), max(model) FROM scores", ())
    scorer = brightness_scorer()
    records = score_files(scorer, scan([folder]), memory=Memory(store, known[1] or "m"))
    store.close()
    assert len(records) == 200
    assert sum(scorer.engine.batches) == 200 - known[0]
    assert known[0] >= 128
    assert tree(folder) == before


def test_two_runs_at_once_lose_and_double_nothing(tmp_path) -> None:
    folder, best = many(tmp_path / "images", 60), tmp_path / "best"
    before = sorted(sha for sha, _ in tree(folder).values())
    runs = [curate(folder, "--top", "100%", "--move-to", best) for _ in range(2)]
    for run in runs:
        go(run)
    outputs = [run.communicate() for run in runs]
    assert {run.returncode for run in runs} <= {0, 1}
    assert not any("Traceback" in error for _, error in outputs)
    both = {**tree(folder), **(tree(best) if best.exists() else {})}
    assert sorted(sha for sha, _ in both.values()) == before
    assert len(list(best.iterdir())) == 60


def test_files_that_vanish_or_change_midway_are_one_line_each(folder, monkeypatch) -> None:
    files = scan([folder])
    seen = []

    def vanish(record) -> None:
        seen.append(record)
        files[-1].unlink(missing_ok=True)

    records = score_files(brightness_scorer(), files[:1], on_record=vanish)
    records += score_files(brightness_scorer(), files, on_record=vanish)
    assert [record.error for record in records if record.error] == [
        "cannot read the file: No such file or directory"
    ]
    assert len(records) == len(files) + 1

    real = Path.read_bytes

    def grow(path: Path) -> bytes:
        data = real(path)
        with path.open("ab") as file:
            file.write(b"x")
        return data

    monkeypatch.setattr(Path, "read_bytes", grow)
    (record,) = score_files(brightness_scorer(), files[:1])
    assert record.error == "the file changed while it was read"


def test_a_folder_removed_midway_is_reported_and_what_was_scored_is_kept(
    tmp_path, monkeypatch
) -> None:
    folder, best = many(tmp_path / "images", 60), tmp_path / "best"
    scorer = brightness_scorer()
    whole = scorer.engine.score_logits

    def remove(pixel_values):
        shutil.rmtree(folder, ignore_errors=True)
        return whole(pixel_values)

    scorer.engine.score_logits = remove
    monkeypatch.setattr(Scorer, "load", lambda *args, **options: scorer)
    arguments = ["curate", str(folder), "--top", "5", "--copy-to", str(best), "--json"]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == 60
    scored = [row for row in rows if row["error"] is None]
    assert 8 <= len(scored) < 60
    assert {row["error"] for row in rows if row["error"]} == {
        "cannot read the file: No such file or directory"
    }
    assert result.stderr.count("failed: ") == 60 - len(scored) + 5  # the five to copy are gone too
    assert "Traceback" not in result.stderr
    assert not any(path.is_file() for path in best.rglob("*"))


def test_dry_run_says_everything_and_does_nothing(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Scorer, "load", lambda *args, **options: brightness_scorer())
    before = tree(tmp_path / "generations")
    for action in (["--move-to", str(tmp_path / "best")], ["--write-xmp"], ["--copy-to", "x"]):
        arguments = ["curate", str(folder), "--top", "2", "--dry-run", *action]
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 0, result.stderr
        assert result.stderr.count("would ") == 2
        assert "nothing was touched" in result.stderr
    assert tree(tmp_path / "generations") == before
    assert not (tmp_path / "best").exists()


def test_an_action_of_the_command_is_undone_by_the_command(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Scorer, "load", lambda *args, **options: brightness_scorer())
    before = tree(folder)
    shutil.copytree(folder, tmp_path / "kept-aside")
    arguments = ["curate", str(folder), "--buckets", "good,bad", "--move-to", str(tmp_path / "b")]
    result = CliRunner().invoke(cli.main, arguments)
    assert "6 images moved" in result.stderr
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"good", "bad"}
    undone = CliRunner().invoke(cli.main, ["curate", "--undo", "last"])
    assert undone.exit_code == 0
    assert "6 images are where they were" in undone.stderr
    assert tree(folder) == before
    assert not (tmp_path / "b" / "good").exists()
