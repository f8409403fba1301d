"""Statistics of a picture's tokens, which judges look at."""

import pytest
import torch

from artimuse.training.token_statistics import TokenStatistics

WIDTH, PLACES = 6, 9


@pytest.fixture
def tokens() -> torch.Tensor:
    """(40, PLACES, 4 · WIDTH), whose channels hang together and vary more and more."""
    torch.manual_seed(0)
    mixed = torch.randn(40, PLACES, 4, WIDTH) @ torch.randn(WIDTH, WIDTH)
    return (mixed * torch.arange(1, WIDTH + 1) + 3).flatten(2)


def test_means_and_spreads_are_those_of_all_patches(tokens) -> None:
    statistics = TokenStatistics(tokens, 3)
    seen = statistics(tokens)
    patches = tokens.reshape(40, PLACES * 4, WIDTH)
    assert seen.shape == (40, 2 * WIDTH + 6)
    torch.testing.assert_close(statistics.means(seen), patches.mean(1))
    torch.testing.assert_close(seen[:, WIDTH : 2 * WIDTH], patches.std(1).log())


def test_components_of_known_pictures_are_white_and_the_largest(tokens) -> None:
    for directions in (2, WIDTH):
        statistics = TokenStatistics(tokens, directions)
        # One picture that holds them all varies as they do.
        everything = statistics(tokens.flatten(0, 1)[None])[0, 2 * WIDTH :]
        rows, columns = torch.triu_indices(directions, directions)
        white = (rows == columns).float()
        torch.testing.assert_close(everything, white, atol=1e-4, rtol=0)
    patches = tokens.reshape(-1, WIDTH)
    lengths = TokenStatistics(tokens, 2).whitening.norm(dim=0) ** -2
    largest = torch.linalg.eigvalsh(torch.cov(patches.T))[-2:]
    torch.testing.assert_close(lengths, largest, rtol=1e-4, atol=0)


def test_where_a_patch_lies_makes_no_difference_but_what_goes_together_does(tokens) -> None:
    statistics = TokenStatistics(tokens, 3)
    patches = tokens.reshape(40, PLACES * 4, WIDTH)
    elsewhere = patches[:, torch.randperm(PLACES * 4)].reshape_as(tokens)
    torch.testing.assert_close(statistics(elsewhere), statistics(tokens), rtol=1e-3, atol=1e-4)
    apart = patches.clone()
    apart[:, :, -1] = patches[:, torch.randperm(PLACES * 4), -1]
    before, after = statistics(tokens), statistics(apart.reshape_as(tokens))
    torch.testing.assert_close(after[:, : 2 * WIDTH], before[:, : 2 * WIDTH], rtol=1e-3, atol=1e-4)
    assert float((after - before)[:, 2 * WIDTH :].abs().max()) > 0.1


def test_a_channel_that_never_varies_has_a_spread_all_the_same(tokens) -> None:
    flat = tokens.reshape(40, PLACES, 4, WIDTH).clone()
    flat[..., 2] = 1.0
    seen = TokenStatistics(flat.flatten(2), WIDTH)(flat.flatten(2))
    assert bool(seen.isfinite().all())


def test_emphasis_counts_each_number_by_its_part(tokens) -> None:
    emphasis = TokenStatistics(tokens, 3).emphasis(8, 4, 1)
    wanted = torch.tensor([8.0] * WIDTH + [4.0] * WIDTH + [1.0] * 6) / 13 * 3
    torch.testing.assert_close(emphasis, wanted)
