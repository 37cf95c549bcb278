"""The spread of scores, against plain numpy and the specification's worked numbers."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.applicability import APPLICABILITY_COLUMNS, applicability
from criteria.layer import Weights
from criteria.norm import l1, l2


def table(scores: dict[tuple[str, int, str], list[float]]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"layer": layer, "index": index, "criterion": criterion, "filter": range(len(values)), "score": values})
        for (layer, index, criterion), values in scores.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_worked_numbers_of_the_specification() -> None:
    # Section 10: array A(7, (32, 16, 3, 3)); item 10: Var_r 7.380512e-2 and 6.642710e-3, CV^2 1.304494e-2 and 1.126242e-2.
    generator = np.random.default_rng(7)
    weight = generator.standard_normal((32, 16, 3, 3)) * 0.05
    weight *= 1 + 0.1 * generator.standard_normal((32, 1, 1, 1))
    view = Weights(torch.from_numpy(weight))
    found = applicability(table({("conv", 1, "l1"): l1(view).tolist(), ("conv", 1, "l2"): l2(view).tolist()}))
    assert found["var_r"].tolist() == pytest.approx([7.380512e-2, 6.642710e-3], rel=1e-6)
    assert found["cv2"].tolist() == pytest.approx([1.304494e-2, 1.126242e-2], rel=1e-6)


def test_every_column_is_that_of_plain_numpy_in_order_of_layers_and_criteria() -> None:
    generator = np.random.default_rng(0)
    scores = {
        (f"layer{index}", index, name): generator.gamma(2, size=4 + index).tolist()
        for name in ("l2", "apoz", "gm")
        for index in (10, 2, 1)
    }
    found = applicability(table(scores))
    assert list(found) == APPLICABILITY_COLUMNS
    keys = [("layer1", 1), ("layer2", 2), ("layer10", 10)]
    assert list(zip(found["layer"], found["index"], strict=True)) == [key for key in keys for _ in range(3)]
    assert found["criterion"].tolist() == ["l2", "apoz", "gm"] * 3
    for row in found.to_dict("records"):
        values = np.array(scores[row["layer"], row["index"], row["criterion"]])
        variance = ((values - values.mean()) ** 2).sum() / (len(values) - 1)
        expected = [len(values), values.mean(), variance, variance / values.mean(), variance / values.mean() ** 2]
        assert [row[name] for name in APPLICABILITY_COLUMNS[3:8]] == pytest.approx(expected, rel=1e-12)
        assert row["min_to_mean"] == pytest.approx(values.min() / values.mean()) and row["note"] == ""


def test_var_r_has_the_unit_of_the_scores_and_cv2_has_none() -> None:
    values = [1.0, 2.0, 4.0]
    one, ten = (applicability(table({("a", 1, "l1"): [unit * v for v in values]})).iloc[0] for unit in (1, 10))
    assert ten["var_r"] == pytest.approx(10 * one["var_r"]) and ten["cv2"] == pytest.approx(one["cv2"])


def test_what_has_no_ratio_says_why() -> None:
    found = applicability(table({("a", 1, "l1"): [3.0], ("b", 2, "l1"): [-1.0, 1.0], ("c", 3, "l1"): [2.0, 2.0]}))
    assert found["note"].tolist() == ["one filter", "the mean score is 0", ""]
    assert [math.isnan(value) for value in found["var_r"]] == [True, True, False]
    assert found["variance"].iloc[2] == found["cv2"].iloc[2] == 0
