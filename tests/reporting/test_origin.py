"""The origin of a report's rows, and the refusal of rows that may not stand in one table."""

from pathlib import Path
from typing import Any

import pytest
from sweep_folders import GRID, accuracy, facts, finish, finish_with, make_done, make_sweep, name_of, rows

from runners.process.errors import StoreError
from runners.reporting import report
from support import raises_line

EPYC = "AMD EPYC, x86_64, 1 threads, torch 2.15.0, fp32"


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """A sweep of two ratios and two seeds, all done."""
    return make_done(tmp_path)


def origin(text: str, name: str) -> str:
    """The text of the line whose name begins so."""
    return next(line for line in text.splitlines() if line.startswith(f"- {name}")).partition(": ")[2]


def test_origins(done: Path) -> None:
    text = report.report(done)
    assert origin(text, "Seeds") == "0, 1"
    assert origin(text, "Code versions") == "1: commit c0ffee"
    assert origin(text, "Numerics classes") == f"1: {EPYC}"
    assert origin(text, "Different keys").split(", ") == ["dataset 1", "trained 2", "tuned 2"]
    assert "latency_ms" in text


def test_a_part_of_a_data_set_and_random_labels_are_named(done: Path, tmp_path: Path) -> None:
    assert "Parts of data sets" not in report.report(done) and "Labels" not in report.report(done)
    part = "20,000 + 10,000 images of more"
    finish(tmp_path, GRID[1], facts(1), [each | {"dataset_part": part, "labels": "random"} for each in accuracy()])
    text = report.report(done)
    assert origin(text, "Parts of data sets") == part and origin(text, "Labels") == "random"


def test_mixed_code_and_numerics_are_counted(done: Path, tmp_path: Path) -> None:
    finish(tmp_path, GRID[1], facts(1, threads=2, commit="decade"))
    text = report.report(done)
    assert origin(text, "Code versions") == "2: commit c0ffee (jobs 0, 2, 3); commit decade (job 1)"
    assert origin(text, "Numerics classes").startswith(f"2: {EPYC} (jobs 0, 2, 3); ")
    finish(tmp_path, GRID[2], facts(0, precision="bf16") | {"fused": True})
    assert "2.15.0, bf16, fused (job 2)" in origin(report.report(done), "Numerics classes")


@pytest.mark.parametrize(
    ("other", "what"),
    [({"trained": "other"}, "trained network"), ({"dataset": "other"}, "other data")],
)
def test_rows_of_another_baseline_are_refused(done: Path, tmp_path: Path, other: dict[str, str], what: str) -> None:
    before = {path.name for path in done.iterdir()}
    finish(tmp_path, {"criterion": "l1", "ratio": 0.5, "seed": 1}, facts(1, **other))  # pyright: ignore[reportArgumentType]
    # Two jobs share seed 1: the first by name is taken to be right.
    with raises_line(StoreError, "job 3 (l1-0.5-1)", what, "model=resnet20 dataset=digits seed=1"):
        report.report(done)
    assert {path.name for path in done.iterdir()} == before


def test_rows_of_a_baseline_that_was_made_again_and_differs_are_refused(tmp_path: Path) -> None:
    grid = [{"criterion": name} for name in ("gm", "l1", "l2")]
    sweep = make_sweep(tmp_path, grid)
    for values, content in zip(grid, ("first", "first", "again"), strict=True):
        finish(tmp_path, values, facts() | {"contents": {"trained": content}})
    with raises_line(StoreError, "job 2 (l2)", "made again"):
        report.report(sweep)


def test_rows_that_several_machines_had_a_part_in_are_flagged(done: Path, tmp_path: Path) -> None:
    finish(tmp_path, GRID[1], facts(1) | {"numerics_mixed": True})
    text = report.report(done)
    assert origin(text, "Runs that") == "job 1"
    flagged = [row["run"] for row in rows(done / "accuracy.csv") if row["numerics_mixed"] == "true"]
    assert flagged == [name_of(GRID[1])] * 2, "both stages"


def test_the_usual_baseline_is_that_of_most_jobs(tmp_path: Path) -> None:
    grid = [{"criterion": name} for name in ("gm", "l1", "l2")]
    sweep = make_sweep(tmp_path, grid)
    for values, trained in zip(grid, ("old", "new", "new"), strict=True):
        finish(tmp_path, values, facts(trained=trained))
    with raises_line(StoreError, "job 0 (gm)"):
        report.report(sweep)


def test_hardware_may_choose_another_precision_but_not_other_data(done: Path, tmp_path: Path) -> None:
    finish(tmp_path, GRID[3], facts(1, trained="other", precision="bf16"))
    assert origin(report.report(done), "Numerics classes").startswith("2: ")
    finish(tmp_path, GRID[3], facts(1, trained="other", dataset="other", precision="bf16"))
    with raises_line(StoreError, "other data"):
        report.report(done)


@pytest.mark.parametrize("key", ["recipe.epochs", "optimizer.lr", "model.shortcut", "weights", "compile", "dataset.size"])
def test_what_trains_the_network_may_be_swept(tmp_path: Path, key: str) -> None:
    grid = [{key: 1}, {key: 2}]
    sweep = make_sweep(tmp_path, grid)
    for values, trained in zip(grid, ("one", "two"), strict=True):
        finish(tmp_path, values, facts(trained=trained, dataset=trained))
    assert "2 of 2 jobs." in report.report(sweep)


@pytest.mark.parametrize("key", ["ratio", "criterion", "finetune.epochs", "runner.rounds", "criterion@criteria.mine", "scope"])
def test_what_comes_after_training_may_not_change_the_baseline(tmp_path: Path, key: str) -> None:
    grid = [{key: 1}, {key: 2}]
    sweep = make_sweep(tmp_path, grid)
    for values, trained in zip(grid, ("one", "two"), strict=True):
        finish(tmp_path, values, facts(trained=trained))
    with raises_line(StoreError, "trained network"):
        report.report(sweep)


def test_runs_without_data_or_training_are_not_compared(tmp_path: Path) -> None:
    grid = [{"slope": 1}, {"slope": 2}]
    sweep = make_sweep(tmp_path, grid)
    found: dict[str, Any] = facts() | {"keys": {}, "tables": {"law": {"by": [], "values": ["slope"]}}}
    for values in grid:
        finish_with(tmp_path, values, found, {"law": f"slope\n{values['slope']}\n"})
    text = report.report(sweep)
    assert "2 of 2 jobs." in text and origin(text, "Seeds") == "0"
    assert not any(f"- {name}" in text for name in ("Models", "Data sets", "Different keys"))
