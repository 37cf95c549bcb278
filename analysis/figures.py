"""Tidy tables as figures; nothing is computed here."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

PAPER_PAIRS = (("l1", "l2"), ("l2", "gm"), ("gm", "l1"))


def spearman_by_layer(spearman: pd.DataFrame, *, pairs: Sequence[tuple[str, str]] = PAPER_PAIRS) -> Figure:
    """Rank correlation against the layer's index, one line a pair of criteria, guides at 0.8 and 0.9.

    Pairs that the table lacks are left out; if it has none of them, all of its pairs are drawn. The axis starts at
    0.2, as the paper's does, or lower where a value is lower.

    Source:
        Layout of NeurIPS'21 figure 4.
    """
    found = {frozenset(pair): part for pair, part in spearman.groupby(["criterion_a", "criterion_b"])}
    everything = spearman[["criterion_a", "criterion_b"]].drop_duplicates().itertuples(index=False, name=None)
    chosen = [pair for pair in pairs if frozenset(pair) in found] or list(everything)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for guide in (0.8, 0.9):
        axes.axhline(guide, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    for a, b in chosen:
        part = found[frozenset((a, b))].sort_values("index")
        axes.plot(part["index"], part["rho"], marker="o", markersize=3, linewidth=1, label=f"{a} - {b}")
    lowest = spearman["rho"].min()
    axes.set_ylim(min(0.2, lowest - 0.05) if pd.notna(lowest) else 0.2, 1.02)
    axes.set_xlabel("convolution, in order of execution")
    axes.set_ylabel("Spearman's rho")
    if chosen:
        axes.legend(loc="lower right", fontsize=8, ncols=min(3, len(chosen)))
    return figure
