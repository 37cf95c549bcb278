"""Tidy tables as figures; nothing is computed here."""

from collections.abc import Sequence

import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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


def learning_curves(history: pd.DataFrame) -> Figure:
    """Training loss, and accuracy on training and test images, against the epoch; one row of panels a stage.

    Args:
        history: one row an epoch: `epoch, train_loss_nats, train_top1_pct, test_top1_pct, stage`.
    """
    stages = list(dict.fromkeys(history["stage"])) or ["nothing was trained"]
    figure = Figure(figsize=(8, 2.6 * len(stages)), layout="constrained")
    panels = figure.subplots(len(stages), 2, squeeze=False)
    for (loss, top1), stage in zip(panels, stages, strict=True):
        part = history[history["stage"] == stage]
        loss.plot(part["epoch"], part["train_loss_nats"], marker=".", color="C0")
        loss.set_ylabel("training loss [nats]")
        for column, label in (("train_top1_pct", "training"), ("test_top1_pct", "test")):
            top1.plot(part["epoch"], part[column], marker=".", label=label)
        top1.set_ylabel("top-1 [%]")
        top1.legend(fontsize=8)
        for axes in (loss, top1):
            axes.set_title(stage, fontsize=10)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def sensitivity_curves(sensitivity: pd.DataFrame, accuracy: pd.DataFrame) -> Figure:
    """Top-1 accuracy against the ratio of one layer at a time, one line a layer, from dark (first) to light (last).

    Args:
        sensitivity: one row a layer and ratio: `layer, index, ratio, top1_pct`.
        accuracy: the row whose `stage` is trained is where every line starts.

    Source:
        Layout of Li et al. 2017, figure 2(b).
    """
    top1 = float(accuracy.loc[accuracy["stage"] == "trained", "top1_pct"].iloc[0])
    colours = ScalarMappable(Normalize(1, max(2, sensitivity["index"].max())), colormaps["viridis"])
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(top1, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    for _, part in sensitivity.groupby("index"):
        line, colour = part.sort_values("ratio"), colours.to_rgba(part["index"].to_numpy()[:1])[0]
        axes.plot([0, *line["ratio"]], [top1, *line["top1_pct"]], marker=".", linewidth=1, color=colour)
    axes.set_xlabel("share of the layer's filters removed, all other layers whole, no fine-tuning")
    axes.set_ylabel("top-1 on the test split [%]")
    figure.colorbar(colours, ax=axes, label="convolution, in order of execution")
    return figure


def random_points(random_pruning: pd.DataFrame, random_spread: pd.DataFrame, accuracy: pd.DataFrame) -> Figure:
    """Tuned accuracy of every repeat, one column of points for whatever varies, beside mean and standard deviation.

    The grey band is one binomial standard error to either side of the mean; the dashed line is the trained network.

    Args:
        random_pruning: one row a repeat: `vary, tuned_top1_pct`.
        random_spread: one row a `vary`: `mean_pct, sd_pct, binomial_se_pct`.
        accuracy: the row whose `stage` is trained is the dashed line.
    """
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(float(accuracy.loc[accuracy["stage"] == "trained", "top1_pct"].iloc[0]), color="0.6", linestyle="--")
    for place, row in enumerate(random_spread.to_dict("records")):
        top1 = random_pruning.loc[random_pruning["vary"] == row["vary"], "tuned_top1_pct"]
        mean, error = row["mean_pct"], row["binomial_se_pct"]
        axes.fill_between([place - 0.3, place + 0.3], mean - error, mean + error, color="0.9", zorder=0)
        # Side by side in order of the repeats, so that equal accuracies are counted.
        apart = [place - 0.25 + 0.35 * number / len(top1) for number in range(len(top1))]
        axes.plot(apart, top1, marker="o", linestyle="", alpha=0.6)
        axes.errorbar(place + 0.2, mean, yerr=row["sd_pct"], marker="s", color="black", capsize=4)
    axes.set_xticks(range(len(random_spread)), random_spread["vary"])
    axes.set_xlim(-0.5, len(random_spread) - 0.5)
    axes.set_xlabel("what varies between repeats")
    axes.set_ylabel("top-1 on the test split, tuned [%]")
    return figure
