"""The texture teacher: what it sees, and that it never tells a picture's own rating."""

from dataclasses import replace

import pytest
import torch

from artimuse.training import augment, metrics
from artimuse.training.datasets.rendered import render
from artimuse.training.kernel import GroupRegression, KernelRegression, Regression, Standard
from artimuse.training.score_batches import BatchRecipe, Pool, draw_batch
from artimuse.training.texture import (
    Labels,
    PrincipalComponents,
    TextureRecipe,
    learn_atoms,
    look,
    out_of_fold,
)

SMALL = TextureRecipe(atoms=(8, 8, 8, 8), patches=2000, folds=4, rounds=2)


def labelled(prompts: list[str]) -> Labels:
    """The more blurred, the worse; the sharper half are of one group, the others of another."""
    count = len(prompts)
    return Labels(torch.linspace(90, 10, count), prompts, (torch.arange(count) >= count / 2).long())


@pytest.fixture(scope="module")
def seen() -> tuple[torch.Tensor, torch.Tensor]:
    """96 pictures, blurred more and more, and their features."""
    torch.manual_seed(0)
    pictures = render(96, 96).float() / 255
    pictures = augment.noise(pictures, torch.full((96,), 0.2))
    pictures = augment.gaussian_blur(pictures, torch.linspace(0, 1, 96))
    images = (pictures * 255).round().to(torch.uint8)
    return images, look(images, learn_atoms(images, SMALL))


def test_a_mirrored_picture_looks_the_same(seen) -> None:
    images, features = seen
    mirrored = look(images[:5].flip(-1), learn_atoms(images, SMALL))
    torch.testing.assert_close(mirrored, features[:5], atol=1e-4, rtol=1e-4)


def test_a_floor_makes_logarithms_of_the_averages() -> None:
    half = render(6, 96)[..., :48]
    images = torch.cat([half, half.flip(-1)], dim=-1)  # their own mirror images
    plain, floored = (
        look(images, learn_atoms(images, replace(SMALL, floor=floor))) for floor in (None, 0.02)
    )
    averages = slice(0, 2 * SMALL.atoms[0])  # means and roots of mean squares
    torch.testing.assert_close(floored[:, averages], (plain[:, averages] + 0.02).log())
    rest = slice(4 * SMALL.atoms[0], 5 * SMALL.atoms[0])  # logarithms already
    torch.testing.assert_close(floored[:, rest], plain[:, rest])


def test_it_tells_blur_of_prompts_it_has_not_seen(seen) -> None:
    _, features = seen
    labels = labelled([f"prompt {i % 24}" for i in range(96)])
    said = out_of_fold(features, labels, SMALL)
    assert metrics.srcc(said, labels.score) > 0.6


@pytest.mark.parametrize("group_width", [None, 0.3])
def test_what_it_says_of_a_prompt_does_not_depend_on_that_prompts_ratings(
    seen, group_width
) -> None:
    _, features = seen
    recipe = replace(SMALL, group_width=group_width)
    labels = labelled([f"prompt {i % 12}" for i in range(96)])
    mine = torch.tensor([prompt == "prompt 3" for prompt in labels.prompts])
    before = out_of_fold(features, labels, recipe)
    changed = replace(
        labels,
        score=labels.score + 40 * mine,
        groups=labels.groups.where(~mine, 1 - labels.groups),
    )
    after = out_of_fold(features, changed, recipe)
    torch.testing.assert_close(after[mine], before[mine])
    assert float((after - before)[~mine].abs().max()) > 1


def test_kernel_regression_finds_a_smooth_function_again() -> None:
    torch.manual_seed(0)
    features = torch.randn(300, 3) * torch.tensor([1.0, 50.0, 0.01])  # scale does not matter
    score = 50 + 10 * features[:, 0].sin() + features[:, 1].abs() / 5
    told = KernelRegression(features[:250], score[:250], width=0.3, ridge=0.01)(features[250:])
    assert metrics.plcc(told, score[250:]) > 0.97
    flat = KernelRegression(features[:250], score[:250], width=0.3, ridge=1e9)(features[250:])
    torch.testing.assert_close(flat, score[:250].mean().expand(50), atol=1e-3, rtol=0)


def test_what_a_group_is_worth_is_known_of_a_picture_whose_group_can_be_told() -> None:
    torch.manual_seed(0)
    features = torch.randn(400, 40)
    side = features[:, :8].mean(1) > 0
    score = 50 + 20.0 * side + features[:, 30]
    known, asked = slice(0, 300), slice(300, 400)
    terms = {"width": 0.1, "ridge": 0.02}
    plain = KernelRegression(features[known], score[known], **terms)
    informed = GroupRegression(
        features[known],
        score[known],
        side[known].long(),
        torch.arange(300) % 5,
        **terms,
        group_width=0.3,
        group_ridge=0.005,
    )
    told = informed.tells(features[asked])
    assert float(((told[:, 1] > told[:, 0]) == side[asked]).float().mean()) > 0.8

    def error(says: Regression) -> float:
        return float((says(features[asked]) - score[asked]).square().mean())

    assert error(informed) < 0.95 * error(plain)


def test_components_are_uncorrelated_and_the_largest_come_first(seen) -> None:
    _, features = seen
    standard = Standard(features)(features)
    components = PrincipalComponents(features, 5, power=0)(features)
    torch.testing.assert_close(components.T @ components / 96, torch.eye(5), atol=1e-4, rtol=0)
    own = PrincipalComponents(features, 5, power=1)(features)
    assert float(own.square().mean()) == pytest.approx(1, abs=1e-4)
    spreads = (standard @ torch.linalg.svd(standard)[2].T).float()[:, :5].std(0)
    torch.testing.assert_close(own.std(0) / own[:, 0].std(), spreads / spreads[0])
    told = [float((standard.float().T @ column).norm()) for column in components.T]
    assert told == sorted(told, reverse=True)


def test_components_of_others_are_along_the_same_directions(seen) -> None:
    _, features = seen
    components = PrincipalComponents(features[::2], 3, power=0.5)
    assert components(features[1::2]).shape == (48, 3)
    torch.testing.assert_close(components(features)[::2], components(features[::2]))


def test_only_whole_clean_pictures_are_said_to_look_as_the_teacher_saw_them(seen) -> None:
    images, _ = seen
    count = len(images)
    pool = Pool(
        images=images,
        score=torch.linspace(90, 10, count),
        opinion=torch.linspace(90, 10, count),
        texture=torch.arange(count)[:, None].float(),
    )
    recipe = BatchRecipe(rated=16, unrated=0, worthless=2, groups=2, spoiled=0.5)
    torch.manual_seed(0)
    for _ in range(6):
        batch = draw_batch(pool, recipe, 96)
        known = ~batch.texture[:, 0].isnan()
        assert not bool(known[batch.spoiled].any())
        assert not bool(known[-2:].any())  # worthless ones
        rows = batch.texture[known, 0].long()
        torch.testing.assert_close(batch.score[known], pool.score[rows])
    recipe = BatchRecipe(rated=16, unrated=0, worthless=0, groups=2, min_crop=1)
    whole = draw_batch(pool, recipe, 96)
    assert bool((~whole.texture[whole.original, 0].isnan()).all())
