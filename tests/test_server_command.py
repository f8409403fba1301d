"""``artimuse serve`` as a user starts and stops it, with the embedded model."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from artimuse import Reward, cli
from artimuse.artimuse_core.client import RewardClient
from artimuse.artimuse_core.scorer import Scorer
from artimuse.artimuse_core.server import listen

from .conftest import interpreter
from .fakes import brightness_scorer


@contextmanager
def command(*arguments: str) -> Iterator[str]:
    """The address it says it listens on; afterwards SIGTERM, and exit code 0."""
    process = subprocess.Popen(
        interpreter("from artimuse.cli import main; main()", "serve", *arguments),
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": python_path()},
    )  # fmt: skip
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("listening on "):
                yield line.split()[2].rstrip(",")
                break
        else:
            pytest.fail("".join(lines))
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(60) == 0, rest
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def python_path() -> str:
    """Where replicas, which are processes of Ray's own, find the package."""
    import artimuse

    return os.pathsep.join([str(Path(artimuse.__path__[0]).parent), *sys.path])


def pictures() -> list[Image.Image]:
    levels = np.random.default_rng(0).integers(0, 256, (6, 40, 50, 3), dtype=np.uint8)
    return [Image.fromarray(picture) for picture in levels]


def test_serve_answers_as_the_reward_in_process_and_stops_with_0() -> None:
    with (
        command("--port", "0", "--scale", "unit", "--token", "t") as url,
        RewardClient(url, token="t", output="numpy", images_per_request=2) as client,
    ):
        expected = Reward(scale="unit", output="numpy")(pictures())
        np.testing.assert_allclose(client(pictures()), expected, atol=1e-5)


@pytest.mark.slow
def test_ray_serves_the_same_on_replicas() -> None:
    with listen("127.0.0.1", 0) as probe:
        port = str(probe.getsockname()[1])
    with (
        command("--engine", "ray", "--replicas", "2", "--port", port, "--scale", "unit") as url,
        RewardClient(url, output="numpy", images_per_request=1) as client,
    ):
        expected = Reward(scale="unit", output="numpy")(pictures())
        np.testing.assert_allclose(client(pictures()), expected, atol=1e-5)


def test_replicas_load_the_model_as_it_was_asked_for(monkeypatch, tiny_checkpoint) -> None:
    ray_serve = pytest.importorskip("artimuse.artimuse_core.ray_serve")
    recipes = []
    monkeypatch.setattr(ray_serve, "run", lambda recipe, *rest: recipes.append(recipe))
    wanted = ["--quantize", "int8", "--deterministic", "--compile", "--model", str(tiny_checkpoint)]
    result = CliRunner().invoke(cli.main, ["serve", "--engine", "ray", *wanted])
    assert result.exit_code == 0, result.output
    loaded: dict[str, object] = {}
    monkeypatch.setattr(Scorer, "load", lambda *args, **options: loaded.update(options) or scorer)
    scorer = brightness_scorer()
    recipes[0].build()
    assert (loaded["quantize"], loaded["deterministic"], loaded["compiled"]) == ("int8", True, True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--host", "0.0.0.0"], "give --token"),
        (["--replicas", "2"], "--replicas needs --engine ray"),
        (["--scale", "loud"], "raw, unit or a number"),
        (["--max-images", "0"], "max_images"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, reason: str) -> None:
    result = CliRunner().invoke(cli.main, ["serve", *arguments])
    assert result.exit_code == 2
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
