"""Figures draw the columns that their labels name."""

import numpy as np
import pandas as pd

from analysis.figures import learning_curves, spearman_by_layer

HISTORY = pd.DataFrame(
    {
        "epoch": [1, 1, 2, 3, 4],
        "train_loss_nats": [2.0, 1.5, 1.0, 0.5, 0.25],
        "train_top1_pct": [20.0, 40.0, 60.0, 80.0, 90.0],
        "test_top1_pct": [15.0, 35.0, 55.0, 75.0, 70.0],
        "stage": ["trained"] + ["tuned"] * 4,
    }
)


def test_learning_curves_are_of_the_columns_that_the_legend_names() -> None:
    figure = learning_curves(HISTORY)
    columns = {"loss [nats]": {"train": "train_loss_nats"}, "top-1 [%]": {"train": "train_top1_pct", "test": "test_top1_pct"}}
    assert [axes.get_title() for axes in figure.axes] == ["trained", "trained", "tuned", "tuned"]
    for axes in figure.axes:
        part = HISTORY[HISTORY["stage"] == axes.get_title()]
        drawn = columns[axes.get_ylabel()]
        assert axes.get_legend_handles_labels()[1] == list(drawn)
        for line, (label, column) in zip(axes.lines, drawn.items(), strict=True):
            assert line.get_label() == label
            np.testing.assert_array_equal(line.get_xydata(), part[["epoch", column]])
        ticks = axes.get_xticks()
        np.testing.assert_array_equal(ticks, ticks.round())
    assert [axes.get_ylabel() for axes in figure.axes] == list(columns) * 2


def test_correlations_are_drawn_over_whole_numbers_in_the_order_that_the_axis_says() -> None:
    rho = pd.DataFrame({"criterion_a": "l1", "criterion_b": "l2", "index": [1, 2, 3], "rho": [0.9, 0.7, 0.8]})
    of_a_file = spearman_by_layer(rho, order="the order of the file")
    for figure, said in ((spearman_by_layer(rho), "order of execution"), (of_a_file, "the order of the file")):
        [axes] = figure.axes
        assert axes.get_xlabel() == f"convolution, in {said}"
        np.testing.assert_array_equal(axes.get_xticks(), axes.get_xticks().round())
        np.testing.assert_array_equal(axes.lines[-1].get_xydata(), rho[["index", "rho"]])
