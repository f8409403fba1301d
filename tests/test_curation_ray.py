"""``artimuse curate --engine ray``: a cluster on this machine, whose actors are killed."""

import contextlib
import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import artimuse
from artimuse import cli
from artimuse.artimuse_core.scorer import Scorer
from artimuse.curation.pipeline import Memory, score_files
from artimuse.curation.scan import scan
from artimuse.curation.store import FILE, Store, Wanted

from .conftest import ROOT, interpreter
from .fakes import brightness_scorer

pytest.importorskip("ray.data")
IMAGES = 400

RULES = ("--json", "--dedup", "2", "--top", "10%")

CURATE = """
import ray_actors
from artimuse import cli
from artimuse.artimuse_core import scorer
from artimuse.artimuse_core.scorer import Scorer
scorer.ModelSpec = ray_actors.SlowSpec
Scorer.load = lambda *args, max_pixels, **options: ray_actors.slow_scorer(max_pixels)
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
    command = interpreter(CURATE, "curate", folder, *RULES, *arguments)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, **pipes)


def start_on_ray(folder: Path, log: Path, images: int) -> subprocess.Popen[str]:
    """A run whose two actors have begun with at least so many images."""
    for _ in range(4):  # on a busy machine a node of Ray's may not start in its 30 seconds
        run = start(folder, log, "--engine", "ray", "--actors", "2")
        if wait_until(lambda: len(batches(log)) >= 2 and batches(log).total() >= images, run):
            return run
        stderr = run.communicate()[1]
        assert "cannot join a Ray cluster" in stderr, stderr
    pytest.skip("no node of Ray's starts here")


def wait_until(holds: Callable[[], bool], run: subprocess.Popen[str]) -> bool:
    """False if the run ends before it holds."""
    deadline = time.monotonic() + 300
    while not holds():
        if run.poll() is not None:
            return False
        if time.monotonic() > deadline:
            run.kill()
            pytest.fail("no progress")
        time.sleep(0.05)
    return True


def batches(log: Path) -> Counter[int]:
    """Images by the process that scored them."""
    counts: Counter[int] = Counter()
    if log.exists():
        for line in log.read_text().splitlines():
            pid, images = line.split()
            counts[int(pid)] += int(images)
    return counts


def remembered() -> int:
    """Scores in the store, as far as they are on the disk."""
    path = Path(os.environ["ARTIMUSE_CACHE"]) / FILE
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM scores").fetchone()[0])


def rows(stdout: str) -> list[dict]:
    return [json.loads(line) for line in stdout.splitlines()]


def locally(folder: Path, monkeypatch) -> list[dict]:
    """What the engine of this process says of the folder."""
    monkeypatch.setattr(Scorer, "load", lambda *args, **options: brightness_scorer())
    result = CliRunner().invoke(cli.main, ["curate", str(folder), *RULES, "--no-cache"])
    return rows(result.stdout)


@pytest.mark.slow
def test_a_killed_actor_is_replaced_and_the_records_are_those_of_the_local_engine(
    many, tmp_path, monkeypatch
) -> None:
    log = tmp_path / "actors.log"
    run = start_on_ray(many, log, 50)
    os.kill(batches(log).most_common(1)[0][0], signal.SIGKILL)
    stdout, stderr = run.communicate(timeout=300)
    assert run.returncode == 1, stderr  # the broken image
    assert len(batches(log)) >= 3  # another process took its place
    assert batches(log).total() >= IMAGES
    assert rows(stdout) == locally(many, monkeypatch)
    assert len(rows(stdout)) == IMAGES + 1
    assert remembered() == IMAGES


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was_on_either_engine(many, tmp_path, monkeypatch) -> None:
    log = tmp_path / "actors.log"
    run = start_on_ray(many, log, 100)
    assert wait_until(lambda: remembered() >= 64, run), run.communicate()[1]
    run.kill()
    run.communicate()
    actors, known = set(batches(log)), remembered()  # it may take them seconds to notice
    assert 64 <= known < IMAGES
    run = start(many, log)
    stdout, stderr = run.communicate(timeout=300)
    assert run.returncode == 1, stderr
    assert sum(n for pid, n in batches(log).items() if pid not in actors) == IMAGES - known
    ours, theirs = rows(stdout), locally(many, monkeypatch)
    # Cut elsewhere into batches, the last bits of a sum differ.
    for figure in ("score", "std"):
        assert [row.pop(figure) for row in ours] == pytest.approx(
            [row.pop(figure) for row in theirs], abs=1e-4
        )
    assert ours == theirs


def test_what_an_actor_sends_back_makes_the_records_of_the_local_engine(folder) -> None:
    """A block's way there and back, without a cluster."""
    from artimuse.curation import ray_engine

    (folder / "broken.png").write_bytes(b"x")
    sources, wanted = scan([folder]), Wanted(hash=True, thumbnail=True, embedding=True)

    class Here:
        name, max_pixels = "brightness", 1000_000

        def scorer(self) -> Scorer:
            return brightness_scorer()

        batch_size = 4

        def answers(self, sources, wanted, recall):
            block = {"item": np.array([pickle.dumps(source) for source in sources], object)}
            for answer in ray_engine._Actor(self, wanted)(block)["item"]:
                yield pickle.loads(answer)

    def records(engine) -> tuple[list[dict], list[bytes | None], int]:
        store = Store(None)
        memory = Memory(store, "m", wanted)
        found = score_files(engine, sources, memory=memory)
        pixels = [record.pixels for record in found if record.pixels]
        looks = len(store.hashes(pixels)) + len(store.embeddings(pixels, "m"))
        store.close()
        return [r.as_dict() for r in found], [r.probs for r in found], looks

    there, here = records(Here()), records(brightness_scorer())
    assert there == here
    assert there[2] == 12


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
