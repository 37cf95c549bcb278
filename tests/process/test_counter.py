"""The counter-based stream: uniform, the same everywhere, and pinned."""

from collections.abc import Sequence

import pytest
import torch
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor

from runners.process.counter import _mix, fold, permutation, random_bits, random_integers

# Chance of a wrong alarm, were the seeds not fixed.
TOO_UNLIKELY = 1e-4
INDEX = torch.arange(100_000)
COUNTERS: tuple[tuple[int, ...], ...] = (
    (),
    (0,),
    (0, 0),
    (1,),
    (0, 1),
    (1, 0),
    (-1,),
    (2**31,),
    (2**32,),
    (2**32 - 1,),
    (2**63 - 1,),
    (-(2**63),),
    (5, 2**40, -7),
)

# Computed once with the first version of the stream; FOLDS are of COUNTERS.
FOLDS = [
    0,
    1895220952,
    3896821819,
    3248948688,
    442102544,
    4210277615,
    2196772199,
    2730193577,
    3530840802,
    2856213345,
    429958707,
    2016724638,
    1102262133,
]
BITS = [809061742, 3260867846, 899742604, 1005339019]
INTEGERS = [4, 0, 9, 4, 5, 2, 5, 6, 2, 7, 7, 3]
ORDER = [7, 5, 11, 2, 0, 8, 6, 1, 3, 4, 10, 9]


def finaliser(x: int) -> int:
    """MurmurHash3's fmix32, as published, on whole numbers of any size."""
    x ^= x >> 16
    x = x * 0x85EBCA6B % 2**32
    x ^= x >> 13
    x = x * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def test_the_finaliser_is_murmurhash3s() -> None:
    # MurmurHash3 x86_32 of nothing is the finaliser of its seed; published test vectors.
    vectors = {0: 0, 1: 0x514E28B7, 0xFFFFFFFF: 0x81F16F39}
    assert {x: _mix(x) for x in vectors} == vectors == {x: finaliser(x) for x in vectors}


def test_numbers_and_tensors_agree() -> None:
    words = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, *random_bits(torch.arange(1000), fold(3)).tolist()]
    assert _mix(torch.tensor(words)).tolist() == [_mix(word) for word in words] == [finaliser(word) for word in words]
    index = [0, 1, 77, 2**31, 2**32 - 1, 2**32, 2**40 + 3]
    for counters in COUNTERS:
        expected = [finaliser(finaliser(number % 2**32) ^ fold(*counters)) for number in index]
        assert random_bits(torch.tensor(index), fold(*counters)).tolist() == expected


def test_golden() -> None:
    """Pinned: another stream would change every trained network."""
    assert [fold(*counters) for counters in COUNTERS] == FOLDS
    assert random_bits(torch.arange(4), fold(0, 1)).tolist() == BITS
    assert random_integers(torch.arange(12), 10, fold(42)).tolist() == INTEGERS
    assert permutation(12, 0, 3).tolist() == ORDER


@pytest.mark.parametrize("counters", COUNTERS)
def test_values_stay_in_range(counters: tuple[int, ...]) -> None:
    assert 0 <= fold(*counters) < 2**32
    bits = random_bits(INDEX[:1000], fold(*counters))
    assert bits.dtype == torch.int64 and 0 <= int(bits.min()) and int(bits.max()) < 2**32
    for below in (1, 2, 7, 2**31):
        found = random_integers(INDEX[:1000], below, fold(*counters))
        assert 0 <= int(found.min()) and int(found.max()) < below


@pytest.mark.parametrize("n", (0, 1, 2, 5, 64, 1437, 50_000))
def test_a_permutation_is_one(n: int) -> None:
    found = permutation(n, 7, n)
    assert found.dtype == torch.int64 and found.sort().values.tolist() == list(range(n))
    assert torch.equal(found, permutation(n, 7, n))


def p_of_uniform(values: Tensor, below: int) -> float:
    return float(chisquare(torch.bincount(values, minlength=below).numpy()).pvalue)


def p_of_independence(a: Tensor, b: Tensor, below: int) -> float:
    counts = torch.bincount(a * below + b, minlength=below**2).reshape(below, below)
    return float(chi2_contingency(counts.numpy()).pvalue)


@pytest.mark.parametrize("below", (2, 3, 10, 256))
@pytest.mark.parametrize("counters", ((0,), (3, 1), (2**63 - 1, -1)))
def test_integers_are_uniform(counters: tuple[int, ...], below: int) -> None:
    assert p_of_uniform(random_integers(INDEX, below, fold(*counters)), below) > TOO_UNLIKELY


@pytest.mark.parametrize("counters", ((0,), (3, 1)))
def test_every_bit_is_fair_and_on_its_own(counters: tuple[int, ...]) -> None:
    bits = random_bits(INDEX, fold(*counters))
    columns = [bits >> place & 1 for place in range(32)]
    # Six standard deviations of a share of 100,000 fair coins.
    limit = 6 * 0.5 / len(INDEX) ** 0.5
    assert all(abs(float(column.double().mean()) - 0.5) < limit for column in columns)
    agreement = [float((a == b).double().mean()) for place, a in enumerate(columns) for b in columns[:place]]
    assert all(abs(share - 0.5) < limit for share in agreement)


@pytest.mark.parametrize("n", (2, 5, 8))
def test_every_filter_is_as_likely_in_every_place(n: int) -> None:
    orders = torch.stack([permutation(n, 11, draw) for draw in range(3000)])
    for place in range(n):
        assert p_of_uniform(orders[:, place], n) > TOO_UNLIKELY


def test_neighbouring_indices_are_independent() -> None:
    for counters in ((0,), (1, 2)):
        values = random_integers(INDEX, 16, fold(*counters))
        for step in (1, 2, 32):
            assert p_of_independence(values[:-step], values[step:], 16) > TOO_UNLIKELY


def independent(pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> bool:
    return all(
        p_of_independence(random_integers(INDEX, 16, fold(*one)), random_integers(INDEX, 16, fold(*other)), 16) > TOO_UNLIKELY
        for one, other in pairs
    )


def test_other_counters_give_unrelated_numbers() -> None:
    assert len({fold(*counters) for counters in COUNTERS}) == len(COUNTERS)
    assert independent([(one, other) for place, one in enumerate(COUNTERS) for other in COUNTERS[:place]])
    assert not independent([((4,), (4,))]), "the test can fail"


def test_a_swap_of_index_and_counter_is_unrelated() -> None:
    """Image i of epoch e must not get what image e of epoch i gets."""
    grid = torch.stack([random_integers(torch.arange(300), 16, fold(counter)) for counter in range(300)])
    upper = torch.triu_indices(300, 300, 1)
    assert p_of_independence(grid[upper[0], upper[1]], grid.T[upper[0], upper[1]], 16) > TOO_UNLIKELY
