"""Spread of a criterion's scores within a layer: near 0, the criterion cannot tell the filters apart."""

import numpy as np
import pandas as pd

from analysis.runs import run_by_run

APPLICABILITY_COLUMNS = ["layer", "index", "criterion", "n_filters", "mean", "variance", "var_r", "cv2", "min_to_mean", "note"]


def applicability(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread of every criterion's scores, layer by layer.

    `var_r`, the papers' Var / E, has the score's unit: doubling the weights doubles it, so that it compares layers
    and criteria only of one scale. `cv2` = Var / E^2 has none. Near 0, either says that the criterion hardly tells the
    filters apart. `min_to_mean` is the second of He et al.'s conditions: the least score should be near 0.

    Args:
        scores: one row a filter and criterion: `layer, index, criterion, filter, score`.

    Returns:
        Layers in order of `index`, criteria as they first appear. The sample variance (ddof 1). The ratios are nan, and
        `note` says why, where there is one filter, or the mean is 0. Of a table of several runs, these rows for each `run`.

    Source:
        Huang et al. 2021 (NeurIPS), section 4.1 and figure 5 (g-i); He et al. 2019 (FPGM), section 3.3.
    """
    return run_by_run(_of_one_run, scores)


def _of_one_run(scores: pd.DataFrame) -> pd.DataFrame:
    order = {name: place for place, name in enumerate(dict.fromkeys(scores["criterion"]))}
    table = (
        scores.groupby(["index", "layer", "criterion"], sort=False)["score"]
        .agg(n_filters="size", mean="mean", variance="var", lowest="min")
        .reset_index()
    )
    mean = table["mean"].where(table["mean"] != 0)
    table["var_r"], table["cv2"] = table["variance"] / mean, table["variance"] / mean**2
    table["min_to_mean"] = table["lowest"] / mean
    table["note"] = np.select([table["n_filters"] < 2, mean.isna()], ["one filter", "the mean score is 0"], "")
    places = table["criterion"].map(order)
    return table.assign(place=places).sort_values(["index", "place"], ignore_index=True)[APPLICABILITY_COLUMNS]
