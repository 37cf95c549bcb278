"""Runners that look at what is there, as a user calls them: nothing is made, and a wrong place is one line."""

from pathlib import Path

import pytest
from sweep_folders import column, make_done

from runners.sweeping.job import Job
from runners.sweeping.manifest import begin, sweep_folder
from support import Command, check_refused


def sweep(outputs: Path, experiment: str | None = None) -> Path:
    jobs = [Job(number, (f"seed={number}",), {"seed": number}, f"job{number}", outputs / f"job{number}") for number in (0, 1)]
    folder = sweep_folder(outputs, jobs, experiment)
    begin(folder, jobs, command=["run.py", "-m", "seed=0,1"], code={"sources": "5a"})
    return folder


def test_status_and_report_are_of_the_newest_sweep_and_make_no_run(command: Command, tmp_path: Path) -> None:
    folder = sweep(tmp_path / "outputs")
    seen = command("runner=status")
    assert seen.code == 0 and seen.out.startswith("2 jobs: 2 missing\n") and "run.py -m seed=0,1" in seen.out
    made = command("runner=report", f"sweep={folder}")
    assert made.code == 0 and (folder / "missing.csv").is_file() and "0 of 2 jobs" in made.out
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"sweeps"}


def test_an_experiment_finds_its_own_sweep(command: Command, tmp_path: Path) -> None:
    mine = sweep(tmp_path / "outputs", "neurips21_table4")
    sweep(tmp_path / "outputs")
    seen = command("experiment=neurips21_table4", "runner=status", "hydra.mode=RUN")
    assert seen.code == 0 and mine.name in seen.out


@pytest.mark.parametrize("runner", ["status", "report"])
def test_without_a_sweep_there_is_one_line(runner: str, command: Command, tmp_path: Path) -> None:
    check_refused(command(f"runner={runner}"), 2, tmp_path / "outputs", "--multirun")


def test_options_of_another_runner_are_none_of_these(command: Command) -> None:
    assert command("runner=status", "runner.rounds=3").code == 2


def test_reports_of_the_config_are_made_of_a_sweep(command: Command, tmp_path: Path) -> None:
    folder = make_done(tmp_path / "outputs")
    report = ("+reports.means._target_=analysis.repeats.layer_means", "+reports.means._partial_=true")
    seen = command("runner=report", *report)
    assert seen.code == 0, seen.err
    assert column(folder / "means.csv", "run", "ratio", "criterion_a", "criterion_b", "rho") == [
        (f"l1-{ratio}-{seed}", ratio, "l1", "l2", "0.5") for ratio in ("0.1", "0.5") for seed in (0, 1)
    ]
    assert "means.csv" in seen.out and "| l1-0.5-1 |" in seen.out
    check_refused(command("runner=report", *report, "+reports.means.rho=1"), 2, "reports.means.rho")
