"""The readout stage: who judges what the tower sees, and that it is learnt."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from artimuse.artimuse_core.model import ScoringGraph
from artimuse.artimuse_core.score_tokens import ORDERED_100
from artimuse.training import metrics, nano, readout_stage
from artimuse.training.datasets import agiqa3k
from artimuse.training.readout_stage import Judges, fit_judges, several_views, train_readout
from artimuse.training.score_batches import (
    CLEAN,
    NOISE,
    OVEREXPOSURE,
    UNDEREXPOSURE,
    UNKNOWN,
    WORTHLESS,
    Pool,
    margin_of,
    soft_target,
)
from artimuse.training.score_terms import score_losses
from artimuse.training.taught_views import Taught
from artimuse.training.texture import PrincipalComponents
from artimuse.training.token_statistics import TokenStatistics
from artimuse.training.vision import mean_token, predict, see, see_both_ways

from .tiny_nano import CPU, SIDE, TINY, VALUES, redness, teach_redness


@pytest.fixture(scope="module")
def taught(rated, tmp_path_factory) -> tuple[ScoringGraph, Pool, Taught]:
    """A tower as it starts, and a teacher that looks at redness."""
    pool = nano.load_pool(agiqa3k.load(rated)[:120], TINY.rendered, CPU)
    graph = nano.build(TINY, tmp_path_factory.mktemp("tiny")).eval()
    nano.initialise(graph, pool, 0)
    return graph, pool, teach_redness(pool, 200)


@pytest.fixture(scope="module")
def statistics(taught) -> TokenStatistics:
    graph, pool, _ = taught
    return TokenStatistics(see(graph, pool.images[:64].float() / 255), TINY.readout.directions)


@pytest.fixture(scope="module")
def seen(taught, statistics) -> list[torch.Tensor]:
    """What that tower sees of views of the pictures, and of the spoiled ones that nobody rated."""
    graph, pool, told = taught
    faulty = told.views.pixels[told.views.kind != UNKNOWN]
    views = several_views(graph, pool.images, 3, 2, statistics)
    return [views, see_both_ways(graph, faulty, statistics)]


@pytest.fixture(scope="module")
def judges(taught, statistics, seen) -> readout_stage.Judges:
    _, pool, told = taught
    return fit_judges(statistics, *seen, pool.score, told, TINY.readout)


def test_the_judge_tells_redness_of_pictures_it_has_not_seen(rated, taught, judges) -> None:
    unseen = nano.load_pool(agiqa3k.load(rated)[120:], 0, CPU)
    says, _ = judges.clean(see_both_ways(taught[0], unseen.images, judges.statistics))
    assert metrics.srcc(says, unseen.score) > 0.6
    assert 0 <= float(says.min()) <= float(says.max()) <= 100


def test_its_reasons_are_what_it_goes_by(rated, taught, judges) -> None:
    graph, _, told = taught
    unseen = nano.load_pool(agiqa3k.load(rated)[120:], 0, CPU).images
    worth, reasons = judges.clean(see_both_ways(graph, unseen, judges.statistics))
    components, words = reasons[:, :-2], reasons[:, -2:] * 25 + 50
    torch.testing.assert_close(words.mean(1).clamp(0, 100), worth)
    wanted = PrincipalComponents(told.looks, 2, power=0.5)(redness(unseen))
    assert metrics.srcc(components[:, 0], wanted[:, 0]) > 0.6


def test_spoiled_pictures_are_judged_lower_the_severer_their_fault(taught, seen, judges) -> None:
    _, _, told = taught
    spoiled = told.views.kind != UNKNOWN
    lost = judges.clean(seen[1])[0] - judges.spoiled(seen[1])
    assert float(lost.min()) >= 0
    severe = margin_of(told.views.severity[spoiled]) > 10
    assert float(lost[severe].mean()) > 10
    assert float(lost[severe].mean()) > 1.3 * float(lost[~severe].mean())


def test_the_spread_is_larger_where_the_teacher_was_wrong(taught, statistics, seen) -> None:
    _, pool, told = taught
    light = pool.images.float().mean((1, 2, 3))
    wrong = 20.0 * (light > light.median())
    misled = replace(told, said=told.said + wrong)
    judges = fit_judges(statistics, *seen, pool.score, misled, TINY.readout)
    spread = judges.spread(seen[0][0])
    assert float(spread[wrong > 0].mean()) > 1.5 * float(spread[wrong == 0].mean())


def test_the_clean_are_judged_by_more_than_means_and_nothing_else_is(
    taught, statistics, seen, judges
) -> None:
    views, count = seen[0][0], len(seen[0][0])
    other = torch.cat([statistics.means(views), views.roll(1, 0)[:, statistics.width :]], dim=1)
    torch.testing.assert_close(judges.spread(other), judges.spread(views), rtol=1e-6, atol=0)
    says, elsewhere = judges.clean(views)[0], judges.clean(other)[0]
    assert int(((says - elsewhere).abs() > 1).sum()) > count / 2


def test_ratings_are_smoothed_by_a_share_of_the_teachers_word(taught) -> None:
    _, pool, told = taught
    doubting = replace(told, said=told.said + 8)
    rated = ~pool.opinion.isnan()
    for trust in (0.0, 0.25, 1.0):
        away = doubting.smoothed(trust) - pool.score
        torch.testing.assert_close(away[rated], torch.full_like(away[rated], 8 * trust))
        torch.testing.assert_close(away[~rated], torch.full_like(away[~rated], 8.0))


def test_the_readout_learns_what_the_judge_says_and_the_tower_stands(
    rated, taught, seen, judges, tmp_path
) -> None:
    _, pool, told = taught
    graph = nano.build(TINY, tmp_path)
    nano.initialise(graph, pool, 0)
    before = {name: weight.clone() for name, weight in graph.vision.state_dict().items()}
    recipe = replace(TINY.readout, batches=40, steps=200, ema=0.9)
    losses = train_readout(graph, pool, told, recipe)
    assert losses.keys() >= {"tokens", "expectation", "rank", "mirror"}
    assert losses["reasons"] < 0.3 * float(judges.clean(seen[0][0])[1].square().mean())
    for name, weight in graph.vision.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)
    unseen = agiqa3k.load(rated)[120:]
    logits = predict(graph, nano.squashed([r.image for r in unseen], SIDE), CPU)
    scores = ORDERED_100.readout(logits.numpy()).score
    assert metrics.srcc(scores, [r.score for r in unseen]) > 0.5  # of 40


def test_views_are_the_picture_its_mirror_image_and_moved_ones(taught) -> None:
    graph, pool, _ = taught
    # Smooth, so that a move says little beside what tells the pictures apart.
    rough = adaptive_avg_pool2d(pool.images[:9].float(), 4)
    images = interpolate(rough, SIDE, mode="bilinear").to(torch.uint8)
    plain, mirrored, moved, moved_mirrored = several_views(graph, images, 4, 3, mean_token)
    pixels = images.float() / 255
    torch.testing.assert_close(plain, mean_token(see(graph, pixels)))
    torch.testing.assert_close(mirrored, mean_token(see(graph, pixels.flip(-1))))
    for one, other in ((moved, plain), (moved_mirrored, mirrored)):
        assert not torch.allclose(one, other)
        assert torch.cdist(one, other).argmin(1).tolist() == list(range(9))


def constant(points: float) -> readout_stage.Regression:
    return lambda pooled: torch.full([len(pooled)], points)


def first_two(seen: torch.Tensor) -> torch.Tensor:
    return seen[:, :2]


def test_a_lesson_is_what_the_judges_say(taught, statistics) -> None:
    graph, pool, _ = taught
    recipe = replace(TINY.readout, margin=0.5)
    [stored] = readout_stage._store(graph, pool, 1, recipe.batch)

    judges = Judges(
        statistics,
        lambda seen: (constant(40.0)(seen), first_two(seen)),
        constant(20.0),
        constant(7.0),
    )
    lesson = readout_stage._judged(stored, judges, recipe, VALUES)
    batch, target = lesson.batch, lesson.target
    assert batch.score[batch.kind == WORTHLESS].unique().tolist() == [0]
    assert batch.score[batch.kind == CLEAN].unique().tolist() == [40]
    assert batch.score[batch.spoiled].unique().tolist() == [20]
    torch.testing.assert_close(batch.margin, stored.margin / 2)
    clean = statistics(stored.pixels[stored.kind == CLEAN])
    torch.testing.assert_close(lesson.reasons, first_two(clean))
    torch.testing.assert_close(target.sum(1), torch.ones(len(batch.kind)))
    mean = target @ VALUES
    spread = (target @ VALUES.square() - mean.square()).sqrt()
    middle = batch.score == 40
    torch.testing.assert_close(spread[middle], torch.full_like(mean[middle], 7), atol=0.1, rtol=0)


def test_other_lessons_lend_their_clean_views_and_no_copies(taught, statistics) -> None:
    graph, pool, _ = taught
    judges = Judges(
        statistics,
        lambda seen: (seen[:, 3], first_two(seen)),
        lambda seen: seen[:, 5] - 9,
        constant(7.0),
    )
    own, *others = (
        readout_stage._judged(batch, judges, TINY.readout, VALUES)
        for batch in readout_stage._store(graph, pool, 3, TINY.readout.batch)
    )
    copies = [other.batch.spoiled.clone() for other in others]
    lesson = readout_stage._with_clean(own, others)
    for other, rows in zip(others, copies, strict=True):
        torch.testing.assert_close(other.batch.spoiled, rows)
    count = len(own.batch.kind)
    for name in ("original", "spoiled", "margin", "seen", "mirrored"):
        torch.testing.assert_close(getattr(lesson.batch, name), getattr(own.batch, name))
    torch.testing.assert_close(lesson.batch.pixels[:count], own.batch.pixels)
    lent = [other.batch.pixels[other.batch.kind == CLEAN] for other in others]
    torch.testing.assert_close(lesson.batch.pixels[count:], torch.cat(lent))
    assert lesson.batch.kind[count:].unique().tolist() == [CLEAN]
    seen = statistics(torch.cat([own.batch.pixels[own.batch.kind == CLEAN], *lent]))
    own_clean = len(seen) - len(lesson.batch.kind) + count
    torch.testing.assert_close(lesson.batch.score[count:], seen[own_clean:, 3])
    torch.testing.assert_close(lesson.reasons, first_two(seen))
    assert lesson.target.shape == (len(lesson.batch.kind), len(VALUES))


@pytest.mark.parametrize(
    ("own", "fault"), [("noise_loss", NOISE), ("overexposure_loss", OVEREXPOSURE)]
)
def test_some_faults_take_their_own_share_of_a_pictures_worth(
    taught, statistics, seen, own, fault
) -> None:
    _, pool, told = taught
    faulty = told.views.kind != UNKNOWN
    # A narrow kernel, so that what is said of one fault is said of nothing else.
    nothing = {"loss": 0.0, "noise_loss": 0.0, "overexposure_loss": 0.0, "margin": 0.0}
    recipe = replace(TINY.readout, **nothing, width=5.0, ridge=1e-3)
    at_fault, severe = told.views.kind[faulty] == fault, told.views.severity[faulty] > 0.5
    before, after = (
        fit_judges(statistics, *seen, pool.score, told, changed).spoiled(seen[1])
        for changed in (replace(recipe, **{own: loss}) for loss in (0.0, 1.0))
    )
    lost = before - after
    assert float(lost[severe & at_fault].mean()) > 10
    assert float(lost[~at_fault].abs().mean()) < 2


def sure_of(says: torch.Tensor) -> torch.Tensor:
    """(B,) scores → (B, K) logits that put nearly all on the nearest score token."""
    return -(VALUES - says[:, None]).square()


def test_what_a_copy_lacks_of_its_margin_counts_as_a_share_of_its_original(taught) -> None:
    graph, pool, _ = taught
    [batch] = readout_stage._store(graph, pool, 1, TINY.readout.batch)
    batch.margin = torch.full_like(batch.margin, 8)

    def rank(original: int, copy: int) -> float:
        says = torch.full([len(batch.kind)], float(original))
        says[batch.spoiled] = copy
        logits = sure_of(says)
        target = soft_target(says, torch.zeros(len(says)), VALUES)
        losses = score_losses(logits, target, replace(batch, score=says), VALUES, 1.0, 1.0)
        return float(losses["rank"])

    assert rank(80, 72) == pytest.approx(0, abs=1e-3)
    assert rank(80, 76) == pytest.approx(4 / 80, abs=1e-3)
    assert rank(40, 36) == pytest.approx(4 / 40, abs=1e-3)
    assert rank(20, 16) == pytest.approx(4 / 20, abs=1e-3)
    assert rank(15, 11) == pytest.approx(4 / 20, abs=1e-3)
    assert rank(5, 0) == pytest.approx(0, abs=1e-3)  # no room for more
    assert rank(40, 44) == pytest.approx(12 / 40, abs=1e-3)


def test_what_copies_of_another_exposure_lack_counts_more(taught) -> None:
    graph, pool, _ = taught
    [batch] = readout_stage._store(graph, pool, 1, replace(TINY.readout.batch, spoiled=1.0))
    batch.score = torch.full([len(batch.kind)], 40.0)
    batch.margin = torch.full_like(batch.margin, 8)
    logits = sure_of(batch.score)
    target = soft_target(batch.score, torch.zeros(len(batch.kind)), VALUES)

    def lacking(fault: int, exposure: float) -> float:
        batch.kind[batch.spoiled] = fault
        return float(score_losses(logits, target, batch, VALUES, 1.0, exposure)["rank"])

    assert lacking(NOISE, 3.0) == pytest.approx(8 / 40, abs=1e-3)
    assert lacking(OVEREXPOSURE, 1.0) == pytest.approx(8 / 40, abs=1e-3)
    assert lacking(OVEREXPOSURE, 3.0) == pytest.approx(3 * 8 / 40, abs=1e-3)
    assert lacking(UNDEREXPOSURE, 3.0) == pytest.approx(3 * 8 / 40, abs=1e-3)


def test_what_a_copy_is_worth_counts_less_than_what_others_are(taught) -> None:
    graph, pool, _ = taught
    [batch] = readout_stage._store(graph, pool, 1, TINY.readout.batch)
    batch.score = torch.full([len(batch.kind)], 40.0)
    target = soft_target(batch.score, torch.zeros(len(batch.kind)), VALUES)

    def error(wrong: torch.Tensor, copies: float) -> float:
        says = batch.score.index_fill(0, wrong, 65)
        logits = sure_of(says)
        return float(score_losses(logits, target, batch, VALUES, copies, 1.0)["expectation"])

    clean = torch.nonzero(batch.kind == CLEAN)[:, 0]
    assert error(clean, 0.25) == pytest.approx(len(clean) / len(batch.kind), abs=1e-3)
    share = len(batch.spoiled) / len(batch.kind)
    assert error(batch.spoiled, 1.0) == pytest.approx(share, abs=1e-3)
    assert error(batch.spoiled, 0.25) == pytest.approx(share / 4, abs=1e-3)


def test_scores_are_to_correlate_among_clean_pictures_alone(taught) -> None:
    graph, pool, _ = taught
    [batch] = readout_stage._store(graph, pool, 1, TINY.readout.batch)
    clean = batch.kind == CLEAN
    says = torch.rand(len(clean), generator=torch.Generator().manual_seed(0)) * 100
    batch.score = torch.where(clean, says, 100 - says)

    logits = sure_of(says)
    target = soft_target(batch.score, torch.zeros(len(clean)), VALUES)
    losses = score_losses(logits, target, batch, VALUES, 1.0, 1.0)
    assert abs(float(losses["correlation"])) < 1e-3
    batch.kind = torch.full_like(batch.kind, CLEAN)
    assert float(score_losses(logits, target, batch, VALUES, 1.0, 1.0)["correlation"]) > 0.1
