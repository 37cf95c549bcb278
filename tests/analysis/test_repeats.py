"""Mean, standard deviation and n over seeds, against numbers worked by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.repeats import layer_means, mean_sd_n, repeats

nan = math.nan


def test_mean_and_deviation_by_hand() -> None:
    # Squared distances from 5 are 9, 1, 1, 9 (2 and 8, 4 and 6): sd = sqrt(20 / 3).
    assert mean_sd_n([2, 4, 6, 8]) == (5, math.sqrt(20 / 3), 4)


def test_one_value_has_no_deviation_and_none_has_no_mean() -> None:
    mean, sd, n = mean_sd_n([91.5])
    assert (mean, n) == (91.5, 1) and math.isnan(sd)
    mean, sd, n = mean_sd_n([])
    assert n == 0 and math.isnan(mean) and math.isnan(sd)


def test_nan_is_left_out_and_not_counted() -> None:
    assert mean_sd_n([nan, 2, 4]) == mean_sd_n([2, 4]) == (3, math.sqrt(2), 2)
    assert mean_sd_n([nan, nan])[2] == 0


def test_equal_values_do_not_deviate_at_all() -> None:
    assert mean_sd_n([93.3] * 7)[:2] == (93.3, 0)
    assert np.std([93.3] * 7, ddof=1) > 0  # rounded sums: 1.5e-14


def test_an_infinite_value_is_refused() -> None:
    with pytest.raises(ValueError, match="infinite value"):
        mean_sd_n([1, math.inf])


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8), st.randoms())
def test_order_changes_no_bit_and_numpy_agrees(values: list[float], random: object) -> None:
    shuffled = values.copy()
    random.shuffle(shuffled)  # pyright: ignore[reportAttributeAccessIssue]
    assert mean_sd_n(values) == mean_sd_n(shuffled)
    mean, sd, n = mean_sd_n(values)
    assert n == len(values)
    np.testing.assert_allclose([mean, sd], [np.mean(values), np.std(values, ddof=1)], rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([nan, 0.1, 1, 2, 1e9])), max_size=20))
def test_groups_are_those_of_a_slow_loop(rows: list[tuple[str, float]]) -> None:
    found = repeats(pd.DataFrame(rows, columns=["name", "value"]), ["name"], ["value"])
    expected = [
        (name, *mean_sd_n(value for other, value in rows if other == name)) for name in dict.fromkeys(name for name, _ in rows)
    ]
    np.testing.assert_equal(list(found.itertuples(index=False, name=None)), expected)


def test_groups_stay_apart_and_columns_count_for_themselves() -> None:
    table = pd.DataFrame(
        {
            "ratio": [0.5, 0.1, 0.5, 0.1],
            "stage": ["tuned"] * 4,
            "top1_pct": [90, 93, 92, 93.5],
            "top5_pct": [99, nan, nan, nan],
        }
    )
    found = repeats(table, ["ratio", "stage"], ["top1_pct", "top5_pct"])
    assert list(found) == [
        "ratio",
        "stage",
        *(f"{name}_{what}" for name in ("top1_pct", "top5_pct") for what in ("mean", "sd", "n")),
    ]
    assert found["ratio"].tolist() == [0.5, 0.1]
    assert found["top1_pct_mean"].tolist() == [91, 93.25]
    np.testing.assert_allclose(found["top1_pct_sd"], [math.sqrt(2), math.sqrt(0.125)])
    assert found["top1_pct_n"].tolist() == [2, 2]
    assert found["top5_pct_n"].tolist() == [1, 0]
    assert found["top5_pct_mean"].iloc[0] == 99 and found[["top5_pct_sd"]].isna().all(axis=None)


def test_no_rows_make_a_table_without_rows() -> None:
    found = repeats(pd.DataFrame({"stage": [], "top1_pct": []}), ["stage"], ["top1_pct"])
    assert list(found) == ["stage", "top1_pct_mean", "top1_pct_sd", "top1_pct_n"] and found.empty


RHO = pd.DataFrame(
    {
        "layer": ["conv1", "conv1", "conv2", "conv2", "conv3", "conv3"],
        "criterion_a": ["l1"] * 6,
        "criterion_b": ["gm", "l2"] * 3,
        "rho": [0.5, nan, nan, nan, 0.75, nan],
    }
)


def test_layers_without_a_rho_are_counted_and_not_averaged() -> None:
    found = layer_means(RHO)
    assert found[["criterion_a", "criterion_b"]].to_numpy().tolist() == [["l1", "gm"], ["l1", "l2"]]
    assert found["rho"].iloc[0] == 0.625 and math.isnan(found["rho"].iloc[1])
    assert found["n_layers"].tolist() == [3, 3]
    assert found["n_empty"].tolist() == [1, 3]
