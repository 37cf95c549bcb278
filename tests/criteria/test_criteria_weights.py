"""Criteria from weights, BatchNorm and nothing at all: golden numbers, and slow obvious versions."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.func import functional_call

from criteria.batchnorm import bn_beta, bn_gamma
from criteria.control import random
from criteria.criterion import LayerCriterion
from criteria.layer import BatchNorm, Label, Weights, filters_first
from criteria.norm import l2, lamp, repr, whc


def golden() -> np.ndarray:
    """The array recipe of the specification, section 10, with seed 7."""
    generator = np.random.default_rng(7)
    weight = generator.standard_normal((32, 16, 3, 3)) * 0.05
    return weight * (1 + 0.1 * generator.standard_normal((32, 1, 1, 1)))


def scores(criterion: LayerCriterion, weight: np.ndarray) -> np.ndarray:
    return criterion(Weights(torch.tensor(weight))).numpy()


def test_golden_repr() -> None:
    # Specification, section 10, items 5 and 6; printed to six and to four decimals.
    found = scores(repr, golden())
    assert np.argsort(found, kind="stable")[:8].tolist() == [17, 11, 18, 2, 20, 7, 31, 27]
    assert -found.sum() == pytest.approx(1.983285, abs=5e-7)
    assert spearmanr(scores(l2, golden()), found).statistic == pytest.approx(-0.2214, abs=5e-5)


def slow_repr(filters: np.ndarray) -> list[float]:
    """Row means of |F F^T - I| with unit rows, one number at a time."""
    unit = [row / math.sqrt(sum(row * row)) for row in filters]
    n = len(unit)
    return [-sum(abs(sum(unit[j] * unit[k]) - (j == k)) for k in range(n)) / n for j in range(n)]


def slow_lamp(filters: np.ndarray) -> list[float]:
    squares = [float(sum(row * row)) for row in filters]
    return [mine / sum(other for other in squares if other >= mine) for mine in squares]


def slow_whc(filters: np.ndarray) -> list[float]:
    """As the paper writes it, with the cosine."""
    norm = [math.sqrt(sum(row * row)) for row in filters]

    def cosine(j: int, k: int) -> float:
        return float(sum(filters[j] * filters[k])) / (norm[j] * norm[k])

    others = [[k for k in range(len(filters)) if k != j] for j in range(len(filters))]
    return [norm[j] * sum(norm[k] * (1 - abs(cosine(j, k))) for k in others[j]) for j in range(len(filters))]


SLOW: tuple[tuple[LayerCriterion, Callable[[np.ndarray], list[float]]], ...] = (
    (repr, slow_repr),
    (lamp, slow_lamp),
    (whc, slow_whc),
)


@pytest.mark.parametrize(("criterion", "slow"), SLOW)
@pytest.mark.parametrize(("shape", "offset"), (((2, 5), 0.0), ((9, 27), 0.0), ((24, 8), 0.0), ((24, 8), 10.0)))
def test_against_a_slow_version(
    criterion: LayerCriterion, slow: Callable[[np.ndarray], list[float]], shape: tuple[int, int], offset: float
) -> None:
    filters = np.random.default_rng(3).standard_normal(shape) + offset
    np.testing.assert_allclose(scores(criterion, filters), slow(filters), rtol=1e-9)


def test_three_filters_by_hand() -> None:
    # Norms 5, 5 and 2; cosines 0.6, 0.8 and 0 of (0, 1), (0, 2) and (1, 2).
    filters = np.array([[3.0, 4.0, 0], [5, 0, 0], [0, 2, 0]])
    np.testing.assert_allclose(scores(repr, filters), [-1.4 / 3, -0.6 / 3, -0.8 / 3], rtol=1e-15)
    np.testing.assert_allclose(scores(lamp, filters), [25 / 50, 25 / 50, 4 / 54], rtol=1e-15)
    np.testing.assert_allclose(scores(whc, filters), [10 + 2, 10 + 10, 2 + 10], rtol=1e-15)


def test_a_filter_of_zeros_by_hand() -> None:
    filters = np.array([[0.0, 0], [1, 0], [1, 1]])
    np.testing.assert_allclose(scores(repr, filters), [0, -(0.5**0.5) / 3, -(0.5**0.5) / 3], rtol=1e-12)
    np.testing.assert_allclose(scores(lamp, filters), [0, 1 / 3, 1], rtol=1e-15)
    np.testing.assert_allclose(scores(whc, filters), [0, 2**0.5 - 1, 2**0.5 - 1], rtol=1e-12)


def test_lamp_orders_a_layer_as_l2_does_and_not_two_layers() -> None:
    filters = golden()
    assert np.array_equal(np.argsort(scores(lamp, filters)), np.argsort(scores(l2, filters)))
    # The largest filter of any layer scores 1, however small its weights.
    assert scores(lamp, 1e-6 * filters).max() == scores(lamp, filters).max() == 1


def test_batchnorm_by_hand() -> None:
    layer = BatchNorm(torch.tensor([-2.0, 0.5, 0.0]), torch.tensor([0.0, 3.0, -4.0]))
    assert bn_gamma(layer).tolist() == [2, 0.5, 0] and bn_beta(layer).tolist() == [0, 3, 4]


def test_random_is_a_function_of_seed_and_layer() -> None:
    def draw(seed: int, layer: str, n: int = 1000) -> Tensor:
        return random(Label(layer, n), seed=seed)

    everything = {key: draw(*key) for key in ((0, "conv1"), (0, "conv2"), (1, "conv1"), (2**63 - 1, "conv1"), (0, "1/conv"))}
    before = torch.get_rng_state()
    for key, found in everything.items():
        assert torch.equal(found, draw(*key))
        # Mean and variance of the uniform distribution, within four standard errors.
        assert abs(float(found.mean()) - 1 / 2) < 4 * (1 / 12 / 1000) ** 0.5 and 0 <= found.min() and found.max() < 1
        assert abs(float(found.var()) - 1 / 12) < 4 * (1 / 180 / 1000) ** 0.5
    assert torch.equal(torch.get_rng_state(), before), "the global generator is nobody's business"
    pairs = [abs(np.corrcoef(a, b)[0, 1]) for a in everything.values() for b in everything.values() if a is not b]
    assert max(pairs) < 4 / 1000**0.5
    # Pinned from this code: tables of random pruning are made again with the same filters.
    np.testing.assert_allclose(draw(0, "layer1.0.conv1", 3), PINNED, rtol=1e-15)


PINNED = [0.4263821809869336, 0.1734776329244898, 0.9796164962182898]

# Specification, section 10, item 44: number and length of the filters.
SHAPES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "transposed": (lambda: nn.ConvTranspose2d(32, 16, 4), (16, 512)),
    "grouped transposed": (lambda: nn.ConvTranspose2d(12, 6, 3, groups=3), (6, 36)),
    "grouped": (lambda: nn.Conv2d(32, 64, 3, groups=4), (64, 72)),
    "depthwise": (lambda: nn.Conv2d(64, 64, 3, groups=64), (64, 9)),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_row_is_all_that_makes_one_output_channel(kind: str) -> None:
    make, shape = SHAPES[kind]
    layer = make().double().requires_grad_(False)
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    x = torch.randn(1, layer.in_channels, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = partial(filters_first, transposed=layer.transposed, groups=layer.groups)
    # Where in the weight tensor the numbers of each row lie.
    places = rows(torch.arange(layer.weight.numel()).view_as(layer.weight)).flatten(1)
    assert tuple(places.shape) == shape
    without_bias = {"bias": torch.zeros(layer.out_channels, dtype=torch.float64)}
    outputs = functional_call(layer, without_bias, (x,))
    for channel in (0, shape[0] // 2, shape[0] - 1):
        emptied = layer.weight.clone()
        emptied.view(-1)[places[channel]] = 0
        changed = functional_call(layer, {"weight": emptied, **without_bias}, (x,))
        others = torch.arange(shape[0]) != channel
        assert (changed[0, channel] == 0).all() and torch.equal(changed[0, others], outputs[0, others])


def test_the_papers_dcgan_tables_take_the_first_dimension_as_it_is() -> None:
    weight = nn.ConvTranspose2d(32, 16, 4).weight
    assert tuple(filters_first(weight, transposed=True, legacy_dim0=True).flatten(1).shape) == (32, 256)
