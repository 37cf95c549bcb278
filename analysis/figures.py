"""Tidy tables as figures; nothing is computed here."""

from collections.abc import Sequence

import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.columns import label, measured, qualities

EXECUTION = "order of execution"
PAPER_PAIRS = (("l1", "l2"), ("l2", "gm"), ("gm", "l1"))


def spearman_by_layer(
    spearman: pd.DataFrame, *, pairs: Sequence[tuple[str, str]] = PAPER_PAIRS, order: str = EXECUTION
) -> Figure:
    """Rank correlation against the layer's index, one line a pair of criteria, guides at 0.8 and 0.9.

    Pairs that the table lacks are left out; if it has none of them, all of its pairs are drawn. The axis starts at
    0.2, as the paper's does, or lower where a value is lower.

    Args:
        order: of the layers, as the axis says it.

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
    axes.set_xlabel(f"convolution, in {order}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylabel("Spearman's rho")
    if chosen:
        axes.legend(loc="lower right", fontsize=8, ncols=min(3, len(chosen)))
    return figure


def learning_curves(history: pd.DataFrame) -> Figure:
    """Numbers of training and test images against the epoch; one row of panels a stage, one panel a number.

    Args:
        history: one row an epoch: `epoch, stage`, and columns such as `train_loss_nats, train_top1_pct, test_top1_pct`.
    """
    stages = list(dict.fromkeys(history["stage"])) or ["nothing was trained"]
    columns = [*measured(history, "train"), *measured(history, "test")]
    numbers = list(dict.fromkeys(column.partition("_")[2] for column in columns))
    figure = Figure(figsize=(4 * len(numbers), 2.6 * len(stages)), layout="constrained")
    panels = figure.subplots(len(stages), len(numbers), squeeze=False)
    for stage, row in zip(stages, panels, strict=True):
        part = history[history["stage"] == stage]
        for number, axes in zip(numbers, row, strict=True):
            for column in (f"train_{number}", f"test_{number}"):
                if column in columns:
                    axes.plot(part["epoch"], part[column], marker=".", label=column.partition("_")[0])
            axes.set_title(stage, fontsize=10)
            axes.set_xlabel("epoch")
            axes.set_ylabel(label(number))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.legend(fontsize=8)
    return figure


def sensitivity_curves(sensitivity: pd.DataFrame, accuracy: pd.DataFrame) -> Figure:
    """Accuracy against the ratio of one layer at a time, one line a layer, from dark (first) to light (last).

    Args:
        sensitivity: one row a layer and ratio: `layer, index, ratio`, and the first of the columns of `accuracy`.
        accuracy: the row whose `stage` is trained is where every line starts.

    Source:
        Layout of Li et al. 2017, figure 2(b).
    """
    leading = qualities(accuracy)[0]
    trained = float(accuracy.loc[accuracy["stage"] == "trained", leading].iloc[0])
    colours = ScalarMappable(Normalize(1, max(2, sensitivity["index"].max())), colormaps["viridis"])
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(trained, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    for _, part in sensitivity.groupby("index"):
        line, colour = part.sort_values("ratio"), colours.to_rgba(part["index"].to_numpy()[:1])[0]
        axes.plot([0, *line["ratio"]], [trained, *line[leading]], marker=".", linewidth=1, color=colour)
    axes.set_xlabel("share of the layer's filters removed, all other layers whole, no fine-tuning")
    axes.set_ylabel(f"test split: {label(leading)}")
    figure.colorbar(colours, ax=axes, label=f"convolution, in {EXECUTION}")
    return figure


def random_points(random_pruning: pd.DataFrame, random_spread: pd.DataFrame, accuracy: pd.DataFrame) -> Figure:
    """Tuned accuracy of every repeat, one column of points for whatever varies, beside mean and standard deviation.

    The grey band is one binomial standard error to either side of the mean; the dashed line is the trained network.

    Args:
        random_pruning: one row a repeat: `vary`, and its accuracy, whose name begins with `tuned_`.
        random_spread: one row a `vary`: `mean_pct, sd_pct, binomial_se_pct`.
        accuracy: the row whose `stage` is trained is the dashed line.
    """
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    [column] = measured(random_pruning, "tuned")
    trained = accuracy.loc[accuracy["stage"] == "trained", qualities(accuracy)[0]].iloc[0]
    axes.axhline(float(trained), color="0.6", linestyle="--")
    for place, row in enumerate(random_spread.to_dict("records")):
        each = random_pruning.loc[random_pruning["vary"] == row["vary"], column]
        mean, error = row["mean_pct"], row["binomial_se_pct"]
        axes.fill_between([place - 0.3, place + 0.3], mean - error, mean + error, color="0.9", zorder=0)
        # Side by side in order of the repeats, so that equal accuracies are counted.
        apart = [place - 0.25 + 0.35 * number / len(each) for number in range(len(each))]
        axes.plot(apart, each, marker="o", linestyle="", alpha=0.6)
        axes.errorbar(place + 0.2, mean, yerr=row["sd_pct"], marker="s", color="black", capsize=4)
    axes.set_xticks(range(len(random_spread)), random_spread["vary"])
    axes.set_xlim(-0.5, len(random_spread) - 0.5)
    axes.set_xlabel("what varies between repeats")
    axes.set_ylabel(f"test split: {label(column)}")
    return figure
