"""Scores of one layer made comparable with those of another."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

Scores = Float[np.ndarray, " filters"]


def _over(scores: Scores, size: float) -> Scores:
    """Scores that are all zero have no size, and stay so."""
    return scores / size if size else scores


def _zscore(scores: Scores) -> Scores:
    return np.zeros_like(scores) if np.ptp(scores) == 0 else (scores - scores.mean()) / scores.std()


# Sizes are of absolute values, so that the order survives where a criterion has negative scores.
NORMALISATIONS: dict[str, Callable[[Scores, int], Scores]] = {
    "none": lambda scores, dim: scores,
    "mean": lambda scores, dim: _over(scores, float(np.abs(scores).mean())),
    "l2": lambda scores, dim: _over(scores, float(np.linalg.norm(scores))),
    "max": lambda scores, dim: _over(scores, float(np.abs(scores).max())),
    "sqrt_dim": lambda scores, dim: scores / np.sqrt(dim),
    "zscore": lambda scores, dim: _zscore(scores),
    "rank": lambda scores, dim: rankdata(scores) / len(scores),
}


def normalised(scores: Scores, how: str, dim: int) -> Scores:
    """Scores of one layer, in the same order, on a scale that layers share.

    `none`; divided by their `mean`, `l2` norm or largest value (`max`), each of absolute values; divided by `sqrt_dim`,
    the root of the number of weights of a filter; `zscore`, less their mean and divided by their standard deviation
    (constant scores become 0); `rank` from 1/n to 1, ties sharing their average.

    Args:
        how: one of the above.
        dim: weights of a filter.

    Source:
        `l2`: Molchanov et al. 2017, section 2.2. The others are common practice.
    """
    return NORMALISATIONS[how](scores, dim)
