"""What tests share: data, models, and interpreters of their own."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from .findable import ROOT

if TYPE_CHECKING:
    from artimuse import Scorer

SHARED = ROOT.parent / "shared"


def interpreter(code: str, *arguments: object) -> list[str]:
    """The command of a fresh interpreter that finds artimuse, and our modules, as the tests do."""
    prelude = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import findable; "
    return [sys.executable, "-c", prelude + code, *map(str, arguments)]


def python(code: str, *arguments: object) -> str:
    """What code prints in such an interpreter. Fails with what it says if it fails."""
    command = interpreter(code, *arguments)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Reference data that is no part of the product; tests that use it skip without it."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("no reference data beside the repository")
    return folder


@pytest.fixture(autouse=True)
def _own_cache_and_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes what belongs to the user."""
    monkeypatch.setenv("ARTIMUSE_CACHE", str(tmp_path / ".cache"))
    monkeypatch.setenv("ARTIMUSE_STATE", str(tmp_path / ".state"))


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """50 rendered RGB pictures of various sizes."""
    from artimuse.artimuse_core.pictures import render_pictures

    return render_pictures(50)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with five images, a subfolder with one more, and things that are no images."""
    root = tmp_path / "generations"
    (root / "later").mkdir(parents=True)
    random = np.random.default_rng(7)
    for index in range(6):
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((64 + 8 * index, 64), Image.Resampling.BICUBIC)
        image.save(root / ("later" if index == 5 else ".") / f"image_{index}.png")
    (root / "notes.txt").write_text("not an image")
    (root / ".hidden.png").write_bytes(b"not looked at")
    return root


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of nano's architecture in the official format, weights exact in fp16."""
    return random_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", width=32)


def random_checkpoint(directory: Path, width: int) -> Path:
    """Write a random official checkpoint whose two towers are ``width`` wide."""
    import torch

    from artimuse.artimuse_core import checkpoint
    from artimuse.artimuse_core.prompts import IMG_CONTEXT
    from artimuse.training.nano import NanoShape
    from artimuse.training.tokenizer import build_tokenizer, corpus, save_tokenizer

    shape = NanoShape(
        input_size=32, patch_size=8, vision_width=width, vision_layers=2, vision_heads=2,
        vision_mlp=64, llm_width=width, llm_layers=2, llm_heads=2, llm_mlp=64,
    )  # fmt: skip
    texts = corpus(shape.score_question, shape.system_message)
    tokenizer = build_tokenizer(texts, vocabulary=500)
    save_tokenizer(tokenizer, directory)
    config = shape.config(tokenizer.get_vocab_size()) | {"critiques": True}
    torch.manual_seed(0)
    model = checkpoint.build_model(config, tokenizer.token_to_id(IMG_CONTEXT))
    with torch.no_grad():
        for parameter in model.parameters():  # spread the answers: initial weights say little
            parameter.add_(torch.randn_like(parameter) * 0.15).copy_(parameter.half().float())
    checkpoint.save_model(directory, model, config, torch.float16)
    return directory


@pytest.fixture(scope="session")
def scoring_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_checkpoint``, said to be trained to score only."""
    directory = tmp_path_factory.mktemp("scoring") / "scoring"
    shutil.copytree(tiny_checkpoint, directory)
    config = json.loads((directory / "config.json").read_text("utf-8")) | {"critiques": False}
    (directory / "config.json").write_text(json.dumps(config), "utf-8")
    return directory


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_checkpoint`` exported; read-only by agreement, copy it before changing anything."""
    from artimuse.export.to_onnx import export_onnx

    directory = tmp_path_factory.mktemp("tiny") / "bundle"
    export_onnx(tiny_checkpoint, directory, name="tiny")
    return directory


def agrees(onnx: Scorer, torch: Scorer, pictures) -> None:
    """score_logits within 1e-3, scores within 0.05; batch size and order within 1e-3 points."""
    from artimuse.artimuse_core.preprocess import preprocess_batch

    pixels = preprocess_batch(pictures, onnx.input_size)
    ours, theirs = onnx.engine.score_logits(pixels), torch.engine.score_logits(pixels)
    assert np.abs(ours - theirs).max() < 1e-3
    scores = [r.score for r in onnx.score(pictures, batch_size=16)]
    np.testing.assert_allclose(scores, [r.score for r in torch.score(pictures)], atol=0.05)
    assert np.std(scores) > 0.1  # a model that answers the same to everything would pass too
    for other in (
        [r.score for r in onnx.score(pictures, batch_size=1)],
        [r.score for r in onnx.score(pictures[::-1], batch_size=7)][::-1],
    ):
        np.testing.assert_allclose(other, scores, atol=1e-3)


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, without a screen."""
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no chromium here")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def journals(tmp_path) -> Path:
    return tmp_path / "journals"


@pytest.fixture
def comfy(monkeypatch, tmp_path):
    from . import comfy_stub

    return comfy_stub.install(monkeypatch, tmp_path)


@pytest.fixture(scope="session")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 pictures in AGIQA-3K's layout: the redder, the better. For tests that have torch."""
    from artimuse.training.datasets.rendered import render

    folder = tmp_path_factory.mktemp("agiqa")
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    pictures = render(160, 64).permute(0, 2, 3, 1).numpy()
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "prompt", "mos_quality", "std_quality"])
        for index in range(160):
            name = f"{'ab'[index % 2]}_normal_{index:03d}.jpg"
            mos = random.uniform(0.5, 4.5)
            red = (pictures[index] * (1, 1 - mos / 5, 1 - mos / 5)).astype("u1")
            Image.fromarray(red).save(folder / "images" / name)
            table.writerow([name, f"prompt {index // 4}", mos, 0.3])
    return folder
