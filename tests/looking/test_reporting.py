"""Status and report of a sweep, on synthetic run folders."""

import csv
import io
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runners.looking import report, status
from runners.looking.escapes import csv_cell, latex, markdown, plain
from runners.looking.pivot import PAGE_ROWS, Pivot
from runners.looking.state import DAMAGED, DONE, FAILED, LOST, MISSING, RUNNING, STOPPED, alive, state_of
from runners.looking.sweep import find_sweep, read_sweep, sweeps_below
from runners.process.errors import ConfigError, ResourceError, StoreError
from runners.storage import folder as run_folder
from runners.storage.files import write_json
from runners.storage.keys import file_digest

COMMAND = ["run.py", "--multirun", "criterion=l1,l2", "ratio=0.1,0.5", "seed=0,1"]
RHO = "layer,index,criterion_a,criterion_b,rho,n_filters,note\nconv1,1,l1,l2,0.75,16,\nconv2,2,l1,l2,0.25,16,\n"
GRID = [{"criterion": "l1", "ratio": ratio, "seed": seed} for ratio in (0.1, 0.5) for seed in (0, 1)]


def facts(
    seed: int = 0,
    tuned: float | None = 93.25,
    *,
    trained: str = "t",
    dataset: str = "d",
    precision: str = "fp32",
    threads: int = 1,
    commit: str = "c0ffee",
) -> dict[str, Any]:
    """The facts of a run of two stages."""
    row = {"top5_pct": None, "loss_nats": 0.5, "params": 1000, "macs": 4000, "latency_ms": 1.5, "model": "resnet20"}
    accuracy = [
        {"stage": name, "top1_pct": top1} | row | {"dataset": "digits"} for name, top1 in [("trained", 95.5), ("tuned", tuned)]
    ]
    return {
        "accuracy": accuracy,
        "seed": seed,
        "precision": precision,
        "code": {"commit": commit, "dirty": False, "diff_sha256": None},
        "versions": {"torch": "2.15.0"},
        "hardware": {"device": "AMD EPYC", "machine": "x86_64", "threads": threads, "cuda": None},
        "keys": {"dataset": dataset, "trained": f"{trained}{seed}", "tuned": f"u{seed}"},
        "reused": ["trained"],
        "seconds": {"tuned": 2.0, "total": 27.04},
    }


def name_of(values: Mapping[str, Any]) -> str:
    return "-".join(re.sub("[^A-Za-z0-9.]", "_", str(value)) for value in values.values()) or "only"


def make_sweep(outputs: Path, grid: Sequence[Mapping[str, Any]], name: str = "l1-ratio-seed-0123456789") -> Path:
    """A sweep of which no job has begun."""
    sweep = outputs / "sweeps" / name
    sweep.mkdir(parents=True)
    jobs = [
        {
            "number": number,
            "overrides": [f"{key}={value}" for key, value in values.items()],
            "name": name_of(values),
            "folder": f"../../{name_of(values)}",
            "values": values,
        }
        for number, values in enumerate(grid)
    ]
    code = {"commit": "c0ffee", "dirty": False, "diff_sha256": None, "sources": "5a"}
    manifest = {"version": 1, "command": COMMAND, "started": "2026-11-21T15:00:00Z", "code": code, "jobs": jobs}
    (sweep / "sweep.json").write_text(json.dumps(manifest))
    return sweep


def begin(outputs: Path, values: Mapping[str, Any]) -> Path:
    folder = outputs / name_of(values)
    folder.mkdir(exist_ok=True)
    run_folder.start(folder, {"ratio": 0.1})
    return folder


def finish(outputs: Path, values: Mapping[str, Any], found: dict[str, Any], rho: str = RHO) -> Path:
    folder = begin(outputs, values)
    (folder / "accuracy.csv").write_text("stage\n")
    (folder / "spearman.csv").write_text(rho)
    write_json(folder / "run.json", found)
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    """What `run_folder.finish` says of files as they are now."""
    files = {name: file_digest(folder / name) for name in ("accuracy.csv", "run.json", "spearman.csv")}
    write_json(folder / "status.json", {"state": "done", "ended": "2026-11-21T15:30:00Z", "sha256": files})


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def column(path: Path, *names: str) -> list[tuple[str, ...]]:
    return [tuple(row[name] for name in names) for row in rows(path)]


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """A sweep of two ratios and two seeds, all done."""
    sweep = make_sweep(tmp_path, GRID)
    for values, tuned in zip(GRID, (93.0, 94.0, 80.0, 83.0), strict=True):
        finish(tmp_path, values, facts(values["seed"], tuned))
    return sweep


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


# The manifest


def test_a_manifest_is_read(tmp_path: Path) -> None:
    sweep = read_sweep(make_sweep(tmp_path, GRID))
    assert sweep.command == tuple(COMMAND) and sweep.started == "2026-11-21T15:00:00Z" and sweep.code["commit"] == "c0ffee"
    assert [job.number for job in sweep.jobs] == [0, 1, 2, 3]
    assert sweep.jobs[1].values == {"criterion": "l1", "ratio": 0.1, "seed": 1}
    assert sweep.jobs[1].overrides == ("criterion=l1", "ratio=0.1", "seed=1")
    assert sweep.jobs[1].folder == tmp_path / "l1-0.1-1"


def test_one_spelling_for_one_value(tmp_path: Path) -> None:
    sweep = read_sweep(make_sweep(tmp_path, [{"ratio": 0.30000000000000004}]))
    assert sweep.jobs[0].values == {"ratio": 0.3}


def damage(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: manifest | {key: value}


def damage_job(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: manifest | {"jobs": [*manifest["jobs"][1:], manifest["jobs"][0] | {key: value}]}


@pytest.mark.parametrize(
    ("damaged", "named"),
    [
        (lambda _: "no JSON", "Expecting value"),
        (lambda _: "", "Expecting value"),
        (lambda _: [], "no JSON object"),
        (lambda _: '{"version": 1, "started": NaN}', "NaN"),
        (lambda _: "[" * 200_000, "nested too deeply"),
        (lambda _: b"\xff\xfe\x00", "decode"),
        (damage("version", 0), "'version'"),
        (damage("version", True), "'version'"),
        (damage("version", "1"), "'version'"),
        (damage("command", "run.py"), "'command'"),
        (damage("command", [1]), "'command'"),
        (damage("started", None), "'started'"),
        (damage("code", None), "'code'"),
        (damage("jobs", []), "'jobs'"),
        (damage("jobs", {}), "'jobs'"),
        (damage("jobs", ["a"]), "'jobs'"),
        (damage_job("number", "0"), "'number'"),
        (damage_job("number", True), "'number'"),
        (damage_job("number", -1), "'number'"),
        (damage_job("number", 1), "'jobs'"),
        (damage_job("overrides", None), "'overrides'"),
        (damage_job("name", ""), "'name'"),
        (damage_job("name", ".."), "'name'"),
        (damage_job("values", []), "'values'"),
        (damage_job("folder", None), "'folder'"),
        (damage_job("folder", "/etc/l1-0.1-0"), "'folder'"),
        (damage_job("folder", "../../../other"), "'folder'"),
    ],
)
def test_a_damaged_manifest_is_one_line(tmp_path: Path, damaged: Callable[[dict[str, Any]], Any], named: str) -> None:
    sweep = make_sweep(tmp_path, GRID)
    path = sweep / "sweep.json"
    found = damaged(json.loads(path.read_text()))
    path.write_bytes(found if isinstance(found, bytes) else (found if isinstance(found, str) else json.dumps(found)).encode())
    with pytest.raises(
        ConfigError, match=r"sweep\.json is damaged \(.*move it away and give the sweep's command again"
    ) as caught:
        read_sweep(sweep)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_a_newer_manifest_is_one_line(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, GRID)
    change(sweep / "sweep.json", version=2, jobs="of another kind")
    with pytest.raises(ConfigError, match="is of version 2; this Prunescope reads version 1; use the one that wrote it"):
        read_sweep(sweep)


def three_sweeps(outputs: Path) -> list[Path]:
    """The last made is the oldest."""
    found = [make_sweep(outputs, GRID, name) for name in ("b", "a", "c")]
    for age, sweep in enumerate(found):
        os.utime(sweep / "sweep.json", (1_000_000 - age, 1_000_000 - age))
    return found


def test_where_no_sweep_is_others_are_listed_newest_first(tmp_path: Path) -> None:
    found = three_sweeps(tmp_path)
    assert sweeps_below(tmp_path) == sweeps_below(tmp_path / "sweeps") == found
    listed = ", ".join(map(str, found))
    for folder in (tmp_path, tmp_path / "sweeps", tmp_path / "sweeps" / "wrong"):
        with pytest.raises(ConfigError, match=re.escape(f"newest first, there are {listed}; give one as sweep=DIR")):
            read_sweep(folder)


def test_where_nothing_is_a_sweep_can_be_started(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no sweep is in .*nowhere; .* start one with --multirun"):
        read_sweep(tmp_path / "nowhere")


def test_a_long_list_of_sweeps_is_cut(tmp_path: Path) -> None:
    for number in range(12):
        make_sweep(tmp_path, GRID, f"sweep{number}")
    with pytest.raises(ConfigError, match="and 2 more; give one"):
        read_sweep(tmp_path)


def test_the_sweep_that_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b, a, c = three_sweeps(tmp_path / "outputs")
    outputs = str(tmp_path / "outputs")
    assert find_sweep(None, outputs) == b
    assert find_sweep(str(a), outputs) == a
    assert find_sweep("c", outputs) == c
    assert find_sweep(outputs, "elsewhere") == b
    assert find_sweep(str(b.parent), "elsewhere") == b
    monkeypatch.chdir(tmp_path)
    assert find_sweep("outputs/sweeps/a", "elsewhere") == Path("outputs/sweeps/a")


@pytest.mark.parametrize("given", [None, "typo", "a/b", "x" * 300, "/", "\0"])
def test_no_such_sweep_is_one_line(tmp_path: Path, given: str | None) -> None:
    with pytest.raises(ConfigError, match="no sweep is in .*; start one with --multirun; give one as sweep=DIR"):
        find_sweep(given, str(tmp_path))
    found = three_sweeps(tmp_path)
    if given is not None:
        with pytest.raises(ConfigError, match=f"newest first, there are {re.escape(str(found[0]))}, "):
            find_sweep(given, str(tmp_path))


# The state of a job


def state(outputs: Path, values: Mapping[str, Any] = GRID[0]) -> Any:
    folder = outputs / "sweeps" / "l1-ratio-seed-0123456789"
    sweep = read_sweep(folder if folder.exists() else make_sweep(outputs, GRID))
    return state_of(next(job for job in sweep.jobs if job.values == values))


def test_done(tmp_path: Path) -> None:
    finish(tmp_path, GRID[0], facts())
    found = state(tmp_path)
    assert found.name == DONE and found.facts["seconds"]["total"] == 27.04


@pytest.mark.parametrize("name", ["accuracy.csv", "spearman.csv", "run.json"])
def test_done_without_its_files_is_damaged(tmp_path: Path, name: str) -> None:
    (finish(tmp_path, GRID[0], facts()) / name).unlink()
    assert (found := state(tmp_path)).name == DAMAGED and "the same command makes them again" in found.reason


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"accuracy": None}, "no rows of accuracy"),
        ({"accuracy": []}, "no rows of accuracy"),
        ({"accuracy": [{}]}, "without a stage"),
        ({"accuracy": ["tuned"]}, "without a stage"),
        ({"accuracy": [{"stage": "tuned"}, {"stage": "tuned"}]}, "two rows"),
        ({"accuracy": [{"stage": "tuned", "top1_pct": "93"}]}, "top1_pct of stage 'tuned' is no number"),
        ({"accuracy": [{"stage": "tuned", "macs": True}]}, "macs of stage 'tuned' is no number"),
        ({"accuracy": [{"stage": "tuned", "macs": 10**400}]}, "macs of stage 'tuned' is no number"),
        ({"code": None}, "no code"),
        ({"versions": []}, "no versions"),
        ({"hardware": None}, "no hardware"),
        ({"seed": "0"}, "no seed"),
        ({"keys": {"dataset": "d"}}, "no keys"),
        ({"seconds": {}}, "no total of seconds"),
    ],
)
def test_facts_that_cannot_stand_in_a_table_are_damaged(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    finish(tmp_path, GRID[0], facts() | changed)
    assert (found := state(tmp_path)).name == DAMAGED and reason in found.reason and "rerun=true" in found.reason


def test_infinity_in_disguise_is_no_number(tmp_path: Path) -> None:
    # Another process could write it; json reads 1e999 as inf without asking parse_constant.
    found = facts()
    found["accuracy"][0]["top1_pct"] = 123456.5
    folder = finish(tmp_path, GRID[0], found)
    text = (folder / "run.json").read_text().replace("123456.5", "1e999")
    (folder / "run.json").write_text(text)
    assert state(tmp_path).name == DAMAGED


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "new"}', '{"state": ["done"]}', "{}"])
def test_a_status_that_cannot_be_read_is_damaged(tmp_path: Path, text: str) -> None:
    (begin(tmp_path, GRID[0]) / "status.json").write_text(text)
    assert (found := state(tmp_path)).name == DAMAGED and "the same command makes it again" in found.reason


def test_running_and_lost(tmp_path: Path, gone: int) -> None:
    folder = begin(tmp_path, GRID[0])
    assert (found := state(tmp_path)).name == RUNNING and found.reason.startswith("since 20")
    change(folder / "status.json", pid=gone)
    assert (found := state(tmp_path)).name == LOST and "the same command goes on" in found.reason


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
    assert state(tmp_path) == state_of(read_sweep(tmp_path / "sweeps" / "l1-ratio-seed-0123456789").jobs[0])
    assert (found := state(tmp_path)).name == MISSING and found.reason == "has not begun"
    folder = tmp_path / name_of(GRID[0])
    folder.mkdir()
    assert state(tmp_path).reason == "has not begun"
    (folder / "run.log").write_text("error: data_root=x is not there\n\n")
    assert (found := state(tmp_path)).name == MISSING and found.reason.endswith("run.log ends: error: data_root=x is not there")
    run_folder.fail(folder, "loss is nan", 5, "")
    assert (found := state(tmp_path)).name == FAILED and (found.reason, found.exit_code) == ("loss is nan", 5)
    run_folder.fail(folder, "SIGTERM came", 75, "")
    assert (found := state(tmp_path)).name == STOPPED and found.exit_code == 75


# Status

SEVEN = [{"criterion": "l1", "ratio": ratio} for ratio in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75)]


@pytest.fixture
def seven(tmp_path: Path, gone: int) -> Path:
    """A sweep with one job in every state."""
    sweep = make_sweep(tmp_path, SEVEN)
    finish(tmp_path, SEVEN[0], facts())
    log = begin(tmp_path, SEVEN[1]) / "run.log"
    line = "2026-11-21 14:00:42,554 INFO runners.training.progress: {}: epoch {}/40, loss 2.5, 394 images/s, {} left\n"
    log.write_text(line.format("train", 40, "0:00") + line.format("finetune", 3, "1:12:05") + "a last line\n")
    # Later than this process began, whenever the test runs: else its number would have come round again.
    change(log.parent / "status.json", started="2999-01-01T00:00:00Z")
    run_folder.fail(begin(tmp_path, SEVEN[2]), "loss is nan", 5, "")
    run_folder.fail(begin(tmp_path, SEVEN[3]), "SIGTERM came", 75, "")
    change(begin(tmp_path, SEVEN[4]) / "status.json", pid=gone)
    (begin(tmp_path, SEVEN[5]) / "status.json").write_text("{}")
    return sweep


def test_status_of_every_state(seven: Path) -> None:
    assert status.status(seven).splitlines() == [
        "7 jobs: 1 done, 1 running, 1 failed, 1 stopped, 1 lost, 1 damaged, 1 missing",
        "0  done     criterion=l1 ratio=0.1   top-1 93.25 % (tuned), 27.0 s",
        "1  running  criterion=l1 ratio=0.2   finetune: epoch 3/40, 1:12:05 left; since 2999-01-01T00:00:00Z",
        "2  failed   criterion=l1 ratio=0.3   exit code 5: loss is nan",
        "3  stopped  criterion=l1 ratio=0.4   the same command goes on",
        "4  lost     criterion=l1 ratio=0.5   the same command goes on",
        "5  damaged  criterion=l1 ratio=0.6   status.json says None, which is no state; the same command makes it again",
        "6  missing  criterion=l1 ratio=0.75  has not begun",
        f"Sweep {seven}, started 2026-11-21T15:00:00Z; the same command goes on with what is not done:",
        "python run.py --multirun criterion=l1,l2 ratio=0.1,0.5 seed=0,1",
    ]


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
    assert "finetune: epoch 7/9, 0:07 left; since" in status.status(seven)


def test_a_job_without_accuracy_shows_that(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{}])
    finish(tmp_path, {}, facts(tuned=None))
    assert "0  done     only  top-1 none (tuned), 27.0 s" in status.status(sweep)


def test_nothing_is_shown_as_the_command_line_has_it(tmp_path: Path) -> None:
    assert "0  missing  preset=null  has not begun" in status.status(make_sweep(tmp_path, [{"preset": None}]))


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


# Report


def test_rows_and_summary_by_hand(done: Path) -> None:
    text = report.report(done)
    assert (done / "rows.csv").read_text().splitlines()[:3] == [
        "run,criterion,ratio,seed,stage,top1_pct,top5_pct,loss_nats,params,macs,latency_ms,model,dataset,numerics_mixed",
        "l1-0.1-0,l1,0.1,0,trained,95.5,,0.5,1000,4000,1.5,resnet20,digits,",
        "l1-0.1-0,l1,0.1,0,tuned,93.0,,0.5,1000,4000,1.5,resnet20,digits,",
    ]
    assert len(rows(done / "rows.csv")) == 8
    what = ("ratio", "stage", "n_jobs", "top1_pct_mean", "top1_pct_sd", "top1_pct_n", "params_mean", "macs_n")
    # Of 93 and 94 the mean is 93.5 and the deviation sqrt(1/2); of 80 and 83, 81.5 and sqrt(9/2).
    assert column(done / "summary.csv", *what) == [
        ("0.1", "trained", "2", "95.5", "0.0", "2", "1000.0", "2"),
        ("0.1", "tuned", "2", "93.5", "0.7071067811865476", "2", "1000.0", "2"),
        ("0.5", "trained", "2", "95.5", "0.0", "2", "1000.0", "2"),
        ("0.5", "tuned", "2", "81.5", "2.1213203435596424", "2", "1000.0", "2"),
    ]
    assert "top5_pct_mean" not in rows(done / "summary.csv")[0], "no run has one"
    assert "| l1        | 0.1   | 95.50 +- 0.00 (2) | 93.50 +- 0.71 (2) |" in text
    assert "| l1        | 0.5   | 95.50 +- 0.00 (2) | 81.50 +- 2.12 (2) |" in text
    assert "\n4 of 4 jobs.\n" in text
    assert r"l1 & 0.5 & 95.50 $\pm$ 0.00 (2) & 81.50 $\pm$ 2.12 (2) \\" in (done / "report.tex").read_text()
    assert (done / "missing.csv").read_text() == "run,criterion,ratio,state,exit_code,reason\n"
    assert text.startswith((done / "report.md").read_text())


def test_spearman_by_hand(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, GRID[:2])
    head, rest = RHO.split("\n", 1)
    finish(tmp_path, GRID[0], facts(0))  # mean of 0.75 and 0.25
    third = "conv3,3,l1,l2,,16,constant scores\nconv4,4,l1,l2,,2,fewer than 3 filters\nconv5,5,l1,l2,,16,constant scores\n"
    finish(tmp_path, GRID[1], facts(1), f"{head}\n{rest.replace('0.75', '1.0')}{third}")  # mean of 1 and 0.25
    report.report(sweep)
    assert (sweep / "spearman.csv").read_text().splitlines() == [
        "criterion,ratio,criterion_a,criterion_b,n_jobs,rho_mean,rho_sd,rho_n,n_layers,n_empty,note",
        # 0.5 and 0.625: mean 0.5625, deviation 0.125 / sqrt(2)
        f"l1,0.1,l1,l2,2,0.5625,{math.sqrt(0.125**2 / 2)!r},2,7,3,constant scores: 2; fewer than 3 filters: 1",
    ]


def test_names_that_read_like_nothing_are_names(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{}])
    finish(tmp_path, {}, facts(), RHO.replace("l1", "nan").replace("0.75", ""))
    report.report(sweep)
    what = ("criterion_a", "criterion_b", "rho_mean", "n_empty", "note")
    assert column(sweep / "spearman.csv", *what) == [("nan", "l2", "0.25", "1", "no reason given: 1")]


def test_one_seed_has_no_deviation_and_nan_is_left_out(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, GRID)
    finish(tmp_path, GRID[0], facts(0, 93.0))
    finish(tmp_path, GRID[1], facts(1, None))
    finish(tmp_path, GRID[2], facts(0, None))
    text = report.report(sweep)
    what = ("ratio", "top1_pct_mean", "top1_pct_sd", "top1_pct_n", "loss_nats_n", "n_jobs")
    tuned = [
        row
        for row, stage in zip(column(sweep / "summary.csv", *what), column(sweep / "summary.csv", "stage"), strict=True)
        if stage == ("tuned",)
    ]
    assert tuned == [("0.1", "93.0", "", "1", "2", "2"), ("0.5", "", "", "0", "1", "2")]
    assert "93.00 (1 of 2)" in text and "| (0 of 2)" in text and "nan" not in (sweep / "summary.csv").read_text()
    assert "95.50 (1 of 2)" in (sweep / "report.tex").read_text()


def test_what_is_missing_is_said_and_listed(seven: Path) -> None:
    text = report.report(seven)
    assert "1 of 7 jobs; missing: 1, 2, 3, 4, 5, 6 (1 running, 1 failed, 1 stopped, 1 lost, 1 damaged, 1 missing)." in text
    assert "- 2 criterion=l1 ratio=0.3: failed, exit code 5: loss is nan" in text
    assert column(seven / "missing.csv", "run", "ratio", "state", "exit_code")[1:3] == [
        ("l1-0.3", "0.3", "failed", "5"),
        ("l1-0.4", "0.4", "stopped", "75"),
    ]
    assert "(0 of 1)" in text, "groups of which nothing is done stay in the table"
    assert "% 1 of 7 jobs; not in it: 1 running" in (seven / "report.tex").read_text()


def test_nothing_done_makes_tables_all_the_same(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{"seed": seed} for seed in range(25)])
    text = report.report(sweep)
    assert "0 of 25 jobs; missing: 0, 1, 2," in text and "19 and 5 more (25 missing)" in text
    assert "- (the others are in missing.csv)" in text
    assert (sweep / "rows.csv").read_text() == "run,seed,stage\n"
    assert len(rows(sweep / "missing.csv")) == 25
    assert list(rows(sweep / "missing.csv")[0]) == ["run", "seed", "state", "exit_code", "reason"]


FILES = ("rows.csv", "summary.csv", "spearman.csv", "missing.csv", "report.md", "report.tex")


def test_a_second_report_is_the_same_bytes(done: Path) -> None:
    first = report.report(done)
    content = {name: (done / name).read_bytes() for name in FILES}
    assert report.run(str(done), "elsewhere").text == first
    assert {name: (done / name).read_bytes() for name in FILES} == content
    assert not [path for path in done.iterdir() if path.name.startswith(".")]


def test_the_order_of_the_command_changes_no_table(done: Path) -> None:
    report.report(done)
    content = {name: (done / name).read_bytes() for name in FILES[:4]}
    jobs = json.loads((done / "sweep.json").read_text())["jobs"][::-1]
    jobs = [job | {"values": dict(reversed(job["values"].items())), "number": number} for number, job in enumerate(jobs)]
    change(done / "sweep.json", jobs=jobs)
    report.report(done)
    assert {name: (done / name).read_bytes() for name in FILES[:4]} == content


def test_deleted_rows_are_missed_and_come_back(done: Path, tmp_path: Path) -> None:
    report.report(done)
    content = {name: (done / name).read_bytes() for name in FILES}
    for values in (GRID[0], GRID[3]):
        (tmp_path / name_of(values)).rename(tmp_path / "aside" if values is GRID[0] else tmp_path / "aside3")
    text = report.report(done)
    assert "2 of 4 jobs; missing: 0, 3 (2 missing)." in text and "94.00 (1 of 2)" in text and "80.00 (1 of 2)" in text
    (tmp_path / "aside").rename(tmp_path / name_of(GRID[0]))
    (tmp_path / "aside3").rename(tmp_path / name_of(GRID[3]))
    report.report(done)
    assert {name: (done / name).read_bytes() for name in FILES} == content


@pytest.mark.parametrize(
    "rho", ["", "layer,rho\n", RHO.replace("0.75", "much"), RHO.replace("0.75", "inf"), RHO + "a,b,c,d,e,f,g,h\n"]
)
def test_a_job_with_an_unreadable_table_is_missing(tmp_path: Path, rho: str) -> None:
    sweep = make_sweep(tmp_path, GRID[:2])
    finish(tmp_path, GRID[0], facts(0))
    finish(tmp_path, GRID[1], facts(1), rho)
    assert "1 of 2 jobs; missing: 1 (1 damaged)." in report.report(sweep)
    assert len(rows(sweep / "rows.csv")) == 2
    assert rows(sweep / "missing.csv")[0]["reason"].startswith("spearman.csv cannot be read (")


def test_values_sort_as_what_they_are(tmp_path: Path) -> None:
    grid = [{"ratio": ratio} for ratio in ("{a:0.5}", 10, 9, 0.5, None, [0, 1], True)]
    sweep = make_sweep(tmp_path, grid)
    finish(tmp_path, grid[5], facts())
    report.report(sweep)
    lines = (sweep / "report.md").read_text().splitlines()
    table = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert table == ["ratio", "", "0.5", "true", "9", "10", r"{a:0.5}", r"\[0,1\]"]
    assert column(sweep / "rows.csv", "ratio") == [("[0,1]",), ("[0,1]",)]


def test_an_empty_cell_does_not_hide_what_is_varied(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{"ratio": {"conv1": 0.5}}])
    found = facts()
    for row in found["accuracy"]:
        row["ratio"] = None
    finish(tmp_path, {"ratio": {"conv1": 0.5}}, found)
    report.report(sweep)
    assert column(sweep / "rows.csv", "ratio") == [('{"conv1":0.5}',)] * 2


def test_a_folder_that_takes_no_files(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ResourceError, match="could not be written"):
        report.report(done)


def refuse(path: Path, mode: str = "r", **_: Any) -> Any:
    if "w" in mode:
        raise OSError(30, "Read-only file system")
    return open(path, mode)


# Where rows come from


def origin(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"- {name}: "))[len(name) + 4 :]


def test_origins(done: Path) -> None:
    text = report.report(done)
    assert origin(text, "Seeds") == "0, 1"
    assert origin(text, "Code versions") == "1: commit c0ffee"
    assert origin(text, "Numerics classes") == r"1: AMD EPYC, x86_64, 1 threads, torch 2.15.0, fp32"
    assert origin(text, "Different keys of each stage") == "dataset 1, trained 2, tuned 2"
    assert "latency_ms" in text


def test_mixed_code_and_numerics_are_counted(done: Path, tmp_path: Path) -> None:
    finish(tmp_path, GRID[1], facts(1, threads=2, commit="decade"))
    text = report.report(done)
    assert origin(text, "Code versions") == "2: commit c0ffee (jobs 0, 2, 3); commit decade (job 1)"
    assert origin(text, "Numerics classes").startswith("2: AMD EPYC, x86_64, 1 threads, torch 2.15.0, fp32 (jobs 0, 2, 3); ")
    finish(tmp_path, GRID[2], facts(0, precision="bf16") | {"fused": True})
    assert "torch 2.15.0, bf16, fused (job 2)" in origin(report.report(done), "Numerics classes")


@pytest.mark.parametrize(
    ("other", "what"),
    [({"trained": "other"}, "began from another trained network"), ({"dataset": "other"}, "saw other data")],
)
def test_rows_of_another_baseline_are_refused(done: Path, tmp_path: Path, other: dict[str, str], what: str) -> None:
    before = {path.name for path in done.iterdir()}
    finish(tmp_path, {"criterion": "l1", "ratio": 0.5, "seed": 1}, facts(1, **other))  # pyright: ignore[reportArgumentType]
    # Two jobs share seed 1: the first by name is taken to be right.
    found = re.escape(f"job 3 (l1-0.5-1) {what} than the other jobs of model=resnet20 dataset=digits seed=1; ")
    with pytest.raises(StoreError, match=f"^{found}.*delete the folders"):
        report.report(done)
    assert {path.name for path in done.iterdir()} == before


def test_rows_of_a_baseline_that_was_made_again_and_differs_are_refused(tmp_path: Path) -> None:
    grid = [{"criterion": name} for name in ("gm", "l1", "l2")]
    sweep = make_sweep(tmp_path, grid)
    for values, content in zip(grid, ("first", "first", "again"), strict=True):
        finish(tmp_path, values, facts() | {"contents": {"trained": content}})
    with pytest.raises(StoreError, match=r"^job 2 \(l2\) began from a trained network that was made again, and differs"):
        report.report(sweep)


def test_rows_that_several_machines_had_a_part_in_are_flagged(done: Path, tmp_path: Path) -> None:
    finish(tmp_path, GRID[1], facts(1) | {"numerics_mixed": True})
    text = report.report(done)
    assert origin(text, "Runs that several kinds of machine or versions had a part in") == "job 1"
    flagged = [row["run"] for row in rows(done / "rows.csv") if row["numerics_mixed"] == "true"]
    assert flagged == [name_of(GRID[1])] * 2, "both stages"


def test_the_usual_baseline_is_that_of_most_jobs(tmp_path: Path) -> None:
    grid = [{"criterion": name} for name in ("gm", "l1", "l2")]
    sweep = make_sweep(tmp_path, grid)
    for values, trained in zip(grid, ("old", "new", "new"), strict=True):
        finish(tmp_path, values, facts(trained=trained))
    with pytest.raises(StoreError, match=r"^job 0 \(gm\) began"):
        report.report(sweep)


def test_hardware_may_choose_another_precision_but_not_other_data(done: Path, tmp_path: Path) -> None:
    finish(tmp_path, GRID[3], facts(1, trained="other", precision="bf16"))
    assert origin(report.report(done), "Numerics classes").startswith("2: ")
    finish(tmp_path, GRID[3], facts(1, trained="other", dataset="other", precision="bf16"))
    with pytest.raises(StoreError, match="saw other data"):
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
    with pytest.raises(StoreError, match="another trained network"):
        report.report(sweep)


# Hostile names

HOSTILE = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2",
    "@SUM(A1)",
    " =1",
    "\t=1",
    "\x1b[31mred\x07",
    "<script>alert(1)</script>",
    "a|b`c*d_e[f](g)",
    "_emphasis_ bn_gamma ~~no~~ \\",
    r"\input{/etc/passwd} $x^2$ 100% #1 & {~}",
    "[0,1]",
    "*",
    "two\nlines\r\u2028",
    "\u202eright to left",
    "\u4e2d",
    "\ud800",
]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    grid = [{"criterion": name, "number": number} for number, name in enumerate(HOSTILE)]
    sweep = make_sweep(tmp_path, grid)
    for values in grid[::2]:
        finish(tmp_path, values, facts())
    for values in grid[1::2]:
        run_folder.fail(begin(tmp_path, values), values["criterion"].encode(errors="replace").decode(), 1, "")
    return sweep


def test_no_output_holds_what_steers_a_terminal(hostile: Path) -> None:
    texts = [status.status(hostile), report.report(hostile), *((hostile / name).read_text() for name in FILES)]
    for text in texts:
        assert all(each == "\n" or each.isprintable() for each in text)
    assert len(texts[0].splitlines()) == len(HOSTILE) + 3


def test_no_csv_cell_is_a_formula(hostile: Path) -> None:
    report.report(hostile)
    for name in FILES[:4]:
        cells = [cell for line in csv.reader(io.StringIO((hostile / name).read_text())) for cell in line]
        assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "@", "-"))]
    assert "'=cmd|' /C calc'!A0" in [row["criterion"] for row in rows(hostile / "rows.csv")]


def test_a_negative_number_is_no_formula() -> None:
    assert (csv_cell(-2), csv_cell("-2"), csv_cell(None), csv_cell(0.1)) == ("-2", "'-2", "", "0.1")


def test_markdown_has_no_tags_and_no_other_cells(hostile: Path) -> None:
    text = report.report(hostile)
    assert "<script>" not in text and "&lt;script&gt;" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}
    assert markdown("bn_gamma _x_") == r"bn_gamma \_x\_"


def test_latex_has_no_commands_but_ours(hostile: Path) -> None:
    report.report(hostile)
    lines = (hostile / "report.tex").read_text().splitlines()
    ours = r"\\(?:textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}|\\[_%&#${}]|\$\\pm\$"
    body = [line for line in lines if line.endswith(r" \\")]
    assert len(body) == len(HOSTILE) + 1
    for line in body:
        left = re.sub(ours, "", line.removesuffix(r" \\"))
        assert left.count("&") == 3, "columns"
        assert not re.search(r"[\\_%#$^~<>|\"]", left)
        assert left.isascii() and left.replace("{[}", "").replace("{*}", "").replace("{''}", "").count("{") == 0
        assert not line.startswith(("[", "*")), "would be an argument of the row before"
    rest = [line for line in lines if line not in body]
    assert rest[0].startswith("% ") and rest[1].startswith("% ")
    assert rest[2:] == [r"\begin{tabular}{llrr}", r"\hline", r"\hline", r"\hline", r"\end{tabular}"]


def test_a_long_latex_table_begins_anew_on_every_page() -> None:
    rows = [([str(number)], ["1.00 +- 0.10 (3)"]) for number in range(2 * PAGE_ROWS + 1)]
    pages = Pivot(["ratio"], ["tuned"], rows).latex().split("\n\n")
    assert [page.count("pm") for page in pages] == [PAGE_ROWS, PAGE_ROWS, 1]
    for page in pages:
        lines = page.strip().splitlines()
        assert lines[:4] == [r"\begin{tabular}{lr}", r"\hline", r"ratio & tuned \\", r"\hline"]
        assert lines[-2:] == [r"\hline", r"\end{tabular}"]
    numbers = [line.split(" & ")[0] for page in pages for line in page.splitlines() if "pm" in line]
    assert numbers == [str(number) for number in range(2 * PAGE_ROWS + 1)]


def test_escapes_by_hand() -> None:
    assert plain("a\x1b[0m\n\u202e") == r"a\x1b[0m\n\u202e"
    assert latex("50 % of_a\\b {x} \u4e2d") == r"50 \% of\_a\textbackslash{}b \{x\} \textbackslash{}u4e2d"
