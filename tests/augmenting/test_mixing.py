"""Mixup and CutMix: shares against SciPy's Beta distribution, batches against loops over images."""

import numpy as np
import pytest
import torch
from scipy import stats

from runners.augmenting.draws import Draws, Mixture
from runners.augmenting.mixing import DOWN, MIXED, PARTNER, RESOLUTION, RIGHT, SHARE, beta, cutmix, mixup

N, HEIGHT, WIDTH = 12, 9, 7


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(N, 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last), torch.arange(N) % 5


def draws(word: int) -> Draws:
    return Draws(torch.arange(N) + 100, torch.tensor(word))


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 4.0])
def test_shares_are_of_the_beta_distribution(alpha: float) -> None:
    """At even spaces of the uniform number the distribution functions differ by one step of the table and of the grid."""
    uniform = (torch.arange(2**18) + 0.5) / 2**18
    found = beta(uniform, alpha).double().numpy()
    assert np.all(np.diff(found) >= 0) and found[0] >= 0 and found[-1] <= 1
    distance = stats.kstest(found, stats.beta(alpha, alpha).cdf).statistic
    # A share that is 0 or 1 in 32 bits stands for all that round to it.
    atom = float(np.mean(found == 1.0))
    assert distance <= 1 / RESOLUTION + 1 / 2**18 + atom
    drawn = beta(Draws(torch.arange(20_000), torch.tensor(9)).uniform(0), alpha).double().numpy()
    assert np.mean(drawn < 0.5) == pytest.approx(0.5, abs=5 * 0.5 / 20_000**0.5)
    low = drawn[drawn < 0.5]  # near 1 many shares have the same 32 bits
    assert stats.kstest(low, lambda share: 2 * stats.beta(alpha, alpha).cdf(share)).pvalue > 0.001
    assert stats.kstest(low, lambda share: 2 * stats.beta(alpha * 1.3, alpha * 1.3).cdf(share)).pvalue < 0.001, "the control"


def test_mixup_is_a_loop_over_pairs() -> None:
    (x, labels), shares = batch(), set()
    for word in range(5):
        found, mixture = mixup(x, labels, draws(word), alpha=1)
        share = beta(draws(word).once.uniform(SHARE), 1).item()
        partner = draws(word).permutation(PARTNER).tolist()
        assert sorted(partner) == list(range(N)) and partner != list(range(N))
        for image in range(N):
            expected = share * x[image].double() + (1 - share) * x[partner[image]].double()
            torch.testing.assert_close(found[image].double(), expected, rtol=0, atol=2e-7)
        check_targets(mixture, labels, partner, share)
        assert found.is_contiguous(memory_format=torch.channels_last)
        shares.add(share)
    assert len(shares) == 5, "one share for the batch, another one for the next word"


def check_targets(mixture: Mixture, labels: torch.Tensor, partner: list[int], share: float) -> None:
    assert torch.equal(mixture.labels, labels) and torch.equal(mixture.partners, labels[partner])
    assert mixture.share.tolist() == [pytest.approx(share, rel=1e-7)] * N


def test_cutmix_is_a_loop_over_the_box() -> None:
    x, labels = batch()
    areas = []
    for word in range(60):
        found, mixture = cutmix(x, labels, draws(word), alpha=1, probability=0.5)
        once, partner = draws(word).once, draws(word).permutation(PARTNER).tolist()
        mixed = once.uniform(MIXED).item() < 0.5
        side = (1 - beta(once.uniform(SHARE), 1).item()) ** 0.5 if mixed else 0
        down, right = once.integers(HEIGHT, DOWN).item(), once.integers(WIDTH, RIGHT).item()
        half_height, half_width = int(side * HEIGHT) // 2, int(side * WIDTH) // 2
        expected, area = x.clone(), 0
        for row in range(HEIGHT):
            for column in range(WIDTH):
                if down - half_height <= row < down + half_height and right - half_width <= column < right + half_width:
                    expected[:, :, row, column] = x[partner, :, row, column]
                    area += 1
        assert torch.equal(found, expected)
        check_targets(mixture, labels, partner, 1 - area / (HEIGHT * WIDTH))
        areas.append(area)
    assert 20 < sum(area > 0 for area in areas) < 40 and 0 in areas, "half the batches, but for boxes without a pixel"


def test_an_area_is_that_of_one_minus_lambda_where_nothing_is_cut_off() -> None:
    """Of large images and boxes in the middle: rounding takes less than two rows and two columns."""
    x, seen = torch.zeros(2, 1, 1000, 1000), 0
    for word in range(200):
        once = Draws(torch.arange(2), torch.tensor(word)).once
        share = beta(once.uniform(SHARE), 1).item()
        half = 500 * (1 - share) ** 0.5
        if all(half <= once.integers(1000, which).item() <= 1000 - half for which in (DOWN, RIGHT)):
            mixture = cutmix(x, torch.arange(2), Draws(torch.arange(2), torch.tensor(word)), alpha=1, probability=1)[1]
            assert 0 <= mixture.share[0].item() - share < 0.004
            seen += 1
    assert seen > 10


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_batch_is_never_or_always_mixed(probability: float) -> None:
    (x, labels), n_mixed = batch(), 0
    for word in range(20):
        found, mixture = cutmix(x, labels, draws(word), alpha=100, probability=probability)
        n_mixed += not torch.equal(found, x)
        assert (mixture.share == 1).all() == torch.equal(found, x)
    assert n_mixed == 20 * probability
