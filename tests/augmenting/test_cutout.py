"""Cutout, against loops over pixels."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from runners.augmenting.cutout import DOWN, RIGHT, cutout
from runners.augmenting.draws import Draws


def draws(n: int, word: int = 3) -> Draws:
    return Draws(torch.arange(n), torch.tensor(word))


@pytest.mark.parametrize(("length", "height", "width"), [(4, 8, 6), (5, 8, 6), (1, 3, 3), (9, 6, 5)])
def test_cutout_is_the_square_of_a_loop(length: int, height: int, width: int) -> None:
    x = torch.rand(50, 2, height, width, generator=torch.Generator().manual_seed(0)) + 1
    found, expected = cutout(x, draws(50), length=length), x.clone()
    downs, rights = draws(50).integers(height, DOWN).tolist(), draws(50).integers(width, RIGHT).tolist()
    for image, down, right in zip(expected, downs, rights, strict=True):
        for row in range(down - length // 2, down - length // 2 + length):
            for column in range(right - length // 2, right - length // 2 + length):
                if 0 <= row < height and 0 <= column < width:
                    image[:, row, column] = 0
    assert torch.equal(found, expected) and not torch.equal(found, x)


def test_centres_are_uniform_over_all_pixels() -> None:
    """A pixel of a corner is in the squares of a quarter of the centres near it: 9 * 9 or 8 * 8 of 32 * 32."""
    n = 10_000
    erased = cutout(torch.ones(n, 1, 32, 32), draws(n), length=16) == 0
    centres = (draws(n).integers(32, DOWN) // 8 * 4 + draws(n).integers(32, RIGHT) // 8).numpy()
    assert chisquare(np.bincount(centres, minlength=16)).pvalue > 0.001
    share = erased.float().mean(0)[0]
    # Five standard deviations of a share of 10,000 images. The first row lies in squares with centres 0 to 8, the last one
    # in those with centres 24 to 31 (the centre begins the second half).
    for place, rows in ((0, 9), (16, 16), (31, 8)):
        expected = (rows / 32) ** 2
        assert share[place, place] == pytest.approx(expected, abs=5 * (expected * (1 - expected) / n) ** 0.5)


def test_a_square_that_always_covers_everything_is_refused() -> None:
    assert cutout(torch.ones(100, 1, 4, 4), draws(100), length=6).any()
    with pytest.raises(ValueError, match="length=7"):
        cutout(torch.ones(2, 1, 4, 4), draws(2), length=7)
