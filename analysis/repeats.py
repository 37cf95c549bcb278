"""Repeats of one experiment with other seeds: mean, standard deviation, and their number n."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import SupportsFloat

import numpy as np
import pandas as pd

from analysis.runs import run_by_run

PAIR = ["criterion_a", "criterion_b"]
LAYER_MEANS_COLUMNS = [*PAIR, "rho", "n_layers", "n_empty"]


def repeats(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Mean, standard deviation and number of the repeats of every column.  [the column's unit]

    Args:
        table: one row a repeat; `columns` hold finite numbers, or nan where a repeat has none.
        by: the columns in which the repeats of a group are equal.

    Returns:
        One row a group, in order of appearance: `by`, and of every column `_mean`, `_sd` and `_n` as `mean_sd_n` gives
        them, so that columns of one row can differ in n.
    """
    group = table.groupby(list(by), sort=False, dropna=False).ngroup().to_numpy(int)
    first = table[list(by)].iloc[np.unique(group, return_index=True)[1]].reset_index(drop=True)
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    ends = np.cumsum(sizes)
    found = {}
    for column in columns:
        values = table[column].to_numpy(float)[order].tolist()
        rows = [mean_sd_n(values[start:end]) for start, end in zip(ends - sizes, ends, strict=True)]
        for number, what in enumerate(("mean", "sd", "n")):
            found[f"{column}_{what}"] = [row[number] for row in rows]
    return first.assign(**found)


def mean_sd_n(values: Iterable[SupportsFloat]) -> tuple[float, float, int]:
    """Mean and standard deviation (of a sample, n - 1) of the values that are not nan, and their number n.

    The mean is nan without values, the standard deviation with fewer than two. Sums are exact: the order of the values
    changes no bit, and equal values have a standard deviation of 0.

    Raises:
        ValueError: an infinite value.
    """
    known = [value for value in map(float, values) if not math.isnan(value)]
    if any(math.isinf(value) for value in known):
        raise ValueError("an infinite value has no deviation from a mean; values must be finite, or nan to be left out")
    if len(set(known)) == 1:  # the usual case of columns such as params
        return known[0] + 0.0, 0.0 if len(known) > 1 else math.nan, len(known)
    mean = statistics.mean(known) if known else math.nan
    sd = statistics.stdev(known) if len(known) > 1 else math.nan
    return mean, sd, len(known)


def layer_means(spearman: pd.DataFrame) -> pd.DataFrame:
    """Mean over layers of every pair's rank correlation.  [-1..1]

    Every layer counts alike, however many filters it has.

    Args:
        spearman: one row a layer and pair: `criterion_a, criterion_b, rho, note`, as `analysis.similarity.spearman` has them.

    Returns:
        One row a pair (`LAYER_MEANS_COLUMNS`), in order of appearance. Layers without a rho are left out of the mean, and
        counted in `n_empty`. `rho` is nan if no layer has one. Of a table of several runs, these rows for each `run`.
    """
    return run_by_run(_means_of_one_run, spearman)


def _means_of_one_run(spearman: pd.DataFrame) -> pd.DataFrame:
    rho = spearman.groupby(PAIR, sort=False)["rho"]
    table = pd.DataFrame({"rho": rho.mean(), "n_layers": rho.size(), "n_empty": rho.size() - rho.count()})
    return table.reset_index()[LAYER_MEANS_COLUMNS]
