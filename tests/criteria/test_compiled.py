"""The compiled loop against NumPy."""

import numpy as np
import pytest
import torch

from criteria.compiled import product_sums
from criteria.gradient import snip, taylor_l1, taylor_l2
from criteria.layer import Gradients


def by_numpy(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    product = a.astype(np.float64) * b
    return np.stack([product.sum(1), np.abs(product).sum(1), np.square(product).sum(1)])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (64, 27), (3, 100_003), (4, 0), (0, 4)])
def test_sums_are_those_of_numpy(shape: tuple[int, int], kind: type) -> None:
    a, b = np.random.default_rng(shape).standard_normal((2, *shape)).astype(kind)
    found, expected = product_sums(a, b), by_numpy(a, b)
    np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-12)
    np.testing.assert_array_less(np.abs(found[0] - expected[0]), 1e-12 * expected[1] + 1e-300)


def test_numbers_that_are_none_come_through() -> None:
    a, b = np.ones((2, 4, 33), np.float32)
    a[0, 7], a[1, 7], a[2, 7] = np.nan, np.inf, -np.inf
    found = product_sums(a, b)
    assert np.isnan(found[:, 0]).all() and np.isinf(found[:, 1:3]).all()
    assert found[0, 2] < 0 < found[1, 2] and found[:, 3].tolist() == [33, 33, 33]


def test_equal_rows_have_equal_sums_wherever_they_stand() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 37, 1001)).astype(np.float32)
    a[[0, 5, 36]], b[[0, 5, 36]] = a[0], b[0]
    assert len({tuple(sums) for sums in product_sums(a, b)[:, [0, 5, 36]].T.tolist()}) == 1


def test_any_layout_of_a_layer_gives_the_same_scores() -> None:
    weight, grad = torch.randn(2, 8, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    last = torch.channels_last
    plain, turned = Gradients(weight, grad), Gradients(weight.to(memory_format=last), grad.to(memory_format=last))
    for criterion in (taylor_l1, taylor_l2, snip):
        assert torch.equal(criterion(plain), criterion(turned))
