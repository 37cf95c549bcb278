"""Criteria against criteria, and criteria against layers, as the papers draw them; nothing is computed here."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pandas as pd
from annotated_types import Ge, Le
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.runs import check_one_run

POOLED = "all layers pooled"


def criteria_matrices(
    spearman: pd.DataFrame,
    spearman_pooled: pd.DataFrame,
    applicability: pd.DataFrame,
    *,
    criteria: Sequence[str],
    layers: Sequence[int],
    above: Annotated[float, Ge(-1), Le(1)],
) -> Figure:
    """Rank correlations above `above`, in some layers and pooled; below them mean, Var_r and CV^2 of every layer.

    A cell at or below `above`, or without a number, is empty, as the paper's are; the tables have all numbers.

    Args:
        criteria: the order of rows and columns.
        layers: `index` of the layers that get a matrix.

    Raises:
        ValueError: the tables are of several runs.

    Source:
        Layout of NeurIPS'21 figure 5: (a-d) layers, (e-f) pooled, (g-i) spread, clipped at 1 there.
    """
    check_one_run(spearman, spearman_pooled, applicability)
    parts = [(f"convolution {index}", spearman[spearman["index"] == index]) for index in layers]
    parts.append((POOLED, spearman_pooled))
    n = max(len(parts), 3)
    figure = Figure(figsize=(3.1 * n, 6.4), layout="constrained")
    panels = figure.subplots(2, n, squeeze=False)
    for axes in panels.flat[len(parts) : n]:
        axes.set_axis_off()
    for axes, (title, part) in zip(panels[0], parts, strict=False):
        _matrix(axes, matrix(part, criteria), criteria, above)
        axes.set_title(title, fontsize=9)
    spreads = {"mean": "mean score", "var_r": "Var / E (clipped at 1)", "cv2": "Var / E^2 (clipped at 1)"}
    for axes, (column, label) in zip(panels[1], spreads.items(), strict=False):
        for number, name in enumerate(criteria):
            part = applicability[applicability["criterion"] == name]
            values = part[column] if column == "mean" else part[column].clip(upper=1)
            axes.plot(part["index"], values, marker=".", markersize=3, linewidth=0.8, color=f"C{number}", label=name)
        axes.set_xlabel("convolution", fontsize=8)
        axes.set_title(label, fontsize=9)
    panels[1][0].set_yscale("symlog", linthresh=1e-3)
    for axes in panels[1][3:]:
        axes.set_axis_off()
    figure.legend(*panels[1][0].get_legend_handles_labels(), loc="outside right lower", fontsize=7)
    return figure


def matrix(spearman: pd.DataFrame, criteria: Sequence[str]) -> np.ndarray:
    """One layer's correlations as a symmetric matrix with ones on its diagonal; nan where the table has no row."""
    found = {frozenset((a, b)): rho for a, b, rho in spearman[["criterion_a", "criterion_b", "rho"]].itertuples(index=False)}
    return np.array([[1.0 if a == b else found.get(frozenset((a, b)), np.nan) for b in criteria] for a in criteria])


def _matrix(axes: Axes, values: np.ndarray, criteria: Sequence[str], above: float) -> None:
    shown = np.where(values > above, values, np.nan)
    axes.imshow(shown, vmin=above, vmax=1, cmap="Blues")
    for row, column in np.argwhere(~np.isnan(shown)):
        value = shown[row, column]
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=5, color="white" if value > 0.9 else "black")
    axes.set_xticks(range(len(criteria)), criteria, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(criteria)), criteria, fontsize=7)
