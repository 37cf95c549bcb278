"""Spread of the accuracies of repeats, and the spread that chance alone would give."""

import math

import numpy as np
import pandas as pd
from scipy.integrate import quad
from scipy.special import ndtr

from analysis.columns import measured

SPREAD_COLUMNS = [
    "vary",
    "n",
    "min_pct",
    "max_pct",
    "mean_pct",
    "delta_pct",
    "sd_pct",
    "expected_delta_pct",
    "binomial_se_pct",
]


def random_spread(random_pruning: pd.DataFrame) -> pd.DataFrame:
    """Spread of the tuned accuracies, one row a `vary` (`SPREAD_COLUMNS`), in order of appearance.  [percentage points]

    `delta_pct` is max - min, and grows with n: `expected_delta_pct` is what n normal draws of the same `sd_pct` (that
    of a sample, n - 1) would give. `binomial_se_pct` is the standard error of one accuracy as an estimate from that many
    test images; repeats share the images, and can lie closer together than that.

    Args:
        random_pruning: one row a repeat: `vary, n_images`, and the share of right answers as `tuned_..._pct`.

    Source:
        Min, max, mean and their difference: Huang et al. 2021, table 4.
    """
    rows: list[tuple[object, ...]] = []
    [column] = measured(random_pruning, "tuned")
    for vary, part in random_pruning.groupby("vary", sort=False):
        each = part[column].to_numpy(dtype=float)
        sd, mean = float(np.std(each, ddof=1)), float(each.mean())
        error = 100 * binomial_se(mean / 100, int(part["n_images"].iloc[0]))
        expected = sd * expected_range(len(each))
        rows.append((vary, len(each), each.min(), each.max(), mean, np.ptp(each), sd, expected, error))
    return pd.DataFrame(rows, columns=SPREAD_COLUMNS)


def expected_range(n: int) -> float:
    """Mean of max - min of n independent normal draws.  [their standard deviation]

    The integral over x of 1 - P(x)^n - (1 - P(x))^n, where P is the normal distribution function.

    Source:
        Tippett 1925.
    """
    # Even in x; beyond 40 standard deviations nothing is left in float64.
    half, _ = quad(lambda x: -math.expm1(n * math.log1p(-ndtr(-x))) - ndtr(-x) ** n, 0, 40, epsabs=1e-12, limit=200)
    return 2 * half


def binomial_se(share: float, n_images: int) -> float:
    """Standard error of a share of correct answers.  [0..0.5]"""
    return math.sqrt(share * (1 - share) / n_images)
