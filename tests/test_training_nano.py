"""The score stage: what it learns from, that it learns, that it can be interrupted."""

import copy
import csv
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
from artimuse.artimuse_core.errors import UsageError
from artimuse.artimuse_core.score_tokens import ORDERED_100
from artimuse.artimuse_core.scorer import Scorer
from artimuse.export.to_onnx import export_onnx
from artimuse.training import augment, half_products, metrics, nano, readout_stage, score_stage
from artimuse.training.datasets import agiqa3k
from artimuse.training.datasets.rendered import render
from artimuse.training.descriptions import describe, facts
from artimuse.training.local_features import MAPS, local_features
from artimuse.training.readout_stage import ReadoutRecipe, train_readout
from artimuse.training.score_batches import (
    CLEAN,
    UNKNOWN,
    WORTHLESS,
    BatchRecipe,
    Pool,
    draw_batch,
    soft_target,
)
from artimuse.training.score_stage import ScoreRecipe, ScoreTrainer
from artimuse.training.text_stage import TextRecipe, train_text
from artimuse.training.texture import TextureRecipe
from artimuse.training.tower_stage import TowerRecipe, train_tower

SIDE = 64
CPU = torch.device("cpu")
VALUES = torch.tensor(ORDERED_100.values)
TINY = nano.NanoConfig(
    shape=nano.NanoShape(
        input_size=SIDE,
        patch_size=16,
        vision_width=32,
        vision_layers=1,
        vision_mlp=32,
        llm_width=32,
        llm_mlp=32,
    ),
    recipe=ScoreRecipe(
        steps=4,
        readout_steps=1,
        batch=BatchRecipe(rated=16, unrated=4, worthless=1, groups=2),
    ),
    texture=TextureRecipe(atoms=(8, 8, 8, 8), patches=2000, components=4),
    tower=TowerRecipe(
        steps=3,
        head_steps=1,
        hidden=8,
        components=3,
        batch=replace(TowerRecipe().batch, rated=16),
    ),
    readout=ReadoutRecipe(
        batches=2,
        dark_batches=1,
        steps=3,
        composed=4,
        batch=BatchRecipe(rated=16, unrated=4, worthless=1, groups=2, mix=0),
    ),
    text=None,
    rendered=4,
)


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 pictures in AGIQA-3K's layout: the redder, the better."""
    folder = tmp_path_factory.mktemp("agiqa")
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    pictures = render(160, SIDE).permute(0, 2, 3, 1).numpy()
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


def test_a_prompt_lies_in_one_part_whatever_else_is_there(rated) -> None:
    ratings = agiqa3k.load(rated)
    parts = agiqa3k.split(ratings)
    prompts = {part: {r.prompt for r in rs} for part, rs in parts.items()}
    assert sum(map(len, parts.values())) == len(ratings) == 160
    assert all(prompts.values())
    assert not prompts["test"] & prompts["train"] | prompts["validation"] & prompts["train"]
    few = agiqa3k.split(ratings[::-1][:30])
    assert all(r in parts[part] for part, rs in few.items() for r in rs)


def test_missing_labels_or_images_are_one_line(rated, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"labels\.csv"):
        agiqa3k.load(tmp_path)
    (tmp_path / "labels.csv").write_bytes((rated / "labels.csv").read_bytes())
    with pytest.raises(UsageError, match=r"160 images .* missing"):
        agiqa3k.load(tmp_path)


def test_soft_targets_have_the_ratings_mean_and_spread() -> None:
    target = soft_target(torch.tensor([40.0, 71.5]), torch.tensor([5.0, 8.0]), VALUES)
    mean = target @ VALUES
    std = ((VALUES - mean[:, None]) ** 2 * target).sum(1).sqrt()
    torch.testing.assert_close(mean, torch.tensor([40.0, 71.5]), atol=0.01, rtol=0)
    torch.testing.assert_close(std, torch.tensor([5.0, 8.0]), atol=0.05, rtol=0)


def test_batches_pair_originals_with_worse_copies(rated) -> None:
    pool = nano.load_pool(agiqa3k.load(rated), 4, CPU)
    torch.manual_seed(0)
    recipe = BatchRecipe(rated=32, unrated=4, worthless=2, groups=2, mix=0)
    batch = draw_batch(pool, recipe, SIDE, VALUES)
    assert batch.pixels.shape[1:] == (3, SIDE, SIDE)
    assert 0 <= float(batch.pixels.min()) <= float(batch.pixels.max()) <= 1
    worse = batch.score[batch.spoiled] < batch.score[batch.original]
    unrated = batch.score[batch.original].isnan()
    assert int(unrated.sum()) == 4
    assert bool((worse | unrated).all())
    assert len(batch.mirrored) > 0
    torch.testing.assert_close(batch.pixels[batch.mirrored], batch.pixels[batch.seen].flip(-1))
    rated_rows = ~batch.score.isnan()
    torch.testing.assert_close(batch.target.sum(1), rated_rows.float())
    assert bool((batch.source[batch.spoiled] == UNKNOWN).all())


@pytest.mark.parametrize("drawn", ["overexposure", "jpeg"])
def test_in_dark_batches_the_darkest_pictures_are_overexposed(monkeypatch, drawn) -> None:
    names = list(augment.DISTORTIONS)
    noise, other, over = map(names.index, ("noise", drawn, "overexposure"))
    monkeypatch.setattr(augment, "draw_kinds", lambda count: [noise, other])
    levels = torch.randperm(16) * 8 + 20
    pool = Pool(
        images=levels.byte()[:, None, None, None].expand(16, 3, SIDE, SIDE).contiguous(),
        score=levels / 2,
        opinion=levels / 2,
        std=torch.full((16,), 5.0),
        source=torch.zeros(16, dtype=torch.long),
        texture=torch.empty(16, 0),
        cells=torch.empty(2, 16, 0, 1, 1),
        looks=torch.empty(16, 0),
    )
    recipe = BatchRecipe(rated=16, unrated=0, worthless=0, groups=2, mix=0, spoiled=1, dark=True)
    batch = draw_batch(pool, recipe, SIDE, VALUES)
    kinds = batch.kind[batch.spoiled]
    assert set(kinds.tolist()) == {1 + over, 1 + noise}
    light = batch.score[batch.original]
    assert light[kinds == 1 + over].max() < light[kinds == 1 + noise].min()


@pytest.mark.parametrize("name", augment.DISTORTIONS)
def test_a_severer_distortion_changes_a_picture_more(name) -> None:
    pictures = render(6, 128).float() / 255
    distort = augment.DISTORTIONS[name]
    changes = []
    for severity in (0.0, 1.0):
        torch.manual_seed(0)
        spoiled = distort(pictures, torch.full((6,), severity))
        assert spoiled.shape == pictures.shape
        assert -1e-6 <= float(spoiled.min()) <= float(spoiled.max()) <= 1 + 1e-6
        changes.append(float((spoiled - pictures).square().mean()))
    assert 0 < 2 * changes[0] < changes[1]


def test_jpeg_matches_pillows(tmp_path) -> None:
    picture = render(1, 128, seed=3)
    Image.fromarray(picture[0].permute(1, 2, 0).numpy()).save(tmp_path / "x.jpg", quality=10)
    pillow = np.asarray(Image.open(tmp_path / "x.jpg")).astype(float)
    severity = torch.tensor([np.log(30 / 10) / np.log(10)], dtype=torch.float32)
    ours = augment.jpeg(picture.float() / 255, severity)[0].permute(1, 2, 0).numpy() * 255
    original = picture[0].permute(1, 2, 0).numpy().astype(float)
    # Chroma is scaled up differently; what quantisation does is the same.
    assert np.abs(ours - pillow).mean() < 0.4 * np.abs(original - pillow).mean()


def test_training_learns_and_what_it_saves_scores_the_same(rated, tmp_path) -> None:
    recipe = replace(TINY.recipe, steps=80, learning_rate=3e-3, ema=0.9)
    facts = nano.train(replace(TINY, recipe=recipe), rated, tmp_path / "nano", CPU)
    held_out = facts["figures"]["test"]
    assert held_out["srcc"] > 0.5  # 20 images; by chance once in a hundred runs
    assert json.loads((tmp_path / "nano" / "figures.json").read_text())["figures"]["test"]["n"] > 5
    export_onnx(tmp_path / "nano", tmp_path / "bundle", name="small")
    scorer = Scorer.load(tmp_path / "bundle")
    assert "trained from scratch" in scorer.card
    test = agiqa3k.split(agiqa3k.load(rated))["test"]
    scores = [result.score for result in scorer.score([r.image for r in test])]
    assert metrics.srcc(scores, [r.score for r in test]) == pytest.approx(held_out["srcc"], abs=0.1)


@torch.no_grad()
def test_places_looked_at_alone_are_those_of_the_whole_where_nothing_mixes_them(tmp_path) -> None:
    graph = nano.build(TINY, tmp_path).eval()
    pixels = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    whole = graph.unshuffle(graph.image_features(pixels))
    every = torch.arange(graph.image_tokens)
    torch.testing.assert_close(score_stage.tokens_at(graph, pixels, every), whole)
    some = torch.tensor([0, 3])
    assert not torch.allclose(score_stage.tokens_at(graph, pixels, some), whole[:, some])
    for layer in graph.vision.encoder.layer:  # each place by itself
        layer.lambda_1.zero_()
    whole = graph.unshuffle(graph.image_features(pixels))
    torch.testing.assert_close(score_stage.tokens_at(graph, pixels, some), whole[:, some])


def test_the_last_steps_look_at_whole_pictures(rated, tmp_path, monkeypatch) -> None:
    seen = []

    def tokens_at(graph, pixel_values, places):
        seen.append(places.tolist())
        return look(graph, pixel_values, places)

    look = score_stage.tokens_at
    monkeypatch.setattr(score_stage, "tokens_at", tokens_at)
    recipe = replace(TINY.recipe, steps=5, places=0.5, whole=0.4)
    pool = nano.load_pool(agiqa3k.load(rated)[:60], TINY.rendered, CPU)
    graph = nano.build(TINY, tmp_path)
    nano.initialise(graph, pool, 0)
    ScoreTrainer(graph, pool, recipe).run()
    assert [len(places) for places in seen] == [2, 2, 2, 4, 4]
    assert seen[3] == [0, 1, 2, 3]
    assert len({*map(tuple, seen[:3])}) > 1


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


def test_an_interrupted_run_ends_as_an_uninterrupted_one(rated, tmp_path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    nano.train(TINY, rated, whole, CPU)
    parts = agiqa3k.split(agiqa3k.load(rated))
    trained = [r for part, rs in parts.items() if part != "test" for r in rs]
    pool = nano.training_pool(TINY, trained, CPU)
    graph = nano.build(TINY, cut)
    nano.initialise(graph, pool, 0)
    trainer = ScoreTrainer(graph, pool, TINY.recipe)
    for _ in range(2):
        trainer.train_step()
    torch.save(trainer.state_dict(), cut / "training.pt")
    nano.train(TINY, rated, cut, CPU, resume=True)
    weights = [checkpoint.load_model(folder).state_dict() for folder in (whole, cut)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-3, rtol=0, msg=name)


def test_the_readout_learns_from_what_a_standing_tower_saw(rated, tmp_path) -> None:
    ratings = agiqa3k.load(rated)
    pool = nano.load_pool(ratings[:120], TINY.rendered, CPU)
    graph = nano.build(TINY, tmp_path)
    nano.initialise(graph, pool, 0)
    before = {name: weight.clone() for name, weight in graph.vision.state_dict().items()}
    # From random weights, which the ranking term would hold down.
    recipe = replace(
        TINY.readout, batches=40, steps=300, learning_rate=1e-2, ema=0.9, composed=16, rank=0.2
    )
    losses = train_readout(graph, pool, recipe)
    assert losses.keys() >= {"tokens", "expectation", "rank", "mirror"}
    for name, weight in graph.vision.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)
    unseen = ratings[120:]
    logits = score_stage.predict(graph, nano.squashed([r.image for r in unseen], SIDE), CPU)
    scores = ORDERED_100.readout(logits.numpy()).score
    assert metrics.srcc(scores, [r.score for r in unseen]) > 0.5  # of 40


def test_a_lesson_is_what_the_judge_says_and_a_spoiled_copy_lies_below(rated, tmp_path) -> None:
    pool = nano.load_pool(agiqa3k.load(rated)[:60], TINY.rendered, CPU)
    graph = nano.build(TINY, tmp_path)
    nano.initialise(graph, pool, 0)
    recipe = replace(TINY.readout, composed=5, margin=0.5)
    torch.manual_seed(0)
    [stored] = readout_stage._store(graph, graph, pool, 1, recipe.batch, VALUES)
    poorer = torch.arange(len(stored.spoiled)) % 2 == 0  # half of the copies were seen to be poor
    stored.score[stored.spoiled] = torch.where(poorer, 5.0, 40.0)
    differences = torch.zeros(3, stored.pixels.shape[-1])

    def judge(pooled: torch.Tensor) -> torch.Tensor:
        return torch.full([len(pooled)], 40.0)

    lesson = readout_stage._lesson(stored, judge, differences, recipe, VALUES)
    count, known = len(stored.kind), ~stored.score.isnan()
    clean = known & (stored.kind == CLEAN)
    for rows, score in ((clean, 40), (stored.kind == WORTHLESS, 0)):
        assert lesson.score[:count][rows].unique().tolist() == [score]
    assert lesson.score[count:].tolist() == [40] * 5  # composed
    said, rateable = lesson.score[stored.spoiled], clean[stored.original]
    assert said[~rateable].isnan().all()
    assert said[rateable & poorer].unique().tolist() == [5]
    torch.testing.assert_close(lesson.margin, stored.margin / 2)
    others = rateable & ~poorer
    torch.testing.assert_close(said[others], 40 - lesson.margin[others])


def test_composed_views_are_moved_as_pictures_differ_and_judged_where_they_land(
    rated, tmp_path
) -> None:
    pool = nano.load_pool(agiqa3k.load(rated)[:60], TINY.rendered, CPU)
    graph = nano.build(TINY, tmp_path)
    recipe = replace(TINY.readout, composed=400, moved=3.0)
    [stored] = readout_stage._store(graph, graph, pool, 1, recipe.batch, VALUES)
    differences = torch.zeros(2, stored.pixels.shape[-1])
    differences[0, 3], differences[1, 5] = 8.0, 1.0
    lesson = readout_stage._lesson(stored, lambda pooled: pooled[:, 3], differences, recipe, VALUES)
    tokens = lesson.pixels[-400:]
    torch.testing.assert_close(lesson.score[-400:], tokens.mean(1)[:, 3])
    far, near, not_at_all = (tokens[:, :, i] - tokens[:, :, 0] for i in (3, 5, 7))
    assert far.mean(1).std() > 4 * near.mean(1).std() > 8 * not_at_all.mean(1).std()
    still = lesson.pixels[-400:, 0] - lesson.pixels[-400:, 1]
    assert still[:, 3].std() < 0.5 * far.mean(1).std()  # all places move alike


def test_spoiled_copies_are_stored_with_what_the_model_said_of_them_before(rated, tmp_path) -> None:
    pool = nano.load_pool(agiqa3k.load(rated)[:40], TINY.rendered, CPU)
    graph, before = (nano.build(TINY, tmp_path / name).eval() for name in ("now", "before"))
    nano.initialise(before, pool, 0)
    torch.manual_seed(3)
    [stored] = readout_stage._store(graph, before, pool, 1, TINY.readout.batch, VALUES)
    torch.manual_seed(3)
    drawn = draw_batch(pool, TINY.readout.batch, SIDE, VALUES)
    pixels = score_stage.Normalise()(drawn.pixels)
    said = torch.softmax(before(pixels), 1) @ VALUES
    torch.testing.assert_close(stored.score[drawn.spoiled], said[drawn.spoiled].detach())
    others = drawn.kind == CLEAN
    torch.testing.assert_close(stored.score[others], drawn.score[others], equal_nan=True)
    seen = readout_stage._tokens(graph, pixels).detach()
    torch.testing.assert_close(stored.pixels.float(), seen, atol=2e-2, rtol=1e-2)


def test_the_judge_is_the_mean_of_what_its_judges_say(rated, tmp_path) -> None:
    pool = nano.load_pool(agiqa3k.load(rated)[:40], TINY.rendered, CPU)
    graph = nano.build(TINY, tmp_path).eval()
    nano.initialise(graph, pool, 0)
    seen, [direct] = readout_stage._fit(graph, pool, TINY.readout)
    assert metrics.srcc(direct(seen), pool.score[:40]) > 0.9
    both = readout_stage._mean_of([direct, lambda pooled: pooled[:, 0] * 0 + 120])
    mean = (direct(seen) + 120) / 2
    assert float(mean.max()) > 100
    torch.testing.assert_close(both(seen), mean.clamp(0, 100))


def test_the_tower_learns_what_the_teacher_saw_and_what_people_said(rated, tmp_path) -> None:
    ratings = agiqa3k.load(rated)
    pool = nano.load_pool(ratings[:120], TINY.rendered, CPU)
    red, green, _ = pool.images.float().mean((2, 3)).unbind(1)
    pool = replace(pool, looks=torch.stack([green / red, green], dim=1))
    graph = nano.build(TINY, tmp_path)
    nano.initialise(graph, pool, 0)
    others = {name: w.clone() for name, w in graph.decoder.state_dict().items()}
    before = {name: w.clone() for name, w in graph.vision.state_dict().items()}
    recipe = replace(TINY.tower, steps=150, components=2, learning_rate=5e-3, ema=0.9)
    says = train_tower(graph, copy.deepcopy(graph).freeze(), pool, recipe)
    unseen = nano.load_pool(ratings[120:], 0, CPU)
    pixels = score_stage.Normalise()(unseen.images.float() / 255)
    told = says(readout_stage._pooled(readout_stage._tokens(graph, pixels).detach()))
    assert metrics.srcc(told, unseen.score) > 0.6
    assert float(told.std()) > 3  # in points
    changed = [name for name, w in graph.vision.state_dict().items() if not w.equal(before[name])]
    assert "embeddings.patch_embeddings.projection.weight" in changed
    assert all(w.equal(others[name]) for name, w in graph.decoder.state_dict().items())


def test_where_a_teacher_looked_the_judge_asks_it_what_the_tokens_tell(rated, tmp_path) -> None:
    pool = nano.load_pool(agiqa3k.load(rated)[:60], TINY.rendered, CPU)
    graph = nano.build(TINY, tmp_path)
    nano.initialise(graph, pool, 0)
    graph.eval()
    red, green, _ = pool.images.float().mean((2, 3)).unbind(1)
    looks = torch.stack([green / red, green], dim=1)  # what the teacher looks at
    told = replace(pool, looks=looks)
    pooled, (direct, asked) = readout_stage._fit(graph, told, TINY.readout)
    for regression in (direct, asked):
        assert metrics.srcc(regression(pooled), pool.opinion[:60]) > 0.7
    # What the teacher cannot see, it does not say, whatever the tokens hold.
    _, (_, blind) = readout_stage._fit(graph, replace(pool, looks=looks * 0), TINY.readout)
    assert blind(pooled).std() < 1e-3


def test_local_features_tell_sharp_from_soft_and_bright_from_dark() -> None:
    pictures = render(8, 128).float() / 255
    soft = augment.gaussian_blur(pictures, torch.full((8,), 0.5))
    both = local_features(torch.cat([pictures, soft, pictures / 2]), side=4)
    assert both.shape == (24, 4 * MAPS, 4, 4)
    by_map = both.reshape(3, 8, MAPS, 4, -1).mean((1, 3, 4))  # (versions, MAPS)
    sharp, softened, darkened = by_map
    edges, brightness = 8, 0
    assert sharp[edges] > softened[edges] + 0.3
    assert sharp[brightness] > darkened[brightness] + 0.5
    torch.testing.assert_close(both.mean(), torch.tensor(0.0), atol=0.05, rtol=0)


def test_jitter_is_brightness_then_contrast_then_saturation() -> None:
    pictures = 0.3 + 0.4 * torch.rand(3, 3, 16, 16)  # far from where clamping begins
    torch.manual_seed(1)
    light, contrast, saturation = 1 + 0.1 * (2 * torch.rand(3, 3, 1, 1, 1) - 1)
    expected = pictures * light
    level = expected.mean((1, 2, 3), keepdim=True)
    expected = level + (expected - level) * contrast
    grey = expected.mean(1, keepdim=True)
    expected = grey + (expected - grey) * saturation
    torch.manual_seed(1)
    torch.testing.assert_close(augment.jitter(pictures, 0.1), expected)


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
    values = torch.tensor(ORDERED_100.values)
    with torch.no_grad():
        before = torch.softmax(graph(pixels), 1) @ values
    recipe = TextRecipe(steps=120, batch=16, versions=1, learning_rate=3e-3)
    losses = train_text(graph, tokenizer, pool, recipe, TINY.shape.system_message)
    assert losses["last"] < 0.6 * losses["first"]
    with torch.no_grad():
        after = torch.softmax(graph(pixels), 1) @ values
    assert float((after - before).abs().max()) < 5  # of 100 points, after 120 steps


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
