"""The readout stage: who judges what the tower sees, and that it is learnt."""

from dataclasses import replace

import pytest
import torch

from artimuse.artimuse_core.model import ScoringGraph
from artimuse.artimuse_core.score_tokens import ORDERED_100
from artimuse.training import metrics, nano, readout_stage
from artimuse.training.datasets import agiqa3k
from artimuse.training.readout_stage import Judges, fit_judges, train_readout
from artimuse.training.score_batches import CLEAN, UNKNOWN, WORTHLESS, Pool, margin_of
from artimuse.training.taught_views import Taught
from artimuse.training.vision import mean_token, mean_tokens, predict

from .tiny_nano import CPU, SIDE, TINY, VALUES, teach_redness


@pytest.fixture(scope="module")
def taught(rated, tmp_path_factory) -> tuple[ScoringGraph, Pool, Taught]:
    """A tower as it starts, and a teacher that looks at redness."""
    pool = nano.load_pool(agiqa3k.load(rated)[:120], TINY.rendered, CPU)
    graph = nano.build(TINY, tmp_path_factory.mktemp("tiny")).eval()
    nano.initialise(graph, pool, 0)
    return graph, pool, teach_redness(pool, 200)


@pytest.fixture(scope="module")
def judges(taught) -> readout_stage.Judges:
    graph, pool, told = taught
    faulty = told.views.pixels[told.views.kind != UNKNOWN]
    seen = [mean_tokens(graph, images) for images in (pool.images, faulty)]
    return fit_judges(*seen, pool.score, told, TINY.readout)


def test_the_judge_tells_redness_of_pictures_it_has_not_seen(rated, taught, judges) -> None:
    unseen = nano.load_pool(agiqa3k.load(rated)[120:], 0, CPU)
    says = judges.clean(mean_tokens(taught[0], unseen.images))
    assert metrics.srcc(says, unseen.score) > 0.6
    assert 0 <= float(says.min()) <= float(says.max()) <= 100


def test_spoiled_pictures_are_judged_lower_the_severer_their_fault(taught, judges) -> None:
    graph, _, told = taught
    spoiled = told.views.kind != UNKNOWN
    seen = mean_tokens(graph, told.views.pixels[spoiled])
    lost = judges.clean(seen) - judges.spoiled(seen)
    assert float(lost.min()) >= 0
    severe = margin_of(told.views.severity[spoiled]) > 10
    assert float(lost[severe].mean()) > 10
    assert float(lost[severe].mean()) > 1.3 * float(lost[~severe].mean())


def test_the_spread_is_larger_where_the_teacher_was_wrong(taught) -> None:
    graph, pool, told = taught
    faulty = told.views.pixels[told.views.kind != UNKNOWN]
    seen = [mean_tokens(graph, images) for images in (pool.images, faulty)]
    light = pool.images.float().mean((1, 2, 3))
    wrong = 20.0 * (light > light.median())
    misled = replace(told, said=told.said + wrong)
    spread = fit_judges(*seen, pool.score, misled, TINY.readout).spread(seen[0])
    assert float(spread[wrong > 0].mean()) > 1.5 * float(spread[wrong == 0].mean())


def test_the_readout_learns_what_the_judge_says_and_the_tower_stands(
    rated, taught, tmp_path
) -> None:
    _, pool, told = taught
    graph = nano.build(TINY, tmp_path)
    nano.initialise(graph, pool, 0)
    before = {name: weight.clone() for name, weight in graph.vision.state_dict().items()}
    recipe = replace(TINY.readout, batches=40, steps=200, ema=0.9, composed=16)
    losses = train_readout(graph, pool, told, recipe)
    assert losses.keys() >= {"tokens", "expectation", "rank", "mirror"}
    for name, weight in graph.vision.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)
    unseen = agiqa3k.load(rated)[120:]
    logits = predict(graph, nano.squashed([r.image for r in unseen], SIDE), CPU)
    scores = ORDERED_100.readout(logits.numpy()).score
    assert metrics.srcc(scores, [r.score for r in unseen]) > 0.5  # of 40


def constant(points: float) -> readout_stage.Regression:
    return lambda pooled: torch.full([len(pooled)], points)


def test_a_lesson_is_what_the_judge_says(taught) -> None:
    graph, pool, _ = taught
    recipe = replace(TINY.readout, composed=5, margin=0.5)
    [stored] = readout_stage._store(graph, pool, 1, recipe.batch)
    differences = torch.zeros(3, stored.pixels.shape[-1])

    judges = Judges(constant(40.0), constant(20.0), constant(7.0))
    lesson, target = readout_stage._lesson(stored, judges, differences, recipe, VALUES)
    count = len(stored.kind)
    score = lesson.score[:count]
    assert score[stored.kind == WORTHLESS].unique().tolist() == [0]
    assert score[stored.kind == CLEAN].unique().tolist() == [40]
    assert score[stored.spoiled].unique().tolist() == [20]
    assert lesson.score[count:].tolist() == [40] * 5  # composed
    torch.testing.assert_close(lesson.margin, stored.margin / 2)
    torch.testing.assert_close(target.sum(1), torch.ones(count + 5))
    mean = target @ VALUES
    spread = (target @ VALUES.square() - mean.square()).sqrt()
    middle = lesson.score == 40
    torch.testing.assert_close(spread[middle], torch.full_like(mean[middle], 7), atol=0.1, rtol=0)


def test_composed_views_are_moved_as_pictures_differ_and_judged_where_they_land(taught) -> None:
    graph, pool, _ = taught
    recipe = replace(TINY.readout, composed=400, moved=3.0)
    [stored] = readout_stage._store(graph, pool, 1, recipe.batch)
    differences = torch.zeros(2, stored.pixels.shape[-1])
    differences[0, 3], differences[1, 5] = 8.0, 1.0

    judges = Judges(lambda pooled: pooled[:, 3], constant(0.0), constant(7.0))
    lesson, _ = readout_stage._lesson(stored, judges, differences, recipe, VALUES)
    tokens = lesson.pixels[-400:]
    torch.testing.assert_close(lesson.score[-400:], mean_token(tokens)[:, 3])
    far, near, not_at_all = (tokens[:, :, i] - tokens[:, :, 0] for i in (3, 5, 7))
    assert far.mean(1).std() > 4 * near.mean(1).std() > 8 * not_at_all.mean(1).std()
    still = tokens[:, 0] - tokens[:, 1]
    assert still[:, 3].std() < 0.5 * far.mean(1).std()  # all places move alike
