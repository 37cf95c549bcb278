"""Scores worked by hand, golden numbers of the specification, and slow obvious versions."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from analysis.similarity import spearman
from criteria.criterion import LayerCriterion
from criteria.layer import Weights
from criteria.median import geometric_median
from criteria.norm import fermat, gm, l1, l2
from runners.scoring.score import score
from runners.selection.rule import Rule
from runners.selection.select import select
from runners.tracing.channels import trace_channels

CRITERIA: dict[str, LayerCriterion] = {"l1": l1, "l2": l2, "gm": gm, "fermat": fermat}


def recipe(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """The array recipe of the specification, section 10."""
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal(shape) * 0.05
    return weight * (1 + 0.1 * generator.standard_normal((shape[0], 1, 1, 1)))


def scores(criterion: LayerCriterion, weight: object) -> np.ndarray:
    return criterion(Weights(torch.as_tensor(weight))).numpy()


# Specification, section 10, items 1 to 4 (seed 7) and 12 (seed 4242).
SMALL, LARGE = (7, (32, 16, 3, 3)), (4242, (64, 3, 3, 3))
LOWEST = (
    ("l1", SMALL, [16, 22, 24, 21, 19, 27, 12, 13]),
    ("l2", SMALL, [22, 16, 19, 12, 27, 24, 21, 2]),
    ("gm", SMALL, [22, 16, 12, 27, 19, 24, 21, 25]),
    ("fermat", SMALL, [22, 16, 12, 27, 19, 24, 21, 25]),
    ("l1", LARGE, [50, 26, 38, 20, 46, 6, 13, 21]),
    ("l2", LARGE, [50, 20, 38, 26, 6, 36, 46, 10]),
    ("gm", LARGE, [50, 26, 38, 20, 6, 14, 36, 56]),
    ("fermat", LARGE, [50, 26, 38, 20, 6, 14, 36, 8]),
)
SUMS = {"l1": 181.048245, "l2": 18.873977, "gm": 828.255047, "fermat": 18.561562}


@pytest.mark.parametrize(("name", "array", "lowest"), LOWEST)
def test_golden_order(name: str, array: tuple[int, tuple[int, ...]], lowest: list[int]) -> None:
    found = scores(CRITERIA[name], recipe(*array))
    assert np.argsort(found, kind="stable")[:8].tolist() == lowest


@pytest.mark.parametrize(("name", "total"), SUMS.items())
def test_golden_sums(name: str, total: float) -> None:
    # Printed to six decimals.
    assert scores(CRITERIA[name], recipe(*SMALL)).sum() == pytest.approx(total, abs=5e-7)


def test_golden_range_of_l1_and_length_of_the_median() -> None:
    found = scores(l1, recipe(*SMALL))
    assert (found.min(), found.max()) == (pytest.approx(4.436547, abs=5e-7), pytest.approx(7.257942, abs=5e-7))
    median = geometric_median(Weights(torch.tensor(recipe(*SMALL))))
    assert float(median.point.norm()) == pytest.approx(0.106521, abs=1e-5)


def test_three_filters_by_hand() -> None:
    # On one line through the origin: distances 5, 5 and 10; the middle filter (3, 4) is the median.
    filters = [[3.0, 4.0], [0.0, 0.0], [-6.0, -8.0]]
    np.testing.assert_allclose(scores(l1, filters), [7, 0, 14], rtol=1e-15)
    np.testing.assert_allclose(scores(l2, filters), [5, 0, 10], rtol=1e-15)
    np.testing.assert_allclose(scores(gm, filters), [20, 15, 25], rtol=1e-15)
    np.testing.assert_allclose(scores(fermat, filters), [5, 0, 10], rtol=1e-15)


def test_two_filters_by_hand() -> None:
    # Every point between two filters is a median; the specification starts from the mean, which is one.
    filters = [[0.0, 0.0], [3.0, 4.0]]
    np.testing.assert_allclose(scores(gm, filters), [5, 5], rtol=1e-15)
    np.testing.assert_allclose(scores(fermat, filters), [2.5, 2.5], rtol=1e-9)


def test_a_kernel_counts_as_one_row_of_numbers() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0, -4.0], [0.0, 0.0, 0.0, -0.5]])
    for shape in ((2, 1, 2, 2), (2, 4, 1, 1), (2, 2, 2)):
        np.testing.assert_allclose(scores(l1, weight.reshape(shape)), [10, 0.5], rtol=1e-15)
        np.testing.assert_allclose(scores(l2, weight.reshape(shape)), [30**0.5, 0.5], rtol=1e-15)


@pytest.mark.parametrize("offset", (0.0, 1e3, 1e6))
@pytest.mark.parametrize("shape", ((2, 5), (3, 1), (17, 144), (64, 27)))
def test_l2_and_gm_against_direct_differences(shape: tuple[int, int], offset: float) -> None:
    filters = np.random.default_rng(1).standard_normal(shape) + offset
    np.testing.assert_allclose(scores(gm, filters), cdist(filters, filters).sum(1), rtol=1e-9)
    np.testing.assert_allclose(scores(l2, filters), cdist(filters, np.zeros((1, shape[1])))[:, 0], rtol=1e-9)


def test_gm_of_duplicated_filters() -> None:
    filters = np.random.default_rng(2).standard_normal((6, 27))
    filters[4] = filters[1]
    np.testing.assert_allclose(scores(gm, filters), cdist(filters, filters).sum(1), rtol=1e-9)


# Fermat point: closed forms, then a certificate that holds for any layer.


def unmet_pull(filters: np.ndarray, point: np.ndarray) -> float:
    """0 exactly where the sum of distances is smallest (it is convex): what the filters here cannot hold of the pull."""
    away = filters - point
    lengths = np.sqrt((away**2).sum(1))
    here = lengths < 1e-12
    pull = (away[~here] / lengths[~here, None]).sum(0)
    return max(0.0, float(np.sqrt(pull @ pull)) - int(here.sum())) / len(filters)


def slow_median(filters: np.ndarray) -> np.ndarray:
    """Weiszfeld 1937 on direct differences, for layers whose median lies away from every filter."""
    point = filters.mean(0)
    for _ in range(5000):
        weight = 1 / np.sqrt(((filters - point) ** 2).sum(1))
        point = weight @ filters / weight.sum()
    return point


def mean_on_a_filter(height: float) -> np.ndarray:
    """They sum to (0, 0), the second filter; the others' unit vectors there sum to 2 / sqrt(1 + height^2)."""
    return np.array([[-6.0, 0], [0, 0], [1, height], [1, -height], [4, 0]])


def line(*numbers: float) -> np.ndarray:
    return np.outer(numbers, [1.0, -2.0, 2.0]) / 3


# filters, the sum of the distances to their median
SQRT3 = 3**0.5
CLOSED: dict[str, tuple[np.ndarray, float]] = {
    "equilateral triangle of side 2": (np.array([[-1, 0], [1, 0], [0, SQRT3]]), 2 * SQRT3),
    # (sqrt(6) + sqrt(2)) / 2, the length of the Steiner tree
    "right triangle": (np.array([[0.0, 0], [1, 0], [0, 1]]), (6**0.5 + 2**0.5) / 2),
    # The median of a convex quadrangle is where its diagonals cross, here (1, 1).
    "quadrangle": (np.array([[0.0, 0], [2, 0], [3, 3], [0, 2]]), 18**0.5 + 8**0.5),
    "angle above 120 degrees": (np.array([[0.0, 0], [3, 1], [-3, 1]]), 2 * 10**0.5),
    "odd number on a line": (line(-1, 0, 4, 9, 100), 96 + 5 + 4 + 0 + 5),
    "even number on a line": (line(0, 1, 3, 7), 7 + 2),
    "two of three the same": (np.array([[1.0, 2, 3], [5, 5, 5], [1, 2, 3]]), 29**0.5),
    "majority the same": (np.array([[1.0, 1], [4, 5], [1, 1], [1, 9], [1, 1]]), 5.0 + 8),
    "all the same": (np.full((7, 5), 0.1), 0.0),
    "all zero": (np.zeros((4, 9)), 0.0),
    "one filter": (np.array([[1.0, 2, 3]]), 0.0),
    "two filters": (np.array([[0.0, 0], [3, 4]]), 5.0),
    # At (x, 0) with 0 < x < 1 the sum is 10 + x + 2 sqrt((1 - x)^2 + 1), smallest where 1 - x = 1 / sqrt(3).
    "mean on a filter that is not the median": (mean_on_a_filter(1), 11 + SQRT3),
}


@pytest.mark.parametrize("case", CLOSED)
def test_fermat_closed_forms(case: str) -> None:
    filters, total = CLOSED[case]
    median = geometric_median(Weights(torch.tensor(filters)))
    assert scores(fermat, filters).sum() == pytest.approx(total, rel=1e-12, abs=1e-12)
    assert median.residual <= 1e-9 and unmet_pull(filters, median.point.numpy()) <= 1e-9


def test_median_on_a_filter_is_that_filter() -> None:
    for case, where in (("odd number on a line", 2), ("majority the same", 0), ("angle above 120 degrees", 0)):
        filters = CLOSED[case][0]
        np.testing.assert_allclose(scores(fermat, filters), cdist(filters, filters[where : where + 1])[:, 0], rtol=1e-12)
        assert scores(fermat, filters)[where] == 0, case


@pytest.mark.parametrize("offset", (0.0, 1e3))
@pytest.mark.parametrize("shape", ((3, 4), (5, 2), (8, 27), (20, 40)))
def test_fermat_against_a_slow_minimiser(shape: tuple[int, int], offset: float) -> None:
    filters = np.random.default_rng(shape).standard_normal(shape)
    point = slow_median(filters)
    assert unmet_pull(filters, point) < 1e-12 and cdist(filters, point[None]).min() > 0.1, "the slow version is no reference"
    np.testing.assert_allclose(scores(fermat, filters + offset), cdist(filters, point[None])[:, 0], rtol=1e-8)


def near_vertex(degrees: float) -> np.ndarray:
    """Three filters that meet at an angle: up to 120 degrees the median leaves the one at the corner."""
    half = np.deg2rad(degrees) / 2
    return np.array([[0.0, 0.0], [np.cos(half), np.sin(half)], [np.cos(half), -np.sin(half)]])


def half_dead() -> np.ndarray:
    """Weight decay has driven half of the filters to almost nothing."""
    filters = np.random.default_rng(3).standard_normal((16, 27))
    filters[:8] *= 1e-6
    return filters


def nearly_the_same() -> np.ndarray:
    generator = np.random.default_rng(4)
    return generator.standard_normal(27) + 1e-6 * generator.standard_normal((12, 27))


HARD: dict[str, Callable[[], np.ndarray]] = {
    "mean on a filter": lambda: mean_on_a_filter(1),
    # Pulled away by 1.02, against the 1 that the filter itself holds.
    "mean on a filter that barely is not the median": lambda: mean_on_a_filter(((2 / 1.02) ** 2 - 1) ** 0.5),
    "119 degrees": lambda: near_vertex(119),
    "119.9 degrees": lambda: near_vertex(119.9),
    "120 degrees": lambda: near_vertex(120),
    "120.1 degrees": lambda: near_vertex(120.1),
    "half of the filters dead": half_dead,
    "all filters nearly the same": nearly_the_same,
    "more filters than numbers": lambda: np.random.default_rng(5).standard_normal((64, 3)),
    "golden": lambda: recipe(*SMALL).reshape(32, -1),
    "wide": lambda: np.random.default_rng(6).standard_normal((48, 576)) * 0.02,
}


@pytest.mark.parametrize("case", HARD)
def test_the_median_always_comes_with_its_proof(case: str) -> None:
    filters = HARD[case]()
    median = geometric_median(Weights(torch.tensor(filters)))
    assert median.residual <= 1e-9
    assert unmet_pull(filters, median.point.numpy()) == pytest.approx(median.residual, abs=1e-9)


def test_a_median_that_is_no_single_point_does_not_depend_on_the_order() -> None:
    filters = CLOSED["even number on a line"][0]
    np.testing.assert_allclose(scores(fermat, filters[::-1].copy())[::-1], scores(fermat, filters), rtol=1e-9)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("name", CRITERIA)
def test_low_precision_weights_are_scored_in_float64(name: str, dtype: torch.dtype) -> None:
    rounded: Tensor = torch.tensor(recipe(*SMALL)).to(dtype)
    found = CRITERIA[name](Weights(rounded))
    assert found.dtype == torch.float64 and found.isfinite().all()
    assert torch.equal(found, CRITERIA[name](Weights(rounded.double())))


def test_identical_filters_go_in_order_of_their_index_and_have_no_rank_correlation() -> None:
    # Specification, section 10, item 45.
    first = nn.Conv2d(3, 9, 3)
    with torch.no_grad():
        first.weight.copy_(first.weight[:1].clone())
    network = nn.Sequential(first, nn.ReLU(), nn.Conv2d(9, 4, 3), nn.Flatten(), nn.Linear(4 * 4 * 4, 2))
    channels = trace_channels(network, torch.zeros(1, 3, 8, 8))
    table = score(network, channels, CRITERIA)
    for name in CRITERIA:
        chosen = select(table, name, channels, Rule(ratio=0.9))
        assert chosen.set_index("layer").loc["0", "removed"] == "0 1 2 3 4 5 6 7", name
    rho = spearman(table[table["layer"] == "0"])
    assert len(rho) == 6 and rho["rho"].isna().all() and (rho["note"] == "constant scores").all()
