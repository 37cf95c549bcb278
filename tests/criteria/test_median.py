"""Layers larger than what is taken at a time, and hostile ones: gm against direct differences, medians with their proof."""

import doctest
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from criteria import median
from criteria.layer import ROWS, Weights
from criteria.median import geometric_median
from criteria.norm import fermat, gm

Hostile = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def test_the_worked_example() -> None:
    assert doctest.testmod(median) == (0, 3)
    filters = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    found = fermat(Weights(torch.tensor(filters))).tolist()
    assert [round(each, 3) for each in (*found, sum(found))] == [0.299, 0.816, 0.816, 1.932]
    found = cdist(filters, [[1 / 3, 1 / 3]])[:, 0].tolist()
    assert [round(each, 3) for each in (*found, sum(found))] == [0.471, 0.745, 0.745, 1.962]


@pytest.mark.parametrize("offset", (0.0, 1e3))
@pytest.mark.parametrize("shape", ((ROWS + 1, 193), (2 * ROWS, 384), (2 * ROWS + 5, 3)))
def test_gm_of_several_blocks(shape: tuple[int, int], offset: float) -> None:
    generator = np.random.default_rng(shape)
    filters = generator.standard_normal(shape) * np.exp(3 * generator.standard_normal((shape[0], 1))) + offset
    filters[-1] = filters[0] + 1e-7 * filters[1]
    layer = Weights(torch.tensor(filters))
    np.testing.assert_allclose(gm(layer).numpy(), cdist(filters, filters).sum(1), rtol=1e-9)


@pytest.mark.parametrize("shape", ((351, 170), (351, 682), (325, 1123)))
def test_equal_filters_have_equal_gm_wherever_they_stand(shape: tuple[int, int]) -> None:
    # With AVX-512, the matrix product rounds the last rows of these otherwise than the first.
    filters = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    equal = [0, len(filters) // 3, *range(len(filters) - 7, len(filters))]
    filters[equal] = filters[0]
    assert len(set(gm(Weights(torch.tensor(filters)))[equal].tolist())) == 1


def heavy_tailed(filters: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return filters * np.exp(3 * generator.standard_normal((len(filters), 1)))


def half_nearly_dead(filters: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return filters * np.where(np.arange(len(filters)) < len(filters) // 2, 1e-6, 1)[:, None]


def nearly_the_same(filters: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return filters[:1] + 1e-6 * filters


def with_copies(filters: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return filters[generator.integers(0, len(filters), len(filters))]


def on_a_line(filters: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return np.outer(filters[:, 0], filters[0])


def whole_numbers(filters: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return np.round(filters)


def far_away(filters: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return filters + 1e3


def of_any_size(filters: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return filters * 10.0 ** generator.integers(-18, 12)


def symmetric(filters: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return np.concatenate([filters, -filters])


def one_beside_the_mean(filters: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return np.concatenate([filters.mean(0, keepdims=True) + 10.0 ** -generator.integers(3, 14) * filters[:1], filters[1:]])


HOSTILE: tuple[Hostile, ...] = (
    heavy_tailed,
    half_nearly_dead,
    nearly_the_same,
    with_copies,
    on_a_line,
    whole_numbers,
    far_away,
    of_any_size,
    symmetric,
    one_beside_the_mean,
)


def unmet_pull(filters: np.ndarray, point: np.ndarray) -> float:
    """0 exactly at a median: what the filters there cannot hold of the pull of the others, by direct differences."""
    away = filters - point
    lengths = np.sqrt((away**2).sum(1))
    here = lengths <= 1e-12 * np.abs(filters - filters.mean(0)).max()
    pull = (away[~here] / lengths[~here, None]).sum(0)
    return max(0.0, float(np.sqrt(pull @ pull)) - int(here.sum())) / len(filters)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_layers_get_a_median_with_its_proof(kind: Hostile) -> None:
    generator = np.random.default_rng(11)
    for _ in range(25):
        shape = (generator.choice([1, 2, 3, 4, 5, 8, 16, 33, 65]), generator.choice([1, 2, 3, 9, 27, 144, 300]))
        filters = kind(generator.standard_normal(shape), generator)
        median = geometric_median(Weights(torch.tensor(filters)))
        assert median.residual <= 1e-9 and unmet_pull(filters, median.point.numpy()) <= 2e-9, shape
