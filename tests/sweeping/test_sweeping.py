"""Sweeps: which jobs there are, where they run, and that one which fails, dies or is stopped takes no other with it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from runners.process import interruption
from runners.process.errors import ConfigError
from runners.process.interruption import Preempted
from runners.sweeping import pool
from runners.sweeping.child import check_code, follow_parent
from runners.sweeping.devices import Slot, slots, visible_gpus
from runners.sweeping.job import Job, value_of, varied
from runners.sweeping.manifest import begin, not_done, sweep_folder
from runners.sweeping.outcomes import JobsFailed, Outcome, raise_if_failed, why
from runners.sweeping.pool import Child, run_all
from support import ROOT, Command, check_line, check_refused, counts, names, raises_line

TINY = (
    *("dataset=fake", "dataset.num_images=64", "dataset.image_size=8", "model=resnet20", "precision=fp32"),
    *("recipe.epochs=1", "recipe.batch_size=16", "finetune.epochs=1", "finetune.batch_size=16"),
)


def job(number: int, folder: Path = Path()) -> Job:
    return Job(number, (f"seed={number}",), {"seed": number}, f"job{number}", folder / f"job{number}")


def python(program: str) -> Child:
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    return Child(process.pid, process.poll, process.wait)


class Sweep:
    """Runs programs in place of jobs, and notes how many ran at once and where."""

    def __init__(self, programs: dict[int, list[str]]) -> None:
        self.programs, self.slots, self.told = programs, [], []

    def start(self, job: Job, slot: Slot) -> Child:
        self.slots.append((job.number, slot.device))
        return python(self.programs[job.number].pop(0))

    def run(self, slots: list[Slot], retries: int = 2) -> list[Outcome]:
        jobs = [job(number) for number in self.programs]
        return run_all(jobs, slots, start=self.start, tell=self.told.append, retries=retries)


@pytest.fixture(autouse=True)
def unsignalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "_noted", [])


def test_every_job_runs_and_a_failed_one_stops_no_other() -> None:
    sweep = Sweep({0: [""], 1: ["raise SystemExit(5)"], 2: [""], 3: ["raise SystemExit(2)"]})
    outcomes = sweep.run([Slot("0", 1), Slot("1", 1)])
    assert sorted((outcome.job.number, outcome.code) for outcome in outcomes) == [(0, 0), (1, 5), (2, 0), (3, 2)]
    assert sweep.told == outcomes
    assert {device for _, device in sweep.slots} == {"0", "1"}


def test_no_more_jobs_at_once_than_slots_and_no_slot_twice(tmp_path: Path) -> None:
    busy = "import os, sys, time; p = sys.argv[0]; d = '{}'; os.mkdir(d); time.sleep(.2); os.rmdir(d)"
    running: list[int] = []

    def start(job: Job, slot: Slot) -> Child:
        assert not (tmp_path / str(slot.device)).exists(), "the slot is taken"
        running.append(len(list(tmp_path.iterdir())))
        process = python(busy.format(tmp_path / str(slot.device)))
        while not (tmp_path / str(slot.device)).exists() and process.poll() is None:
            time.sleep(0.005)
        return process

    outcomes = run_all(
        [job(number) for number in range(6)], [Slot("a", 1), Slot("b", 1)], start=start, tell=lambda _: None, retries=0
    )
    assert [outcome.code for outcome in outcomes] == [0] * 6 and max(running) == 1


def test_a_job_that_was_stopped_or_killed_is_started_again_and_others_are_not() -> None:
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    sweep = Sweep({0: ["raise SystemExit(75)", ""], 1: [killed, killed, ""], 2: ["raise SystemExit(5)"]})
    assert {outcome.job.number: outcome.code for outcome in sweep.run([Slot(None, 1)])} == {0: 0, 1: 0, 2: 5}
    hopeless = Sweep({0: [killed] * 3, 1: [""]})
    assert {o.job.number: o.code for o in hopeless.run([Slot(None, 1)])} == {0: -signal.SIGKILL, 1: 0}


def test_a_signal_stops_the_sweep_and_its_jobs_get_sigterm(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saves = (
        "import signal, time, pathlib, sys\n"
        f"def end(*_):\n    pathlib.Path({str(saved)!r}).touch(); sys.exit(75)\n"
        f"signal.signal(signal.SIGTERM, end); pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(60)"
    )
    before = [signal.getsignal(number) for number in interruption.SIGNALS]
    interruption.listen()

    def start(job: Job, slot: Slot) -> Child:
        process = python(saves)
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        return process

    try:
        with raises_line(Preempted, "SIGTERM", "1 jobs"):
            run_all([job(0), job(1)], [Slot(None, 1)], start=start, tell=lambda _: None, retries=2)
    finally:
        for number, handler in zip(interruption.SIGNALS, before, strict=True):
            signal.signal(number, handler)
    assert saved.exists()


def test_a_job_that_ignores_sigterm_is_killed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "GRACE_SECONDS", 0.3)
    deaf = python("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)")
    time.sleep(0.3)
    pool._stop([deaf])
    assert deaf.poll() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("outer", "asked", "per_device", "expected"),
    [
        ("2,3", "auto", 1, ["2", "3"]),
        ("2,3", "auto", 2, ["2", "2", "3", "3"]),
        ("2,3", [1], 1, ["3"]),
        ("GPU-8f2,MIG-1/2/3", [0, 1], 1, ["GPU-8f2", "MIG-1/2/3"]),
        ("", "auto", 3, [None, None, None]),
        ("-1", "auto", 1, [None]),
        ("NoDevFiles", "auto", 1, [None]),
        ("0,1", "cpu", 1, [None]),
    ],
)
def test_slots_obey_an_outer_list_of_gpus(
    outer: str, asked: str | list[int], per_device: int, expected: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", outer)
    assert [slot.device for slot in slots(asked, per_device=per_device)] == expected


def test_without_a_list_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 0\necho 1\n")
    fake.chmod(0o755)
    assert visible_gpus() == ["0", "1"]
    fake.write_text("#!/bin/sh\necho no driver\nexit 9\n")
    assert visible_gpus() == []


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    with raises_line(ConfigError, "devices=[0, 1]", "GPU 1", "(4)"):
        slots([0, 1], per_device=1)


def test_threads_are_divided_and_the_users_own_number_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(9)), raising=False)
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    assert {slot.threads for slot in slots("auto", per_device=2)} == {2}
    assert {slot.threads for slot in slots("auto", per_device=8)} == {1}
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4")  # a cluster that does not bind jobs to their CPUs
    assert {slot.threads for slot in slots("auto", per_device=1)} == {2}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    [slot, *_] = slots("auto", per_device=1)
    assert slot.environment == {"OMP_NUM_THREADS": "5", "CUDA_VISIBLE_DEVICES": "0"}


def test_what_varies_is_what_is_not_the_same_everywhere() -> None:
    jobs = [("model=a", "ratio=0.1", "+x.y=1"), ("model=a", "ratio=0.2", "+x.y=2")]
    assert varied(jobs) == ["ratio", "x.y"]
    assert varied(jobs[:1]) == []


def test_what_a_job_has_there_is_a_plain_value() -> None:
    config = OmegaConf.create({"ratio": 0.5, "runner": {"window": [0, 1], "rounds": 2}, "preset": None})
    overrides = ("ratio=0.50", "runner=iterative", "runner.window=[0,1]", "preset=vgg16")
    found = {option: value_of(config, overrides, option) for option in ("ratio", "runner", "runner.window", "preset")}
    assert found == {"ratio": 0.5, "runner": "iterative", "runner.window": [0, 1], "preset": "vgg16"}
    assert json.loads(json.dumps(found)) == found


def test_an_interpolation_is_worked_out_by_each_job(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    monkeypatch.setattr("runners.command.gate.check_config", lambda config: found.append(config["store"]))
    monkeypatch.setattr("runners.sweeping.local.begin_sweep", lambda *given: 1 / 0)
    command("--multirun", *TINY, "store=${outputs}/${ratio}-${names.criterion}", "ratio=0.3,0.4", "criterion=l1,l2")
    assert [Path(store).name for store in found] == ["0.3-l1", "0.3-l2", "0.4-l1", "0.4-l2"]


def test_a_fault_while_jobs_are_handed_out_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise TypeError("no such thing")

    monkeypatch.setattr("runners.sweeping.local.begin_sweep", broken)
    check_refused(command("--multirun", *TINY, "ratio=0.3,0.5"), 1, "TypeError", "no such thing")
    assert "Traceback" in command("--multirun", *TINY, "ratio=0.3,0.5", "debug=true").err


def test_the_same_jobs_find_the_same_folder_and_it_lists_them(tmp_path: Path) -> None:
    jobs = [job(0, tmp_path), job(1, tmp_path)]
    folder = sweep_folder(tmp_path, jobs, None)
    assert folder == sweep_folder(tmp_path, jobs, None) != sweep_folder(tmp_path, jobs[:1], None)
    assert folder.name.startswith("seed-") and sweep_folder(tmp_path, jobs, "fig5").name.startswith("fig5-")
    begin(folder, jobs, command=["run.py", "-m"], code={"sources": "abc"})
    found = json.loads((folder / "sweep.json").read_text())
    assert found["jobs"][1] | {"number": 1, "name": "job1", "values": {"seed": 1}, "overrides": ["seed=1"]} == found["jobs"][1]
    assert (folder / found["jobs"][1]["folder"]).resolve() == (tmp_path / "job1").resolve()


def test_failures_are_listed_and_give_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "job1").mkdir()
    (tmp_path / "job1" / "status.json").write_text(json.dumps({"state": "failed", "error": "loss is nan", "exit_code": 5}))
    failed, killed = Outcome(job(1, tmp_path), 5, 1.0), Outcome(job(2, tmp_path), -9, 1.0)
    stopped, done = Outcome(job(3, tmp_path), 75, 1.0), Outcome(job(4, tmp_path), 0, 1.0)
    check_line(why(failed), "exit 5", "loss is nan")
    check_line(why(killed), "signal 9", killed.job.folder)
    with raises_line(JobsFailed, "2 of 9", f"seed=1: {why(failed)}", f"seed=2: {why(killed)}") as caught:
        raise_if_failed([failed, killed, stopped, done], 9)
    assert isinstance(caught.value, JobsFailed) and caught.value.exit_code == 7
    with raises_line(Preempted, "1 of 9"):
        raise_if_failed([stopped, done], 9)
    raise_if_failed([done], 9)


def test_only_what_is_not_done_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runners.storage.folder.is_done", lambda folder: folder.name == "job0")
    jobs = [job(0, tmp_path), job(1, tmp_path)]
    assert not_done(jobs, rerun=False) == jobs[1:] and not_done(jobs, rerun=True) == jobs


def test_changed_code_is_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pool.SOURCES, raising=False)
    check_code(ROOT, allow_drift=False)
    monkeypatch.setenv(pool.SOURCES, "0" * 64)
    with raises_line(ConfigError, "allow_code_drift=true"):
        check_code(ROOT, allow_drift=False)
    check_code(ROOT, allow_drift=True)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="of Linux")
def test_a_job_stops_when_its_sweep_dies(tmp_path: Path) -> None:
    """A middle process starts the job and is killed; the job gets SIGTERM."""
    job = (
        "import signal, sys, time, pathlib, os\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from runners.sweeping.child import follow_parent\n"
        f"def end(*_):\n    pathlib.Path({str(tmp_path / 'told')!r}).touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        f"follow_parent(); pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(60)"
    )
    middle = python(
        "import os, subprocess, sys\n"
        f"os.environ['PRUNESCOPE_PARENT'] = str(os.getpid())\nsubprocess.run([sys.executable, '-c', {job!r}])"
    )
    until(lambda: (tmp_path / "ready").exists())
    os.kill(middle.pid, signal.SIGKILL)
    middle.wait()
    until(lambda: (tmp_path / "told").exists())


def test_a_job_whose_sweep_has_died_already_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pool.PARENT, raising=False)
    follow_parent()
    ended = python("")
    ended.wait()
    monkeypatch.setenv(pool.PARENT, str(ended.pid))
    with pytest.raises(Preempted):
        follow_parent()


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["ratio=0.3,2"], ["ratio=2"]),
        (["hydra.launcher.per_device=0"], ["hydra.launcher.per_device=0"]),
        (["hydra.launcher.devices=[0]"], ["devices=[0]", "GPU 0"]),
        (["hydra.launcher.devices=gpu"], ["devices=gpu"]),
        (["hydra/launcher=slots", "device=cuda:1"], ["device=cuda:1"]),
        (["runner=status"], ["runner=status", "hydra.mode=RUN"]),
    ],
)
def test_a_wrong_sweep_ends_before_its_first_job(
    overrides: list[str], told: list[str], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check_refused(command("--multirun", *TINY, "criterion=l1,l2", *overrides), 2, *told)
    assert not list((tmp_path / "outputs").glob("fake-*"))


@pytest.mark.slow
def test_a_sweep_in_slots_trains_once_fills_holes_and_gives_the_tables_of_single_runs(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As many threads as this process has; what jobs are forked from may have been started with others by an earlier test.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    two = ("hydra.launcher.per_device=2", "hydra.launcher.warm=false")
    sweep = ("--multirun", *TINY, "criterion=l1,l2", "ratio=0.3,0.5,0.50", *two)
    first = command(*sweep)
    assert first.code == 0, first.err
    assert names(first.out, "2 of 6") and counts(first.out) == (4, 0, 4)
    folders = sorted((tmp_path / "outputs").glob("fake-*"))
    logs = "".join((folder / "run.log").read_text() for folder in folders)
    assert len(folders) == 4 and logs.count("train: epoch 1/1") == 1 and logs.count("finetune: epoch 1/1") == 4
    again = command(*sweep)
    assert again.code == 0 and counts(again.out) == (4, 4, 0)
    (folders[0] / "status.json").unlink()
    tables = (folders[0] / "spearman.csv").read_bytes()
    mended = command(*sweep)
    assert mended.code == 0 and counts(mended.out) == (4, 3, 1)
    assert (folders[0] / "spearman.csv").read_bytes() == tables
    alone = command(*TINY, "criterion=l1", "ratio=0.3", outputs=str(tmp_path / "alone"))
    here, there = (pd.read_csv(folder / "accuracy.csv").drop(columns="latency_ms") for folder in (folders[0], alone.folder))
    pd.testing.assert_frame_equal(here, there)


@pytest.mark.slow
def test_one_failed_job_of_a_sweep_is_named_and_the_others_are_done(command: Command) -> None:
    ended = command("--multirun", *TINY, "finetune.batch_size=63,64")
    check_refused(ended, 7, "1 of 2", "finetune.batch_size=63: exit 2")
