"""Agreement of criteria: Spearman's rank correlation of their scores."""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from analysis.runs import run_by_run

SPEARMAN_COLUMNS = ["layer", "index", "criterion_a", "criterion_b", "rho", "n_filters", "note"]
POOLED_COLUMNS = ["criterion_a", "criterion_b", "rho", "n_filters", "n_layers", "note"]
FEWEST_FILTERS = 3


def spearman(scores: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of every pair of criteria, layer by layer.  [-1..1]

    Ties share their average rank. Misleads for few filters: with 16 of them and unrelated scores, |rho| exceeds 0.5
    once in twenty times.

    Args:
        scores: one row a filter and criterion: `layer, index, criterion, filter, score`.

    Returns:
        Layers in order of `index`, pairs in the order in which the criteria first appear. `rho` is nan, and `note`
        says why: constant scores, scores that are not finite, fewer than three filters. Of a table of several runs, these rows
        for each `run`.

    Source:
        Spearman 1904; layer-wise as in Huang et al. 2021, section 3.
    """
    return run_by_run(_layers_of_one_run, scores)


def _layers_of_one_run(scores: pd.DataFrame) -> pd.DataFrame:
    criteria = list(dict.fromkeys(scores["criterion"]))
    rows: list[tuple[object, ...]] = []
    for (index, layer), part in scores.groupby(["index", "layer"]):
        columns = part.pivot(index="filter", columns="criterion", values="score")
        present = [name for name in criteria if name in columns]
        rho, note = _correlations(columns[present].to_numpy())
        for a, b in combinations(range(len(present)), 2):
            rows.append((layer, index, present[a], present[b], rho[a, b], len(columns), note[a] or note[b]))
    return pd.DataFrame(rows, columns=SPEARMAN_COLUMNS)


def pooled_spearman(scores: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of every pair of criteria over the filters of all layers together.  [-1..1]

    Says whether two criteria would prune alike across layers: it mixes how they rank the filters of a layer with how
    they scale from layer to layer. A pair is correlated over the layers that both criteria score.

    Args:
        scores: as for `spearman`.

    Returns:
        One row a pair: `criterion_a, criterion_b, rho, n_filters, n_layers, note`; `rho` and `note` as `spearman` has them. Of
        a table of several runs, these rows for each `run`.

    Source:
        Huang et al. 2021, section 4.2 and figure 5 (e-f).
    """
    return run_by_run(_pooled_of_one_run, scores)


def _pooled_of_one_run(scores: pd.DataFrame) -> pd.DataFrame:
    criteria = list(dict.fromkeys(scores["criterion"]))
    columns = scores.pivot(index=["index", "filter"], columns="criterion", values="score")
    rows: list[tuple[object, ...]] = []
    for a, b in combinations(criteria, 2):
        both = columns[[a, b]].dropna(how="any")
        rho, note = _correlations(both.to_numpy())
        layers = both.index.get_level_values("index").nunique()
        rows.append((a, b, rho[0, 1], len(both), layers, note[0] or note[1]))
    return pd.DataFrame(rows, columns=POOLED_COLUMNS)


def _correlations(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Correlations of all pairs of columns, and a note for every column that has none."""
    n_filters, n_criteria = values.shape
    if n_filters < FEWEST_FILTERS:
        return np.full((n_criteria, n_criteria), np.nan), [f"fewer than {FEWEST_FILTERS} filters"] * n_criteria
    finite = np.isfinite(values).all(0)
    ranks = np.where(finite, rankdata(np.where(finite, values, 0), axis=0), 0)
    centred = ranks - ranks.mean(0)
    length = np.sqrt((centred**2).sum(0))
    constant = length == 0
    unit = np.divide(centred, length, out=np.full_like(centred, np.nan), where=~constant)
    notes = np.select([~finite, constant], ["scores that are not finite", "constant scores"], "")
    return np.clip(unit.T @ unit, -1, 1), notes.tolist()
