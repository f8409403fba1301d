"""nano from nothing: that it learns, can be interrupted, and writes; and what its stages share."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from artimuse.artimuse_core import checkpoint
from artimuse.artimuse_core.attributes import ATTRIBUTES
from artimuse.artimuse_core.critic import Critic
from artimuse.artimuse_core.models import NANO, locate
from artimuse.artimuse_core.scorer import Scorer
from artimuse.export.to_onnx import export_onnx
from artimuse.training import augment, half_products, metrics, nano
from artimuse.training.datasets import agiqa3k
from artimuse.training.datasets.rendered import render
from artimuse.training.descriptions import describe, facts
from artimuse.training.kept_stages import KeptStages
from artimuse.training.score_batches import Pool
from artimuse.training.symmetry import mirror_loss
from artimuse.training.text_stage import TextRecipe, train_text
from artimuse.training.vision import image_tokens

from .tiny_nano import CPU, SIDE, TINY, VALUES


def test_training_learns_and_what_it_saves_scores_the_same(rated, tmp_path) -> None:
    config = replace(
        TINY,
        held_out=("test",),
        tower=replace(TINY.tower, steps=40, ema=0.9),
        readout=replace(TINY.readout, batches=20, steps=150, ema=0.9),
    )
    facts = nano.train(config, rated, tmp_path / "nano", CPU)
    held_out = facts["figures"]["test"]
    assert held_out["srcc"] > 0.5  # 20 images; by chance once in a hundred runs
    assert json.loads((tmp_path / "nano" / "figures.json").read_text())["figures"]["test"]["n"] > 5
    export_onnx(tmp_path / "nano", tmp_path / "bundle", name="small")
    scorer = Scorer.load(tmp_path / "bundle")
    assert "trained from scratch" in scorer.card
    test = agiqa3k.split(agiqa3k.load(rated))["test"]
    scores = [result.score for result in scorer.score([r.image for r in test])]
    assert metrics.srcc(scores, [r.score for r in test]) == pytest.approx(held_out["srcc"], abs=0.1)


def test_what_nano_is_measured_by_is_of_its_recipe() -> None:
    beside_benchmarks = Path(__file__).parent.parent / "benchmarks" / "nano_held_out"
    shipped, measured = (
        json.loads((folder / "figures.json").read_text("utf-8"))
        for folder in (locate(NANO), beside_benchmarks)
    )
    assert measured["recipe"] == shipped["recipe"] | {"held_out": ["test"]}
    assert shipped["recipe"]["held_out"] == []
    assert measured["figures"]["test"]["n"] == 536


def test_an_interrupted_run_ends_as_an_uninterrupted_one(rated, tmp_path, monkeypatch) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    everything = nano.train(TINY, rated, whole, CPU)
    assert everything["figures"] == {}  # nothing was held out to be measured on
    assert f"{len(agiqa3k.load(rated))} rated" in everything["card"]

    def power_cut(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(nano, "train_readout", power_cut)
        with pytest.raises(KeyboardInterrupt):
            nano.train(TINY, rated, cut, CPU)
    with monkeypatch.context() as patch:
        patch.setattr(nano, "train_tower", power_cut)  # it is not trained again
        nano.train(TINY, rated, cut, CPU, resume=True)
    weights = [checkpoint.load_model(folder).state_dict() for folder in (whole, cut)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-3, rtol=0, msg=name)


def test_a_stage_is_kept_as_long_as_nothing_that_decides_it_changes(tmp_path) -> None:
    made = []

    def run(first: object, second: object, *, resume: bool = True) -> float:
        stages = KeptStages(tmp_path, resume=resume)
        stages("first", first, lambda: made.append("first") or {"x": torch.ones(2)})
        return float(stages("second", second, lambda: made.append("second") or torch.ones(())))

    assert run(1, 2, resume=False) == 1
    assert run(1, 2) == 1
    assert made == ["first", "second"]
    run(1, 3)
    assert made == ["first", "second", "second"]
    run(2, 3)  # what comes after a stage that changed is made again, too
    assert made == ["first", "second", "second", "first", "second"]
    run(2, 3, resume=False)
    assert made[-2:] == ["first", "second"]
    assert len(made) == 7


def test_half_products_are_the_whole_ones_rounded() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(96, 64)
    x = torch.randn(4, 600, 96, requires_grad=True)
    few = x[:, :5]
    answers = {}
    for half in (False, True):
        with half_products.HalfProducts() if half else nullcontext():
            y = layer(x)
            small = layer(few)
        (y.square().sum() / len(y)).backward()
        gradients = [t.grad.clone() for t in (x, layer.weight, layer.bias)]
        answers[half] = [y, *gradients]
        x.grad = layer.weight.grad = layer.bias.grad = None
        assert {t.dtype for t in answers[half]} == {torch.float32}
        torch.testing.assert_close(small, few @ layer.weight.T + layer.bias)
    for ours, exact in zip(answers[True], answers[False], strict=True):
        error = (ours - exact).square().mean().sqrt() / exact.square().mean().sqrt()
        assert 1e-4 < error < 1e-2


def test_descriptions_say_what_was_done_to_a_picture() -> None:
    pictures = render(12, 128, seed=5).float() / 255
    full = torch.ones(12)
    dark, light = (
        [describe(f, 50)["Technical Execution"] for f in facts(changed)]
        for changed in (pictures * 0.15, pictures * 0.1 + 0.9)
    )
    assert all("underexposed" in text for text in dark)
    assert all("overexposed" in text for text in light)
    veiled = [describe(f, 50) for f in facts(augment.veil(pictures, full))]
    assert all("contrast is low" in said["Visual Elements & Structure"] for said in veiled)
    noisy = [describe(f, 50) for f in facts(augment.noise(pictures, full))]
    assert sum("grain" in said["Technical Execution"] for said in noisy) >= 10
    good, bad = (describe(facts(pictures)[0], score) for score in (90, 10))
    assert "excellent" in good["Comprehensive Evaluation"]
    assert "poor" in bad["Comprehensive Evaluation"]
    assert set(good) == {attribute.name for attribute in ATTRIBUTES}


def test_the_text_stage_learns_to_write_and_keeps_the_score(rated, tmp_path) -> None:
    pool = nano.load_pool(agiqa3k.load(rated)[:48], 4, CPU)
    graph = nano.build(TINY, tmp_path)
    nano.initialise(graph, pool, 0)
    tokenizer = checkpoint.load_tokenizer(tmp_path)
    pixels = torch.randn(4, 3, SIDE, SIDE)

    @torch.no_grad()
    def answers() -> tuple[torch.Tensor, float]:
        image = graph.projector(image_tokens(graph, pixels))
        mirror = mirror_loss(graph, image, graph.prefill_tokens(image)[0][0])
        return torch.softmax(graph(pixels), 1) @ VALUES, float(mirror)

    before, elsewhere = answers()
    recipe = TextRecipe(steps=120, pictures=8, learning_rate=3e-3)
    losses = train_text(graph, tokenizer, pool, recipe, TINY.shape.system_message)
    assert losses["last"] < 0.6 * losses["first"]
    after, mirrored = answers()
    assert float((after - before).abs().max()) < 5  # of 100 points, after 120 steps
    assert mirrored < 0.5 * elsewhere


def test_the_words_it_learns_follow_the_picture(tmp_path) -> None:
    drawn = render(36, SIDE, seed=5).float()
    pictures = torch.cat([drawn * 0.15, drawn * 0.1 + 229]).round().byte()
    new = torch.arange(72) % 36 >= 24
    nothing = torch.full((48,), torch.nan)
    pool = Pool(pictures[~new], nothing, nothing, texture=torch.empty(48, 0))
    recipe = TextRecipe(steps=400, pictures=8, asked=8, versions=1, learning_rate=3e-3)
    graph = nano.build(replace(TINY, text=recipe), tmp_path)
    nano.initialise(graph, pool, 0)
    tokenizer = checkpoint.load_tokenizer(tmp_path)
    train_text(graph, tokenizer, pool, recipe, TINY.shape.system_message)
    nano.save(tmp_path, graph)
    critic = Critic.load(tmp_path, device="cpu")
    technical = [attribute for attribute in ATTRIBUTES if attribute.key == "technical_execution"]
    said = [
        critic.critique(Image.fromarray(picture.permute(1, 2, 0).numpy()), technical).texts
        for picture in pictures[new]
    ]
    right = ["underexposed"] * 12 + ["overexposed"] * 12
    found = sum(word in text["Technical Execution"] for word, text in zip(right, said, strict=True))
    assert found >= 22


def test_metrics_on_cases_with_a_known_answer() -> None:
    assert metrics.srcc([1, 2, 3, 4], [1, 4, 9, 16]) == pytest.approx(1)
    assert metrics.plcc([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    groups = ["a"] * 3 + ["b"] * 3
    assert metrics.within([1, 2, 3, 1, 2, 3], [1, 2, 3, 9, 8, 7], groups) == pytest.approx(0)
    random = np.random.default_rng(0)
    human = random.normal(size=200)
    predicted = human + random.normal(size=200)
    low, high = metrics.bootstrap_interval(
        metrics.plcc, predicted, human, [str(i // 4) for i in range(200)]
    )
    assert low < metrics.plcc(predicted, human) < high
    assert 0.1 < high - low < 0.4
