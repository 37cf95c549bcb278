"""Names of columns in words, and the columns that are the task's."""

import pandas as pd
import pytest

from analysis.columns import label, measured, number_text, qualities, shown

ACCURACY = pd.DataFrame(columns=["model", "stage", "distance", "loss_nats", "params", "macs"])


def test_qualities_stand_between_stage_and_params() -> None:
    assert qualities(ACCURACY) == ["distance", "loss_nats"]
    assert qualities(ACCURACY[["stage", "distance"]]) == ["distance"]


def test_columns_are_found_by_their_split() -> None:
    assert measured(pd.DataFrame(columns=["tuned_a_pct", "tunedness", "pruned_a_pct"]), "tuned") == ["tuned_a_pct"]


@pytest.mark.parametrize(
    ("column", "value", "line", "number", "axis"),
    [
        ("train_top1_pct", 93.104, "train top-1 93.10 %", "93.10", "train top-1 [%]"),
        ("loss_nats", 0.12345, "loss 0.1235", "0.1235", "loss [nats]"),
        ("latency_ms", 1.234, "latency ms 1.234", "1.23", "latency [ms]"),
    ],
)
def test_a_column_in_words(column: str, value: float, line: str, number: str, axis: str) -> None:
    assert (shown(column, value), number_text(column)(value), label(column)) == (line, number, axis)


def test_counts_have_thousands() -> None:
    assert number_text("params")(853018) == "853,018"
