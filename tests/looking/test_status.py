"""Status of a sweep: one line a job."""

import re
import shutil
from pathlib import Path

import pytest
from sweep_folders import (
    COMMAND,
    accuracy,
    change,
    facts,
    finish,
    make_done,
    make_seven,
    make_sweep,
    name_of,
    of_earlier_version,
)

from runners.looking import status
from runners.looking.state import STATES
from support import check_line


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """A sweep of two ratios and two seeds, all done."""
    return make_done(tmp_path)


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    """A sweep with one job in every state."""
    return make_seven(tmp_path)


def test_status_of_every_state(seven: Path) -> None:
    counts, *jobs, origin, command = status.status(seven).splitlines()
    assert re.findall(r"(\d+) (\w+)", counts) == [("7", "jobs"), *(("1", state) for state in STATES)]
    notes = {
        ("done", "ratio=0.1"): ["93.25", "27.0 s"],
        ("running", "ratio=0.2"): ["finetune: epoch 3/40", "1:12:05", "2999-01-01T00:00:00Z"],
        ("failed", "ratio=0.3"): [5, "loss is nan"],
        ("stopped", "ratio=0.4"): ["same command"],
        ("lost", "ratio=0.5"): ["same command"],
        ("damaged", "ratio=0.6"): ["status.json", "same command"],
        ("missing", "ratio=0.75"): [],
    }
    for number, (line, (seen, tokens)) in enumerate(zip(jobs, notes.items(), strict=True)):
        place, state, criterion, ratio, *_ = line.split()
        assert (place, criterion, (state, ratio)) == (str(number), "criterion=l1", seen)
        check_line(line, *tokens)
    check_line(origin, seven, "2026-11-21T15:00:00Z")
    assert command == " ".join(["python", *COMMAND])


def test_status_of_a_finished_sweep_gives_no_command(done: Path) -> None:
    lines = status.run(None, str(done.parents[1])).text.splitlines()
    assert lines[0] == "4 jobs: 4 done" and lines[-1] == f"Sweep {done}, started 2026-11-21T15:00:00Z."


def test_status_is_read_afresh(seven: Path) -> None:
    log = seven.parents[1] / "l1-0.2" / "run.log"
    log.write_text("Loading\n")
    assert "  Loading; since 2999" in status.status(seven)
    log.write_text("x" * 100_000)
    assert max(map(len, status.status(seven).splitlines())) < 400
    log.unlink()
    assert "ratio=0.2   since 2999" in status.status(seven)
    shutil.rmtree(seven.parents[1] / "l1-0.1")
    assert status.status(seven).startswith("7 jobs: 1 running,")


def test_the_end_of_a_long_log_is_enough(seven: Path) -> None:
    log = seven.parents[1] / "l1-0.2" / "run.log"
    log.write_text("epochs: epoch 1/2, 0:00 left\n" + "x" * 100_000 + "\r\nfinetune: epoch 7/9, loss 1, 0:07 left\n")
    assert "  finetune: epoch 7/9, 0:07 " in status.status(seven)


def test_a_run_without_a_headline_shows_its_time(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{}])
    finish(tmp_path, {}, facts() | {"headline": ""})
    assert "0  done     only  27.0 s" in status.status(sweep).splitlines()


@pytest.mark.parametrize(("tuned", "shown"), [(93.25, "top-1 93.25 %"), (None, "top-1 none")])
def test_a_run_of_an_earlier_version_shows_the_accuracy_of_its_last_stage(
    tmp_path: Path, tuned: float | None, shown: str
) -> None:
    sweep = make_sweep(tmp_path, [{}])
    finish(tmp_path, {}, of_earlier_version(facts(), accuracy(tuned)), accuracy(tuned))
    assert f"0  done     only  {shown} (tuned), 27.0 s" in status.status(sweep).splitlines()


def test_nothing_is_shown_as_the_command_line_has_it(tmp_path: Path) -> None:
    assert "0  missing  preset=null " in status.status(make_sweep(tmp_path, [{"preset": None}]))


def test_the_command_is_quoted_for_a_shell(seven: Path) -> None:
    change(seven / "sweep.json", command=["run.py", "--multirun", "ratio={a:0.5,*:0}", "name=it's $HOME"])
    assert status.status(seven).splitlines()[-1] == """python run.py --multirun 'ratio={a:0.5,*:0}' 'name=it'"'"'s $HOME'"""


def test_five_hundred_jobs(tmp_path: Path) -> None:
    grid = [{"number": number} for number in range(500)]
    sweep = make_sweep(tmp_path, grid)
    first = finish(tmp_path, grid[0], facts())
    for values in grid[1:]:
        shutil.copytree(first, tmp_path / name_of(values))
    lines = status.status(sweep).splitlines()
    assert lines[0] == "500 jobs: 500 done" and len(lines) == 502
