"""The state of one job, of every kind of run folder."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sweep_folders import (
    GRID,
    NAME,
    accuracy,
    begin,
    change,
    facts,
    finish,
    finish_with,
    make_sweep,
    name_of,
    of_earlier_version,
    seal,
)

from runners.looking.state import (
    DAMAGED,
    DONE,
    FAILED,
    LOST,
    MISSING,
    RUNNING,
    STOPPED,
    Declared,
    alive,
    declared,
    state_of,
)
from runners.looking.sweep import read_sweep
from runners.storage import folder as run_folder
from support import names


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def state(outputs: Path, values: Mapping[str, Any] = GRID[0]) -> Any:
    folder = outputs / "sweeps" / NAME
    sweep = read_sweep(folder if folder.exists() else make_sweep(outputs, GRID))
    return state_of(next(job for job in sweep.jobs if job.values == values))


def test_done(tmp_path: Path) -> None:
    finish(tmp_path, GRID[0], facts())
    found = state(tmp_path)
    assert found.name == DONE and found.facts["seconds"]["total"] == 27.04


@pytest.mark.parametrize("name", ["accuracy.csv", "spearman.csv", "run.json"])
def test_done_without_its_files_is_damaged(tmp_path: Path, name: str) -> None:
    (finish(tmp_path, GRID[0], facts()) / name).unlink()
    assert (found := state(tmp_path)).name == DAMAGED and names(found.reason, "same command")


def test_a_run_without_data_and_of_one_table_is_done(tmp_path: Path) -> None:
    found = facts() | {"keys": {}, "headline": "", "tables": {"law": {"by": [], "values": ["slope"]}}}
    finish_with(tmp_path, GRID[0], found, {"law": "slope\n0.5\n"})
    assert state(tmp_path).name == DONE and declared(state(tmp_path).facts) == {"law": Declared((), ("slope",))}
    (tmp_path / name_of(GRID[0]) / "law.csv").unlink()
    seal(tmp_path / name_of(GRID[0]))
    assert (found := state(tmp_path)).name == DAMAGED and names(found.reason, "law.csv")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"headline": None}, "headline"),
        ({"tables": None}, "tables"),
        ({"tables": {"accuracy": None}}, "tables"),
        ({"tables": {"accuracy": {"by": "stage", "values": []}}}, "tables"),
        ({"tables": {"accuracy": {"by": []}}}, "tables"),
        ({"tables": {"../accuracy": {"by": [], "values": []}}}, "tables"),
        ({"code": None}, "code"),
        ({"versions": []}, "versions"),
        ({"hardware": None}, "hardware"),
        ({"seed": "0"}, "seed"),
        ({"keys": None}, "keys"),
        ({"seconds": {}}, "seconds"),
        ({"seconds": {"total": 10**400}}, "seconds"),
    ],
)
def test_facts_that_cannot_stand_in_a_report_are_damaged(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    finish(tmp_path, GRID[0], facts() | changed)
    assert (found := state(tmp_path)).name == DAMAGED and names(found.reason, reason) and names(found.reason, "rerun=true")


@pytest.mark.parametrize(
    "rows", [None, [], [{}], ["tuned"], [{"stage": "tuned", "top1_pct": "93"}], [{"stage": "tuned", "top1_pct": 10**400}]]
)
def test_facts_of_an_earlier_version_need_a_last_stage(tmp_path: Path, rows: Any) -> None:
    finish(tmp_path, GRID[0], of_earlier_version(facts(), accuracy()))
    assert state(tmp_path).name == DONE
    finish(tmp_path, GRID[0], of_earlier_version(facts(), []) | {"accuracy": rows})
    assert (found := state(tmp_path)).name == DAMAGED and "rerun=true" in found.reason


def test_infinity_in_disguise_is_no_number(tmp_path: Path) -> None:
    # Another process could write it; json reads 1e999 as inf without asking parse_constant.
    folder = finish(tmp_path, GRID[0], facts() | {"seconds": {"total": 123456.5}})
    (folder / "run.json").write_text((folder / "run.json").read_text().replace("123456.5", "1e999"))
    seal(folder)
    assert state(tmp_path).name == DAMAGED


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "new"}', '{"state": ["done"]}', "{}"])
def test_a_status_that_cannot_be_read_is_damaged(tmp_path: Path, text: str) -> None:
    (begin(tmp_path, GRID[0]) / "status.json").write_text(text)
    assert (found := state(tmp_path)).name == DAMAGED and names(found.reason, "status.json")


def test_running_and_lost(tmp_path: Path, gone: int) -> None:
    folder = begin(tmp_path, GRID[0])
    assert (found := state(tmp_path)).name == RUNNING and found.reason.startswith("since 20")
    change(folder / "status.json", pid=gone)
    assert (found := state(tmp_path)).name == LOST and names(found.reason, "same command")


def test_a_process_of_another_machine_is_believed(tmp_path: Path, gone: int) -> None:
    folder = begin(tmp_path, GRID[0])
    change(folder / "status.json", pid=gone, host="node7")
    assert (found := state(tmp_path)).name == RUNNING and found.reason.endswith(" on node7")
    change(folder / "status.json", pid=gone, host=socket.gethostname())
    assert state(tmp_path).name == LOST


@pytest.mark.parametrize("pid", [None, "1", True, 0, -1, 1.5, 2**80])
def test_what_is_no_process_number_is_not_alive(pid: object) -> None:
    assert not alive(pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the start of a process is read from /proc")
def test_a_number_that_came_round_again_and_a_zombie_are_not_alive() -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    assert alive(os.getpid(), now) and alive(os.getpid(), "") and alive(os.getpid(), "unreadable")
    assert not alive(os.getpid(), "2001-01-01T00:00:00Z")
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
    os.kill(child.pid, 0)
    assert not alive(child.pid, now)
    child.wait()


def test_failed_stopped_and_missing(tmp_path: Path) -> None:
    assert state(tmp_path) == state_of(read_sweep(tmp_path / "sweeps" / NAME).jobs[0])
    begun = state(tmp_path)
    assert begun.name == MISSING
    folder = tmp_path / name_of(GRID[0])
    folder.mkdir()
    assert state(tmp_path) == begun
    (folder / "run.log").write_text("first\nerror: data_root=x\n\n")
    assert (found := state(tmp_path)).name == MISSING and found.reason.endswith(": error: data_root=x")
    run_folder.fail(folder, "loss is nan", 5, "")
    assert (found := state(tmp_path)).name == FAILED and (found.reason, found.exit_code) == ("loss is nan", 5)
    run_folder.fail(folder, "SIGTERM came", 75, "")
    assert (found := state(tmp_path)).name == STOPPED and found.exit_code == 75
