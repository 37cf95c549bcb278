"""Printed numbers and ours beside them: every verdict by hand, and the files hold what their sources hold."""

import math
from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.printed import (
    BESIDE,
    COLUMNS,
    PUBLISHED,
    against,
    all_printed,
    beside,
    compact,
    printed,
    standard_error,
    verdict,
    verdict_counts,
)

# Lines of each file, from its source: lines x measured columns, less those that are empty there.
LINES = {
    "henze_penrose": 2820 * 2,  # delta, p
    "iclr21_layer_tests": 3892 * 7,  # n_filters, dim, gaussian_p, mean_left_p, mean_right_p, sigma_t, sigma_c
    "neurips21_appendix_j": 4 * 64,  # the whole order of 64 filters by four criteria
    "neurips21_pass_rates": 163 * 5,  # four tests, and whether failures are only in front
    "neurips21_table1": 8 * 8,  # the first 8 filters, of two layers by four criteria
    "neurips21_table4": 2 * (1 + 5 * 2 * 4),  # two networks: trained; five criteria, two ratios, four columns
    "neurips21_table5": 54 * 3,  # trained, pruned, tuned
    "published_resnet56": 4,
    "reproduced": 14 * 2,  # published, ours
    "resnet56_l1_fair_comparison": 14 * 3 - 5,  # five from scratch have no trained network
}


def facts(*rows: dict[str, str], paper: str = "p", table: str = "1") -> pd.DataFrame:
    """A printed table by hand; what a row leaves out is empty."""
    empty = dict.fromkeys(COLUMNS, "") | {"paper": paper, "table": table, "column": "tuned_pct"}
    return pd.DataFrame([empty | row for row in rows])


def only(table: pd.DataFrame) -> dict[str, Any]:
    [row] = table.to_dict("records")
    return {str(name): value for name, value in row.items()}


@pytest.mark.parametrize(
    ("value", "ours", "decimals", "expected"),
    [
        ("93.51", 93.51, 2, "equal"),
        ("93.51", 93.505, 2, "equal"),  # half a unit rounds either way
        ("93.51", 93.515, 2, "equal"),
        ("93.51", 93.5151, 2, "differs"),
        ("93.5", 93.54, 1, "equal"),
        ("93.5", 93.54, 2, "differs"),  # of a column that prints 93.50
        ("100", 99.6, 0, "equal"),
        ("100", 99.6, 2, "differs"),
        ("853018", 853018.0, 0, "equal"),
        ("853018", 853019.0, 0, "differs"),
        ("-0.003", -0.0034, 3, "equal"),
        ("0.003", -0.003, 3, "differs"),
        ("93.51", math.nan, 2, "not run"),
        ("", 93.51, 0, "not printed"),
        ("", math.nan, 0, "not printed"),
    ],
)
def test_without_a_standard_error_only_the_printed_digits_count(value: str, ours: float, decimals: int, expected: str) -> None:
    assert verdict(value, ours, decimals=decimals) == expected


@pytest.mark.parametrize(
    ("ours", "errors", "expected"),
    [
        (94.0, (0.25, 0.0), "within 2 standard errors"),  # 0.5 away, exactly 2 x 0.25
        (94.0, (0.0, 0.25), "within 2 standard errors"),
        (94.0, (0.2, 0.0), "differs"),
        (94.0, (0.2, 0.2), "within 2 standard errors"),  # 2 x 0.283
        (93.0, (0.15, 0.2), "within 2 standard errors"),  # 3-4-5: 2 x 0.25
        (92.99, (0.15, 0.2), "differs"),
        (math.nan, (9.0, 9.0), "not run"),
    ],
)
def test_both_standard_errors_add_as_squares(ours: float, errors: tuple[float, float], expected: str) -> None:
    assert verdict("93.50", ours, decimals=2, printed_error=errors[0], ours_error=errors[1]) == expected


def test_standard_errors() -> None:
    assert standard_error(93.0, 0.3, 9) == pytest.approx(0.1)
    assert standard_error(93.0, 0.3, 9, n_images=10_000) == pytest.approx(0.1)  # the runs' own spread comes first
    assert standard_error(90.0, math.nan, 1, n_images=10_000) == pytest.approx(0.3)  # README's 0.3 of a number near 90
    assert standard_error(50.0, math.nan, 1, n_images=100) == pytest.approx(5.0)
    assert standard_error(100.0, math.nan, 1, n_images=100) == 0
    assert standard_error(93.0, math.nan, 1) == standard_error(93.0, 0.3, 1) == standard_error(93.0, math.nan, 5) == 0
    assert standard_error(math.nan, math.nan, 0, n_images=100) == 0
    with pytest.raises(ValueError, match="853018"):
        standard_error(853018.0, math.nan, 1, n_images=100)


def test_runs_with_other_seeds_are_one_row_of_ours() -> None:
    ours = pd.DataFrame({"criterion": ["l1", "l1", "l1", "l2"], "seed": [0, 1, 2, 0], "tuned_pct": [93.0, 93.5, 94.0, 90.0]})
    table = against(
        ours,
        facts({"row": "l1", "value": "93.80", "remark": "a misprint"}, {"row": "gm", "value": "91.00", "sd": "0.1", "n": "3"}),
        by=["criterion"],
        values=["tuned_pct"],
    )
    assert list(table) == BESIDE
    l1, gm, l2 = table.to_dict("records")
    assert (l1["ours_mean"], l1["ours_sd"], l1["ours_n"]) == (93.5, 0.5, 3)
    assert l1["difference"] == pytest.approx(-0.3) and l1["remark"] == "a misprint"
    assert l1["verdict"] == "within 2 standard errors"  # 0.3 <= 2 x 0.5 / sqrt(3) = 0.577
    assert (gm["verdict"], gm["printed"], gm["printed_sd"], gm["printed_n"], gm["ours_n"]) == ("not run", 91.0, 0.1, 3, 0)
    assert (l2["row"], l2["verdict"], l2["ours_mean"], l2["paper"]) == ("l2", "not printed", 90.0, "p")
    assert math.isnan(l2["printed"]) and math.isnan(gm["ours_mean"]) and math.isnan(gm["difference"])
    assert verdict_counts(table) == "1 within 2 standard errors, 1 not run, 1 not printed"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("93.39", "equal"), ("93.40", "within 2 standard errors"), ("94.09", "within 2 standard errors"), ("94.10", "differs")],
)
def test_a_wrong_printed_number_flips_the_verdict(value: str, expected: str) -> None:
    # 94.09 is 0.70 away, 2 x sqrt((93.39 x 6.61 + 94.09 x 5.91) / 9500) = 0.7029; 94.10 is 0.71 away, and that 0.7026.
    ours = pd.DataFrame({"stage": ["trained"], "top1_pct": [93.39], "n_images": [9_500]})
    table = facts({"row": "trained", "column": "top1_pct", "value": value})
    assert only(against(ours, table, by=["stage"], values=["top1_pct"], of_images=["top1_pct"]))["verdict"] == expected


def test_percentages_of_images_are_only_those_that_are_named() -> None:
    ours = pd.DataFrame({"stage": ["trained"], "delta_pct": [1.3], "n_images": [100]})
    table = facts({"row": "trained", "column": "delta_pct", "value": "1.24"})
    assert only(against(ours, table, by=["stage"], values=["delta_pct"]))["verdict"] == "differs"


def test_an_empty_printed_number_is_not_printed_and_nan_of_ours_is_explained() -> None:
    ours = pd.DataFrame({"row": ["a", "b", "c", "c"], "seed": [0, 0, 0, 1], "x": [1.0, np.nan, np.nan, 2.0]})
    rows = ({"row": "a", "value": ""}, {"row": "b", "value": "1"}, {"row": "c", "value": "2", "remark": "odd"})
    a, b, c = against(ours, facts(*rows), by=["row"], values={"x": "tuned_pct"}).to_dict("records")
    assert (a["verdict"], a["ours_mean"]) == ("not printed", 1.0)
    assert (b["verdict"], b["remark"]) == ("not run", "1 of 1 runs of ours without a number")
    assert (c["verdict"], c["ours_n"], c["remark"]) == ("equal", 1, "odd; 1 of 2 runs of ours without a number")


def test_a_network_that_several_runs_share_counts_once() -> None:
    ours = pd.DataFrame({"stage": "trained", "seed": [0, 0, 0, 1], "x": [93.0, 93.0, 93.5, 93.0]})
    found = only(against(ours, facts({"row": "trained", "value": "93"}), by=["stage"], values={"x": "tuned_pct"}))
    assert found["ours_n"] == 3  # seed 0: 93.0 once and 93.5; seed 1
    found = only(
        against(ours.drop(columns="seed"), facts({"row": "trained", "value": "93"}), by=["stage"], values={"x": "tuned_pct"})
    )
    assert found["ours_n"] == 4


def test_digits_are_those_of_the_most_precise_number_of_a_column() -> None:
    ours = pd.DataFrame({"row": ["a", "b"], "x": [99.6, 93.75]})
    table = facts({"row": "a", "value": "100"}, {"row": "b", "value": "93.75"})
    found = against(ours, table, by=["row"], values={"x": "tuned_pct"})
    assert found["verdict"].tolist() == ["differs", "equal"]
    found = against(ours, table, by=["row"], values={"x": "tuned_pct"}, rows="a")  # the others count, shown or not
    assert found["verdict"].tolist() == ["differs"]


def test_names_of_rows() -> None:
    ours = pd.DataFrame({"model": ["vgg16_bn", "vgg16_bn"], "ratio": [0.1, 1.0], "index": [1, 2], "x": [3.0, 4.0]})
    table = facts({"row": "vgg16 / 0.1 / Conv1", "value": "3"}, {"row": "vgg16 / 1 / Conv2", "value": "4"})
    by = {"model": "{}", "ratio": "{}", "index": "Conv{}"}
    found = against(ours, table, by=by, values={"x": "tuned_pct"}, spelling={"vgg16_bn": "vgg16"})
    assert found["verdict"].tolist() == ["equal", "equal"]
    assert (
        len(against(ours, table, by=by, values={"x": "tuned_pct"}, rows="*Conv2")) == 3
    )  # one printed, two under our spelling


def test_refusals() -> None:
    ours = pd.DataFrame({"row": ["a"], "x": [1.0]})
    table = facts({"row": "a", "value": "1"})
    with pytest.raises(ValueError, match="one table"):
        against(ours, pd.concat([table, facts({"row": "b"}, table="2")]), by=["row"], values={"x": "tuned_pct"})
    with pytest.raises(ValueError, match="'z\\*'"):
        against(ours, table, by=["row"], values={"x": "tuned_pct"}, rows="z*")
    with pytest.raises(ValueError, match="infinite"):
        against(ours.assign(x=math.inf), table, by=["row"], values={"x": "tuned_pct"})
    with pytest.raises(ValueError, match="neurips21.*1, 4, 5|neurips21.*J"):
        printed("neurips21", "99")
    with pytest.raises(ValueError, match="reproduced"):
        printed("nobody", "1")
    with pytest.raises(ValueError, match="accuracy.*stage"):
        beside(ours, of="accuracy", paper="neurips21", table="5", by=["stage"], values=["tuned_pct"])


def test_beside_table_5_of_one_run_and_of_a_sweep() -> None:
    ours = pd.DataFrame(
        {
            "stage": ["trained", "tuned", "tuned", "tuned"],
            "dataset": "cifar10",
            "model": "vgg16_bn",
            "pruned_by": "l1",
            "seed": [0, 0, 1, 2],
            "top1_pct": [93.6, 93.51, 93.31, 93.41],
        }
    )

    def verdicts(part: pd.DataFrame) -> list[str]:
        by = {"dataset": "{}", "model": "{}", "pruned_by": "{}", "stage": "1"}
        found = beside(
            part,
            of="accuracy",
            paper="neurips21",
            table="5",
            by=by,
            values={"top1_pct": "tuned_pct"},
            where={"stage": "tuned"},
            spelling={"vgg16_bn": "vgg16"},
            rows="cifar10 / vgg16 / l* / 1",
        )
        return found["verdict"].tolist()

    assert verdicts(ours[:2]) == ["equal", "not run"]  # printed: l1 93.51, l2 93.32
    assert verdicts(ours) == ["within 2 standard errors", "not run"]  # 93.41 +- 0.1 (3): 0.10 <= 2 x 0.0577
    assert verdicts(ours.assign(top1_pct=[93.6, 93.31, 93.31, 93.33])) == ["differs", "not run"]
    assert verdicts(ours[:1]) == ["not run", "not run"]


def test_compact_keeps_all_digits_of_counts() -> None:
    ours = pd.DataFrame({"row": ["a", "a"], "seed": [0, 1], "x": [853018.0, 853018.0]})
    table = facts({"row": "a", "value": "853018"}, {"row": "b", "value": "93.51", "sd": "0.07", "n": "3"})
    text = compact(against(ours, table, by=["row"], values={"x": "tuned_pct"})).to_dict("records")
    assert [each["printed"] for each in text] == ["853018", "93.51 +- 0.07 (3)"]
    assert [each["ours"] for each in text] == ["853018 +- 0 (2)", ""]
    assert [each["difference"] for each in text] == ["+0", ""]


def test_every_file_has_the_columns_and_the_lines_of_its_source() -> None:
    files = {path.stem: pd.read_csv(path, dtype=str, keep_default_na=False) for path in PUBLISHED.glob("*.csv")}
    assert {name: len(file) for name, file in files.items()} == LINES
    assert all(list(file) == COLUMNS for file in files.values())


def test_every_number_is_one_and_stands_once() -> None:
    everything = all_printed()
    repeated = everything[everything.duplicated(["paper", "table", "row", "column"], keep=False)]
    assert repeated.empty and len(everything) == sum(LINES.values())
    for column in ("paper", "table", "row", "column"):
        assert (everything[column].str.strip() == everything[column]).all() and (everything[column] != "").all()
    for value in everything["value"]:
        assert value and Decimal(value).is_finite()
    assert all(float(sd) >= 0 for sd in everything["sd"] if sd) and all(int(n) >= 1 for n in everything["n"] if n)


def test_numbers_against_the_papers() -> None:
    """A few of every file, by hand, with the digits that are printed."""
    found = {
        (paper, table, row, column): value
        for paper, table, row, column, value, *_ in all_printed().itertuples(index=False, name=None)
    }
    assert found["iclr21", "8", "Cifar100 ResNet164 / Conv1", "sigma_t"] == "448.68"
    assert found["arxiv_1907_04223", "S-1", "euclidean / cifar10_random / 0.Input / 1.Conv / 2", "p"] == "0.649"
    assert found["neurips21", "7", "network structure / ResNet164 / CIFAR10", "gaussian_pct"] == "100.00"
    assert found["neurips21", "5", "cifar100 / vgg16 / gm / 3", "tuned_pct"] == "70.78"
    assert found["neurips21", "4", "cifar100 / vgg16 / l2 / 0.1", "delta_pct"] == "1.24"
    assert found["neurips21", "1", "vgg16_imagenet / 3 / l2", "pruned_3"] == "88"
    assert found["neurips21", "J", "vgg16 / 2 / apoz", "pruned_2"] == "10"
    assert found["arxiv_2301_05219", "6", "cifar10 / resnet56 / l1 / 0.5 / lr 0.001", "tuned_top1_pct"] == "93.12"
    assert found["pytorch_resnet_cifar10", "resnet56", "cifar10 / resnet56 / trained", "top1_pct"] == "93.39"


def test_orders_are_permutations() -> None:
    for _, order in printed("neurips21", "J").groupby("row"):
        assert sorted(map(int, order["value"])) == list(range(64))
    assert all(order["value"].nunique() == 8 for _, order in printed("neurips21", "1").groupby("row"))


def test_misprints_are_named() -> None:
    """Each misprint's numbers contradict others of the paper, or of its own table."""
    named = all_printed().query("remark.str.startswith('misprint')")
    counts = Counter(zip(named["paper"], named["table"], strict=True))
    assert counts == {
        ("neurips21", "4"): 3,
        ("neurips21", "5"): 1,
        ("neurips21", "7"): 3,
        ("neurips21", "8"): 7,
        ("neurips21", "9"): 11,
        ("neurips21", "10"): 8,
        ("neurips21", "11"): 9,
        ("neurips21", "12"): 1,
        ("neurips21", "13"): 8,
        ("neurips21", "14"): 1,
    }
    for row, part in printed("neurips21", "4").groupby("row"):
        if str(row).endswith("trained"):
            continue
        value = part.set_index("column")["value"].map(Decimal)
        wrong = value["delta_pct"] != value["max_pct"] - value["min_pct"] or value["mean_pct"] < value["min_pct"]
        assert wrong == part["remark"].str.startswith("misprint").any(), row
    vgg = printed("neurips21", "7").query("row.str.contains('VGG16') and value == '93.75'")
    assert len(vgg) == 3 and vgg["remark"].str.startswith("misprint").all()
