"""Reports of a sweep: any table of its runs, gathered and repeated over seeds, and the experiment's reports of them."""

import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from sweep_folders import (
    GRID,
    RHO,
    accuracy,
    change,
    column,
    facts,
    finish,
    finish_with,
    make_done,
    make_seven,
    make_sweep,
    name_of,
    of_earlier_version,
    rows,
)

from runners.looking.state import STATES
from runners.process.errors import ConfigError, ResourceError
from runners.reporting import report
from support import check_line, names, raises_line

HEAD, LAYERS = RHO.split("\n", 1)


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """A sweep of two ratios and two seeds, all done."""
    return make_done(tmp_path)


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    """A sweep with one job in every state."""
    return make_seven(tmp_path)


def with_table(name: str, by: list[str], values: list[str]) -> dict[str, Any]:
    """The facts of a run with one table."""
    return facts() | {"tables": {name: {"by": by, "values": values}}}


def done_of(text: str) -> tuple[int, int, list[int]]:
    """The number of jobs that are done, of all, and the numbers of the first that are missing."""
    found = re.search(r"(\d+) of (\d+) jobs(?:; missing: ([\d, ]+))?", text)
    assert found
    done, jobs, missing = found.groups(default="")
    return int(done), int(jobs), [int(number) for number in missing.split(", ") if number]


def test_all_rows_and_repeats_by_hand(done: Path) -> None:
    text = report.report(done)
    assert (done / "accuracy.csv").read_text().splitlines()[:3] == [
        "criterion,ratio,seed,run,numerics_mixed,stage,top1_pct,top5_pct,loss_nats,params,macs,latency_ms,model,dataset",
        "l1,0.1,0,l1-0.1-0,,trained,95.5,,0.5,1000,4000,1.5,resnet20,digits",
        "l1,0.1,0,l1-0.1-0,,tuned,93.0,,0.5,1000,4000,1.5,resnet20,digits",
    ]
    assert len(rows(done / "accuracy.csv")) == 8
    what = ("criterion", "ratio", "stage", "n_jobs", "top1_pct_mean", "top1_pct_sd", "top1_pct_n", "params_mean", "macs_n")
    # Of 93 and 94 the mean is 93.5 and the deviation sqrt(1/2); of 80 and 83, 81.5 and sqrt(9/2).
    assert column(done / "accuracy_over_seeds.csv", *what) == [
        ("l1", "0.1", "trained", "2", "95.5", "0.0", "2", "1000.0", "2"),
        ("l1", "0.1", "tuned", "2", "93.5", "0.7071067811865476", "2", "1000.0", "2"),
        ("l1", "0.5", "trained", "2", "95.5", "0.0", "2", "1000.0", "2"),
        ("l1", "0.5", "tuned", "2", "81.5", "2.1213203435596424", "2", "1000.0", "2"),
    ]
    assert "top5_pct_mean" not in rows(done / "accuracy_over_seeds.csv")[0], "no run has one"
    assert "| l1        | 0.1   | 95.50 +- 0.00 (2) | 93.50 +- 0.71 (2) |" in text
    assert "| l1        | 0.5   | 95.50 +- 0.00 (2) | 81.50 +- 2.12 (2) |" in text
    assert done_of(text) == (4, 4, [])
    assert r"l1 & 0.5 & 95.50 $\pm$ 0.00 (2) & 81.50 $\pm$ 2.12 (2) \\" in (done / "report.tex").read_text()
    assert (done / "missing.csv").read_text() == "run,criterion,ratio,state,exit_code,reason\n"
    assert text.startswith((done / "report.md").read_text())


def test_notes_are_counted_and_empty_cells_are_not_repeats(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, GRID[:3])
    finish(tmp_path, GRID[0], facts(0), rho=RHO + "conv3,3,l1,l2,,16,constant scores\nconv4,4,l1,l2,,2,few\n")
    finish(tmp_path, GRID[1], facts(1), rho=f"{HEAD}\n{LAYERS.replace('0.75', '1.0')}conv3,3,l1,l2,,16,constant scores\n")
    text = report.report(sweep)
    what = ("ratio", "layer", "criterion_a", "criterion_b", "n_jobs", "rho_mean", "rho_sd", "rho_n", "note")
    # Of 0.75 and 1 the deviation is 0.25 / sqrt(2).
    assert column(sweep / "spearman_over_seeds.csv", *what) == [
        ("0.1", "conv1", "l1", "l2", "2", "0.875", repr(math.sqrt(0.25**2 / 2)), "2", ""),
        ("0.1", "conv2", "l1", "l2", "2", "0.25", "0.0", "2", ""),
        ("0.1", "conv3", "l1", "l2", "2", "", "", "0", "constant scores: 2"),
        ("0.1", "conv4", "l1", "l2", "2", "", "", "0", "few: 1"),
    ]
    assert "| l1        | 0.1   | conv3 | 3     | l1          | (0 of 2)" in text
    assert "| l1        | 0.5   |       |       |             | (0 of 1)" in text, "a group of which no run is done"


def test_runs_of_an_earlier_version_give_the_same_tables(done: Path, tmp_path: Path) -> None:
    first = report.report(done)
    content = {name: (done / name).read_bytes() for name in FILES}
    for values, tuned in zip(GRID, (93.0, 94.0, 80.0, 83.0), strict=True):
        finish(tmp_path, values, of_earlier_version(facts(values["seed"]), accuracy(tuned)), accuracy(tuned))
    assert report.report(done) == first
    assert {name: (done / name).read_bytes() for name in FILES} == content


def test_a_table_of_one_row_needs_nothing_else(tmp_path: Path) -> None:
    grid = [{"noise": noise, "seed": seed} for noise in (0.0, 1.0) for seed in (0, 1)]
    sweep = make_sweep(tmp_path, grid)
    for values, slope in zip(grid, (0.5, 0.75, 0.001, 0.003), strict=True):
        found = with_table("law", [], ["slope", "n_points"]) | {"keys": {}, "seed": values["seed"]}
        finish_with(tmp_path, values, found, {"law": f"slope,n_points\n{slope},12\n"})
    text = report.report(sweep)
    assert column(sweep / "law.csv", "noise", "seed", "slope") == [
        ("0", "0", "0.5"),
        ("0", "1", "0.75"),
        ("1", "0", "0.001"),
        ("1", "1", "0.003"),
    ]
    what = ("noise", "n_jobs", "slope_mean", "slope_n", "n_points_mean", "n_points_sd")
    assert column(sweep / "law_over_seeds.csv", *what) == [
        ("0", "2", "0.625", "2", "12.0", "0.0"),
        ("1", "2", "0.002", "2", "12.0", "0.0"),
    ]
    assert "| noise | slope                |" in text and "| 0     | 0.6250 +- 0.1768 (2) |" in text


def test_few_values_of_the_last_column_stand_side_by_side_and_long_tables_are_named(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{}])
    wide = "layer,ratio,kept\n" + "".join(f"conv{layer},{ratio},{layer}\n" for layer in range(61) for ratio in (0.1, 0.5))
    few = "layer,kept\n" + "".join(f"conv{layer},{layer}\n" for layer in range(9))
    listed = {"wide": {"by": ["layer", "ratio"], "values": ["kept"]}, "few": {"by": ["layer"], "values": ["kept"]}}
    finish_with(tmp_path, {}, facts() | {"tables": listed}, {"wide": wide, "few": few})
    text = report.report(sweep)
    assert "61 rows, in wide_over_seeds.csv" in text and "conv60" not in text
    assert "61 rows" in (sweep / "report.tex").read_text()
    assert "| layer | kept      |" in text and "| conv8 | 8.000 (1) |" in text, "nine layers are too many columns"
    listed["wide"]["by"] = ["layer", "ratio"]
    finish_with(tmp_path, {}, facts() | {"tables": listed}, {"wide": "\n".join(wide.split("\n")[:5]), "few": few})
    text = report.report(sweep)
    assert "| layer | 0.1       | 0.5       |" in text and "| conv1 | 1.000 (1) | 1.000 (1) |" in text


def test_a_table_keeps_its_own_column_of_the_name_of_an_option(tmp_path: Path) -> None:
    grid = [{"criterion": name, "ratio": 0.5} for name in ("l1", "l2")]
    sweep = make_sweep(tmp_path, grid)
    for values in grid:
        text = "criterion,ratio,spread\ngm,0.5,1\nl1,0.50,2\n"
        finish_with(tmp_path, values, with_table("spread", ["criterion"], ["spread"]), {"spread": text})
    report.report(sweep)
    what = ("sweep.criterion", "criterion", "ratio", "spread")
    expected = [("l1", "gm", "0.5", "1"), ("l1", "l1", "0.5", "2"), ("l2", "gm", "0.5", "1"), ("l2", "l1", "0.5", "2")]
    assert column(sweep / "spread.csv", *what) == expected, "the ratio says the same and stands once"
    assert "sweep.ratio" not in rows(sweep / "spread.csv")[0]
    assert column(sweep / "spread_over_seeds.csv", "sweep.criterion", "criterion") == [each[:2] for each in expected]


def test_an_empty_cell_does_not_hide_what_is_varied(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{"ratio": {"conv1": 0.5}}])
    finish(tmp_path, {"ratio": {"conv1": 0.5}}, facts(), [row | {"ratio": None} for row in accuracy()])
    report.report(sweep)
    assert column(sweep / "accuracy.csv", "ratio") == [('{"conv1":0.5}',)] * 2


def test_runs_that_lack_a_table_or_a_column_have_no_cells_there(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, GRID[:2])
    finish_with(tmp_path, GRID[0], with_table("law", [], ["slope"]), {"law": "slope,note\n1.5,weak\n"})
    found = with_table("law", [], ["slope"]) | {"seed": 1}
    finish_with(tmp_path, GRID[1], found, {"law": "fit,slope\nline,2.5\n"})
    report.report(sweep)
    assert column(sweep / "law.csv", "fit", "slope", "note") == [("", "1.5", "weak"), ("line", "2.5", "")]
    assert column(sweep / "law_over_seeds.csv", "slope_mean", "slope_n", "note") == [("2.0", "2", "weak: 1")]


def test_names_that_read_like_nothing_are_names(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{}])
    finish(tmp_path, {}, facts(), rho=RHO.replace("l1", "nan"))
    report.report(sweep)
    for name in ("spearman.csv", "spearman_over_seeds.csv"):
        assert column(sweep / name, "criterion_a", "criterion_b") == [("nan", "l2")] * 2


def test_one_seed_has_no_deviation_and_nan_is_left_out(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, GRID)
    finish(tmp_path, GRID[0], facts(0), accuracy(93.0))
    finish(tmp_path, GRID[1], facts(1), accuracy(None))
    finish(tmp_path, GRID[2], facts(0), accuracy(None))
    text = report.report(sweep)
    what = ("stage", "ratio", "top1_pct_mean", "top1_pct_sd", "top1_pct_n", "loss_nats_n", "n_jobs")
    tuned = [row[1:] for row in column(sweep / "accuracy_over_seeds.csv", *what) if row[0] == "tuned"]
    assert tuned == [("0.1", "93.0", "", "1", "2", "2"), ("0.5", "", "", "0", "1", "2")]
    assert "93.00 (1 of 2)" in text and "| (0 of 2)" in text
    assert "nan" not in (sweep / "accuracy_over_seeds.csv").read_text()
    assert "95.50 (1 of 2)" in (sweep / "report.tex").read_text()


def test_what_is_missing_is_said_and_listed(seven: Path) -> None:
    text = report.report(seven)
    assert done_of(text) == done_of((seven / "report.tex").read_text()) == (1, 7, [1, 2, 3, 4, 5, 6])
    assert all(names(text, f"1 {state}") for state in STATES[1:])
    [failed] = [line for line in text.splitlines() if line.startswith("- 2 criterion=l1 ratio=0.3: ")]
    check_line(failed, "failed", 5, "loss is nan")
    assert column(seven / "missing.csv", "run", "ratio", "state", "exit_code")[1:3] == [
        ("l1-0.3", "0.3", "failed", "5"),
        ("l1-0.4", "0.4", "stopped", "75"),
    ]
    assert "(0 of 1)" in text, "groups of which nothing is done stay in the table"


def test_nothing_done_makes_tables_all_the_same(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{"seed": seed} for seed in range(25)])
    text = report.report(sweep)
    assert done_of(text) == (0, 25, [*range(20)]) and names(text, "5 more") and names(text, "25 missing")
    assert names((sweep / "report.md").read_text(), "missing.csv")
    assert not (sweep / "accuracy.csv").exists()
    assert len(rows(sweep / "missing.csv")) == 25
    assert list(rows(sweep / "missing.csv")[0]) == ["run", "seed", "state", "exit_code", "reason"]


TABLE_FILES = ("accuracy.csv", "accuracy_over_seeds.csv", "spearman.csv", "spearman_over_seeds.csv", "missing.csv")
FILES = (*TABLE_FILES, "report.md", "report.tex")


def test_a_second_report_is_the_same_bytes(done: Path) -> None:
    first = report.report(done)
    content = {name: (done / name).read_bytes() for name in FILES}
    assert report.run(str(done), "elsewhere", {}).text == first
    assert {name: (done / name).read_bytes() for name in FILES} == content
    assert not [path for path in done.iterdir() if path.name.startswith(".")]


def test_the_order_of_the_command_changes_no_table(done: Path) -> None:
    report.report(done)
    content = {name: (done / name).read_bytes() for name in TABLE_FILES}
    jobs = json.loads((done / "sweep.json").read_text())["jobs"][::-1]
    jobs = [job | {"values": dict(reversed(job["values"].items())), "number": number} for number, job in enumerate(jobs)]
    change(done / "sweep.json", jobs=jobs)
    report.report(done)
    assert {name: (done / name).read_bytes() for name in TABLE_FILES} == content


def test_deleted_rows_are_missed_and_come_back(done: Path, tmp_path: Path) -> None:
    report.report(done)
    content = {name: (done / name).read_bytes() for name in FILES}
    for values in (GRID[0], GRID[3]):
        (tmp_path / name_of(values)).rename(tmp_path / "aside" if values is GRID[0] else tmp_path / "aside3")
    text = report.report(done)
    assert done_of(text) == (2, 4, [0, 3]) and "94.00 (1 of 2)" in text and "80.00 (1 of 2)" in text
    (tmp_path / "aside").rename(tmp_path / name_of(GRID[0]))
    (tmp_path / "aside3").rename(tmp_path / name_of(GRID[3]))
    report.report(done)
    assert {name: (done / name).read_bytes() for name in FILES} == content


@pytest.mark.parametrize(
    "text",
    [
        "",
        "layer,rho\n",
        RHO.replace("0.75", "much"),
        RHO.replace("0.75", "inf"),
        RHO + "a,b,c,d,e,f,g,h\n",
        RHO + "conv1,1,l1,l2,0.5,16,\n",
        RHO.replace("n_filters", "rho"),
    ],
)
def test_a_job_with_an_unreadable_table_is_missing(tmp_path: Path, text: str) -> None:
    sweep = make_sweep(tmp_path, GRID[:2])
    finish(tmp_path, GRID[0], facts(0))
    finish(tmp_path, GRID[1], facts(1), rho=text)
    text = report.report(sweep)
    assert done_of(text) == (1, 2, [1]) and names(text, "1 damaged")
    assert len(rows(sweep / "accuracy.csv")) == 2
    assert names(rows(sweep / "missing.csv")[0]["reason"], "spearman.csv")


def test_values_sort_as_what_they_are(tmp_path: Path) -> None:
    grid = [{"ratio": ratio} for ratio in ("{a:0.5}", 10, 9, 0.5, None, [0, 1], True)]
    sweep = make_sweep(tmp_path, grid)
    finish(tmp_path, grid[5], facts())
    report.report(sweep)
    lines = (sweep / "report.md").read_text().splitlines()
    table = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert table[:8] == ["ratio", "", "0.5", "true", "9", "10", r"{a:0.5}", r"\[0,1\]"]
    assert column(sweep / "accuracy.csv", "ratio") == [("[0,1]",), ("[0,1]",)]


# Reports of an experiment


def best(accuracy: pd.DataFrame, *, stage: str) -> pd.DataFrame:
    found = accuracy[accuracy["stage"] == stage].groupby(["ratio"], as_index=False)["top1_pct"].max()
    return found.assign(paper="=Li 2017")


def against(best: pd.DataFrame, accuracy_over_seeds: pd.DataFrame) -> pd.DataFrame:
    tuned = accuracy_over_seeds[accuracy_over_seeds["stage"] == "tuned"]
    return best.merge(tuned, on="ratio").assign(below=lambda each: each["top1_pct"] - each["top1_pct_mean"])[["ratio", "below"]]


def curve(best: pd.DataFrame) -> Figure:
    figure = Figure()
    figure.add_subplot().plot(best["ratio"], best["top1_pct"])
    return figure


def test_reports_are_made_of_the_tables_of_the_whole_sweep(done: Path) -> None:
    reports = {"best": partial(best, stage="tuned"), "against": partial(against), "curve": partial(curve)}
    text = report.report(done, reports)
    assert column(done / "best.csv", "ratio", "top1_pct", "paper") == [
        ("0.1", "94.0", "'=Li 2017"),
        ("0.5", "83.0", "'=Li 2017"),
    ]
    assert column(done / "against.csv", "ratio", "below") == [("0.1", "0.5"), ("0.5", "1.5")]
    assert (done / "curve.png").stat().st_size > 1000 and "\ncurve: curve.png\n" in text
    assert "| ratio | top1_pct | paper    |" in text and "| 0.5   | 83       | =Li 2017 |" in text
    content = {path.name: path.read_bytes() for path in done.glob("*.csv")}
    assert report.report(done, reports) == text, "its own tables are no tables of the sweep"
    assert {path.name: path.read_bytes() for path in done.glob("*.csv")} == content


def counted(scores: pd.DataFrame) -> pd.DataFrame:
    return scores.groupby("run", as_index=False).agg(score=("score", "count"))


def test_a_report_may_ask_for_a_table_that_run_json_does_not_list(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, GRID[:2])
    for values, scores in zip(GRID, ("score\n1\n2\n", "score\n3\n"), strict=False):
        finish_with(
            tmp_path,
            values,
            with_table("law", [], ["slope"]) | {"seed": values["seed"]},
            {"law": "slope\n1\n", "scores": scores},
        )
    report.report(sweep, {"counted": partial(counted)})
    assert column(sweep / "counted.csv", "run", "score") == [("l1-0.1-0", "2"), ("l1-0.1-1", "1")]
    assert len(rows(sweep / "scores.csv")) == 3 and not (sweep / "scores_over_seeds.csv").exists()


def test_a_report_that_cannot_be_made_is_one_line_and_leaves_the_rest(done: Path) -> None:
    with raises_line(ConfigError, "reports.counted", "'scores'", "accuracy"):
        report.report(done, {"counted": partial(counted)})
    assert done_of((done / "report.md").read_text()) == (4, 4, []) and not (done / "counted.csv").exists()
    with raises_line(ConfigError, "'no such'", "reports.curve=null"):
        report.report(done, {"curve": partial(lambda accuracy: accuracy["no such"]), "best": partial(best, stage="tuned")})
    assert len(rows(done / "best.csv")) == 2


def test_a_folder_that_takes_no_files(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", refuse)
    with raises_line(ResourceError, "Read-only file system"):
        report.report(done)


def refuse(path: Path, mode: str = "r", **_: Any) -> Any:
    if "w" in mode:
        raise OSError(30, "Read-only file system")
    return open(path, mode)
