"""Spearman's rank correlation against SciPy, golden numbers, and the cases that have none."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from analysis.similarity import POOLED_COLUMNS, SPEARMAN_COLUMNS, pooled_spearman, spearman
from criteria.criterion import LayerCriterion
from criteria.layer import Weights
from criteria.norm import fermat, gm, l1, l2

CRITERIA: dict[str, LayerCriterion] = {"l1": l1, "l2": l2, "gm": gm, "fermat": fermat}


def table(layers: Mapping[str, Mapping[str, Sequence[float] | np.ndarray]]) -> pd.DataFrame:
    """Tidy scores of layer -> criterion -> one score a filter; layers in order of execution."""
    parts = [
        pd.DataFrame({"layer": layer, "index": index, "criterion": name, "filter": range(len(scores)), "score": scores})
        for index, (layer, found) in enumerate(layers.items(), 1)
        for name, scores in found.items()
    ]
    return pd.concat(parts, ignore_index=True)


def pair(found: pd.DataFrame, a: str, b: str) -> pd.Series:
    [row] = [row for _, row in found.iterrows() if (row["criterion_a"], row["criterion_b"]) == (a, b)]
    return row


@pytest.mark.parametrize("n_values", (2, 4, 1000), ids=("many ties", "some ties", "few ties"))
@pytest.mark.parametrize("n_filters", (3, 16, 64))
def test_against_scipy(n_filters: int, n_values: int) -> None:
    generator = np.random.default_rng((n_filters, n_values))
    scores = {name: generator.integers(0, n_values, n_filters).astype(float) for name in "abc"}
    for values in scores.values():
        values[0], values[-1] = -1, n_values  # never constant
    found = spearman(table({"conv": scores}))
    for a, b in combinations("abc", 2):
        assert pair(found, a, b)["rho"] == pytest.approx(spearmanr(scores[a], scores[b]).statistic, abs=1e-12)


def test_by_hand() -> None:
    found = spearman(table({"conv": {"a": [1, 2, 3, 4], "b": [10, 30, 20, 40], "c": [0, 5, 5, 9], "d": [4, 3, 2, 1]}}))
    # 1 - 6 * 2 / (4 * 15); the tied ranks of c are 2.5: 4.5 / sqrt(4.5 * 5).
    for b, rho in (("b", 0.8), ("c", 4.5 / 22.5**0.5), ("d", -1.0)):
        row = pair(found, "a", b)
        assert (row["rho"], row["n_filters"], row["note"]) == (pytest.approx(rho, abs=1e-15), 4, "")


def test_only_ranks_count() -> None:
    scores = np.random.default_rng(0).standard_normal(20)
    found = spearman(table({"conv": {"a": scores, "b": np.exp(scores), "c": -(scores**3)}}))
    assert pair(found, "a", "b")["rho"] == pytest.approx(1, abs=1e-15)
    assert pair(found, "a", "c")["rho"] == pytest.approx(-1, abs=1e-15)
    assert found["rho"].between(-1, 1).all()


# Specification, section 10, items 6 (seed 7) and 13 (seed 4242), printed to four decimals.
@pytest.mark.parametrize(
    ("seed", "shape", "expected"),
    (
        (
            7,
            (32, 16, 3, 3),
            {
                ("l1", "l2"): 0.9754,
                ("l1", "gm"): 0.9699,
                ("l2", "gm"): 0.9919,
                ("l2", "fermat"): 0.9923,
                ("gm", "fermat"): 0.9996,
            },
        ),
        (4242, (64, 3, 3, 3), {("l1", "l2"): 0.9508, ("l2", "gm"): 0.9815}),
    ),
)
def test_golden(seed: int, shape: tuple[int, ...], expected: dict[tuple[str, str], float]) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal(shape) * 0.05
    layer = Weights(torch.tensor(weight * (1 + 0.1 * generator.standard_normal((shape[0], 1, 1, 1)))))
    found = spearman(table({"conv": {name: criterion(layer).numpy() for name, criterion in CRITERIA.items()}}))
    for (a, b), rho in expected.items():
        assert pair(found, a, b)["rho"] == pytest.approx(rho, abs=5e-5), (a, b)


def test_constant_scores_have_no_correlation_and_say_so() -> None:
    found = spearman(table({"conv": {"a": [3, 1, 2], "flat": [0.1, 0.1, 0.1], "b": [1, 2, 3]}}))
    for a, b in (("a", "flat"), ("flat", "b")):
        assert np.isnan(pair(found, a, b)["rho"]) and pair(found, a, b)["note"] == "constant scores"
    assert (pair(found, "a", "b")["rho"], pair(found, "a", "b")["note"]) == (pytest.approx(-0.5), "")


@pytest.mark.parametrize("n_filters", (1, 2))
def test_fewer_than_three_filters_have_no_correlation_and_say_so(n_filters: int) -> None:
    found = spearman(table({"conv": {"a": [1, 2][:n_filters], "b": [2, 1][:n_filters]}}))
    [row] = found.to_dict("records")
    assert np.isnan(row["rho"]) and row["note"] == "fewer than 3 filters" and row["n_filters"] == n_filters


def test_order_of_rows_and_columns() -> None:
    generator = np.random.default_rng(0)
    names = [f"layer{number}" for number in (10, 9, 2)]
    scores = table({layer: {name: generator.standard_normal(5) for name in ("z", "m", "a")} for layer in names})
    found = spearman(scores)
    assert list(found.columns) == SPEARMAN_COLUMNS
    assert list(found["layer"]) == [layer for layer in names for _ in range(3)], "order of execution, not of names"
    assert list(found["index"]) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    pairs = list(zip(found["criterion_a"], found["criterion_b"], strict=True))
    assert pairs == [("z", "m"), ("z", "a"), ("m", "a")] * 3, "in the order in which criteria first appear"


def test_rows_are_matched_by_filter() -> None:
    scores = table({"conv": {"a": np.arange(9), "b": np.arange(9)}, "next": {"a": np.arange(4), "b": -np.arange(4)}})
    mixed = pd.concat([scores.iloc[:1], scores.iloc[1:].sample(frac=1, random_state=0)])
    assert list(spearman(mixed)["rho"]) == pytest.approx([1, -1], abs=1e-15)


def test_a_criterion_that_lacks_a_layer_has_no_row_there() -> None:
    found = spearman(table({"conv": {"a": [1, 2, 3]}, "next": {"a": [1, 2, 3], "b": [1, 3, 2], "c": [2, 1, 3]}}))
    assert list(found["layer"]) == ["next"] * 3 and found["rho"].notna().all()
    lacking = spearman(table({"conv": {"a": [1, 2, 3], "b": [3, 2, 1]}, "next": {"b": [1, 2, 3]}}))
    assert [(row["layer"], row["rho"]) for row in lacking.to_dict("records")] == [("conv", pytest.approx(-1))]


def test_pooled_is_scipy_over_the_filters_of_all_layers_that_both_criteria_score() -> None:
    generator = np.random.default_rng(1)
    layers = {
        "one": {name: generator.standard_normal(9) for name in "abc"},
        "two": {name: 100 + generator.standard_normal(5) for name in "ab"},  # c scores no filter here
        "three": {name: generator.integers(0, 3, 7).astype(float) for name in "abc"},
    }
    found = pooled_spearman(table(layers))
    assert list(found) == POOLED_COLUMNS
    for (a, b), names, n_filters in (
        (("a", "b"), layers, 21),
        (("a", "c"), ("one", "three"), 16),
        (("b", "c"), ("one", "three"), 16),
    ):
        row = pair(found, a, b)
        first, second = (np.concatenate([layers[name][criterion] for name in names]) for criterion in (a, b))
        expected = spearmanr(first, second).statistic
        assert row["rho"] == pytest.approx(expected, abs=1e-12)
        assert (row["n_filters"], row["n_layers"], row["note"]) == (n_filters, len(names), "")


def test_pooling_may_turn_agreement_round() -> None:
    """In every layer the two agree; over layers their scales run against each other."""
    layers = {f"layer{i}": {"a": np.arange(4) + 10.0 * i, "b": np.arange(4) - 10.0 * i} for i in range(5)}
    assert (spearman(table(layers))["rho"] == 1).all()
    assert pair(pooled_spearman(table(layers)), "a", "b")["rho"] < -0.8
