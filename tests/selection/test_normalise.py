"""Scores on a common scale: closed forms, the order kept, units gone."""

from typing import get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.selection.normalise import NORMALISATIONS, normalised
from runners.selection.rule import Rule

# Where the unit of the scores has no effect.
SCALE_FREE = ("mean", "l2", "max", "zscore", "rank")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        # Of 1, 2, 2, 7 with 16 weights a filter: mean 3, l2 norm sqrt(58), variance (4 + 1 + 1 + 16) / 4 = 5.5.
        ("none", [1, 2, 2, 7]),
        ("mean", [1 / 3, 2 / 3, 2 / 3, 7 / 3]),
        ("l2", [1 / 58**0.5, 2 / 58**0.5, 2 / 58**0.5, 7 / 58**0.5]),
        ("max", [1 / 7, 2 / 7, 2 / 7, 1]),
        ("sqrt_dim", [0.25, 0.5, 0.5, 1.75]),
        ("zscore", [-2 / 5.5**0.5, -1 / 5.5**0.5, -1 / 5.5**0.5, 4 / 5.5**0.5]),
        ("rank", [1 / 4, 2.5 / 4, 2.5 / 4, 1]),
    ],
)
def test_by_hand(how: str, expected: list[float]) -> None:
    np.testing.assert_allclose(normalised(np.array([1.0, 2, 2, 7]), how, 16), expected, rtol=1e-14)


def test_the_options_are_those_of_the_rule() -> None:
    assert list(get_args(get_type_hints(Rule)["normalise"])) == list(NORMALISATIONS)


@pytest.mark.parametrize("how", NORMALISATIONS)
def test_constant_and_zero_scores_stay_constant(how: str) -> None:
    for value in (0.0, 0.1, -3.0):
        found = normalised(np.full(5, value), how, 9)
        assert np.isfinite(found).all() and np.ptp(found) == 0
    assert normalised(np.full(3, 0.1), "zscore", 9).tolist() == [0, 0, 0]


@settings(deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=12), st.sampled_from(sorted(NORMALISATIONS)))
def test_the_order_survives_whatever_the_sign(scores: list[int], how: str) -> None:
    before = np.array(scores, dtype=float)
    after = normalised(before, how, 9)
    assert np.array_equal(np.sign(before[:, None] - before), np.sign(after[:, None] - after))


@settings(deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=12), st.sampled_from(SCALE_FREE))
def test_the_unit_does_not_matter(scores: list[int], how: str) -> None:
    before = np.array(scores, dtype=float)
    np.testing.assert_allclose(normalised(8 * before, how, 9), normalised(before, how, 9), rtol=1e-12)
