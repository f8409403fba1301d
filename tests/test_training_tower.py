"""The tower stage and what it learns from: filters to start with, and views that nobody rated."""

from dataclasses import replace

import pytest
import torch

from artimuse.training import nano, taught_views
from artimuse.training.datasets import agiqa3k
from artimuse.training.datasets.rendered import render
from artimuse.training.kept_stages import KeptStages
from artimuse.training.kernel import KernelRegression
from artimuse.training.patch_filters import WAVES, patch_filters
from artimuse.training.score_batches import OVEREXPOSURE, UNKNOWN
from artimuse.training.taught_views import ViewRecipe, draw_views
from artimuse.training.tower_stage import train_tower
from artimuse.training.vision import mean_token, see_both_ways

from .tiny_nano import CPU, SIDE, TINY, redness, teach_redness


def test_every_other_wavelet_lies_all_over_the_patch() -> None:
    filters = patch_filters(64, 32, torch.Generator().manual_seed(0))
    torch.testing.assert_close(filters[:WAVES].flatten(1).norm(dim=1), torch.ones(WAVES))
    wavelets = filters[WAVES + 4 :].abs().sum(1)  # (48, 32, 32)
    corners = wavelets.unfold(1, 16, 16).unfold(2, 16, 16).sum((3, 4)).flatten(1)  # (48, 4)
    share = corners.amax(1) / corners.sum(1)
    somewhere, everywhere = share[::2], share[1::2]
    assert everywhere.max() < 0.5 < somewhere.median()


def mean_colour(images: torch.Tensor) -> torch.Tensor:
    return images.float().mean((2, 3))


@pytest.fixture(scope="module")
def drawn() -> tuple[torch.Tensor, taught_views.Views, ViewRecipe]:
    images = render(20, SIDE)
    images = (images * torch.linspace(0.3, 1, 20)[:, None, None, None]).byte()
    recipe = ViewRecipe(count=150, together=5)
    return images, draw_views(images, mean_colour, recipe), recipe


def test_spoiled_views_name_their_fault_and_the_others_none(drawn) -> None:
    images, views, recipe = drawn
    spoiled = views.kind != UNKNOWN
    assert 0.2 < float(spoiled.float().mean()) < 0.6
    assert bool((views.severity[spoiled] > 0).all())
    assert bool((views.severity[~spoiled] == 0).all())
    assert views.pixels.shape == (150, 3, SIDE, SIDE)
    changed = views.pixels.float() - images[views.original].float()
    assert bool((changed[spoiled].abs().mean((1, 2, 3)) > 0.5).all())
    over = views.kind == OVEREXPOSURE
    assert bool((changed[over].mean((1, 2, 3)) > 0).all())
    assert views.original[over].float().mean() < 9.5 - 1  # the darker ones
    [kind] = {len(k.unique()) for k in views.kind.split(recipe.together)}
    assert kind == 1


def test_views_are_those_of_their_seed_and_looked_at(drawn) -> None:
    images, views, recipe = drawn
    again = draw_views(images, mean_colour, replace(recipe, count=20))
    torch.testing.assert_close(again.pixels, views.pixels[:20])
    torch.testing.assert_close(views.looks[:20], mean_colour(views.pixels[:20]))
    other = draw_views(images, mean_colour, replace(recipe, count=20, seed=8))
    assert not torch.equal(other.pixels, again.pixels)


def test_the_teacher_says_what_drawn_pictures_are_worth_and_looks_at_views_of_them(
    rated, tmp_path
) -> None:
    ratings = agiqa3k.load(rated)[:60]
    pool = nano.load_pool(ratings, 20, CPU)
    config = replace(TINY, rendered=20, views=replace(TINY.views, count=60))
    labels = nano.labels_of(ratings)
    taught = nano.teach(config, pool, labels, KeptStages(tmp_path, resume=False))
    assert len(taught.looks) == len(taught.said) == 80
    torch.testing.assert_close(taught.opinion, pool.opinion[:60])
    torch.testing.assert_close(taught.said[60:], taught.says(taught.looks[60:]).clamp(0, 100))
    in_view = taught.views.original
    assert 0 < int((in_view >= 60).sum()) < int((in_view < 60).sum())


def test_the_tower_learns_what_the_teacher_sees_and_what_people_said(rated, tmp_path) -> None:
    ratings = agiqa3k.load(rated)
    pool = nano.load_pool(ratings[:120], TINY.rendered, CPU)
    known = pool.images[:120]
    taught = teach_redness(pool, 80)
    graph = nano.build(TINY, tmp_path)
    nano.initialise(graph, pool, 0)
    others = {name: w.clone() for name, w in graph.decoder.state_dict().items()}
    before = {name: w.clone() for name, w in graph.vision.state_dict().items()}
    unseen = nano.load_pool(ratings[120:], 0, CPU)

    def error() -> float:
        """Of what a regression on few pictures' tokens tells of redness."""
        few = slice(0, 30)
        regression = KernelRegression(
            see_both_ways(graph, known[few], mean_token),
            redness(known[few])[:, 0],
            width=0.6,
            ridge=0.1,
        )
        told = regression(see_both_ways(graph, unseen.images, mean_token))
        return float((told - redness(unseen.images)[:, 0]).square().mean())

    untrained = error()
    recipe = replace(TINY.tower, steps=200, components=2, score=0.5, learning_rate=5e-3, ema=0.9)
    train_tower(graph, pool, taught, recipe)
    assert error() < 0.7 * untrained
    changed = [name for name, w in graph.vision.state_dict().items() if not w.equal(before[name])]
    assert "embeddings.patch_embeddings.projection.weight" in changed
    assert all(w.equal(others[name]) for name, w in graph.decoder.state_dict().items())
