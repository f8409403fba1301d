"""``artimuse curate --engine ray``: a cluster on this machine, whose actors are killed."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import artimuse
from artimuse import cli
from artimuse.artimuse_core.scorer import Scorer
from artimuse.curation.store import FILE

from .conftest import ROOT
from .fakes import brightness_scorer

pytest.importorskip("ray.data")
IMAGES = 600

CURATE = """
import conftest, ray_actors
from artimuse import cli
from artimuse.curation import ray_engine
ray_engine.Recipe = ray_actors.SlowRecipe
cli.main()
"""


@pytest.fixture
def many(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(IMAGES):
        path = folder / f"{index:03}.png"
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
        os.utime(path, (1.6e9, 1.6e9))
    (folder / "broken.png").write_bytes(b"x")
    return folder


def start(folder: Path, log: Path, *arguments: str) -> subprocess.Popen[str]:
    paths = [str(ROOT / "tests"), str(Path(artimuse.__path__[0]).parent), *sys.path]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(paths), "ARTIMUSE_TEST_ACTORS": str(log),
        "RAY_ADDRESS": "local",
    }  # fmt: skip
    command = [sys.executable, "-c", CURATE, "curate", str(folder), "--engine", "ray", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, *arguments], text=True, env=environment, **pipes)


def batches(log: Path) -> Counter[int]:
    """Images by the process that scored them."""
    counts: Counter[int] = Counter()
    if log.exists():
        for line in log.read_text().splitlines():
            pid, images = line.split()
            counts[int(pid)] += int(images)
    return counts


def wait_for(log: Path, processes: int, images: int, run: subprocess.Popen[str]) -> Counter[int]:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = batches(log)
        if len(found) >= processes and sum(found.values()) >= images:
            return found
        if run.poll() is not None:
            pytest.fail(run.communicate()[1])
        time.sleep(0.05)
    run.kill()
    pytest.fail(f"no such progress: {found}")


def remembered() -> int:
    """Scores in the store, as far as they are on the disk."""
    path = Path(os.environ["ARTIMUSE_CACHE"]) / FILE
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM scores").fetchone()[0])


@pytest.mark.slow
def test_a_killed_actor_and_a_killed_run_lose_and_double_nothing(many, tmp_path, monkeypatch):
    log = tmp_path / "actors.log"
    run = start(many, log, "--actors", "2", "--dedup", "2", "--top", "10%")
    victim = max(wait_for(log, 2, 100, run).items(), key=lambda item: item[1])[0]
    os.kill(victim, signal.SIGKILL)
    wait_for(log, 3, 200, run)  # another took its place
    while remembered() < 100 and run.poll() is None:
        time.sleep(0.05)
    run.kill()
    run.communicate()
    before, known = sum(batches(log).values()), remembered()
    assert 100 <= known < IMAGES

    run = start(many, log, "--actors", "1", "--dedup", "2", "--top", "10%")
    stdout, stderr = run.communicate(timeout=300)
    assert run.returncode == 1, stderr  # the broken image
    again = sum(batches(log).values()) - before
    assert again == IMAGES - known  # what had arrived is not scored again
    rows = [json.loads(line) for line in stdout.splitlines()]

    monkeypatch.setattr(Scorer, "load", lambda *args, **options: brightness_scorer())
    local = CliRunner().invoke(
        cli.main,
        ["curate", str(many), "--json", "--dedup", "2", "--top", "10%", "--no-cache"],
    )
    assert rows == [json.loads(line) for line in local.stdout.splitlines()]
    assert len(rows) == IMAGES + 1
    assert "failed: " in stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--engine", "ray", "--top", "2", "--stable"], "--stable needs the model in this process"),
        (["--engine", "ray", "--watch"], "--watch needs the model in this process"),
        (["--actors", "3"], "--address and --actors say where --engine ray scores"),
        (["--address", "x:1"], "--address and --actors say where --engine ray scores"),
    ],
)
def test_what_makes_no_sense_is_one_line(folder, arguments, reason) -> None:
    result = CliRunner().invoke(cli.main, ["curate", str(folder), *arguments])
    assert result.exit_code == 2
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1
