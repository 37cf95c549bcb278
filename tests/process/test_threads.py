"""The number of CPU threads, from the counters of a made-up machine."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from runners.command import built
from runners.command.built import Built
from runners.process import threads
from runners.process.threads import Load, counted, left_over
from runners.storage import folder as run_folder

# name user nice system idle iowait irq softirq
STAT = "cpu  60 0 0 340 0 0 0\ncpu0 10 0 0 80 10 0 0\ncpu1 50 0 0 50 0 0 0\ncpu2 0 0 0 100 0 0 0\ncpu10 0 0 0 100 0 0 0\n"


@pytest.mark.parametrize(("cpus", "expected"), [({0, 1}, (2.0, 1.4)), ({1}, (1.0, 0.5)), ({0, 2, 10}, (3.0, 2.9))])
def test_only_the_allowed_cpus_count(cpus: set[int], expected: tuple[float, float]) -> None:
    assert counted(STAT, cpus, 100) == pytest.approx(expected)


# Two CPUs for ten seconds: seconds they were idle, seconds this process used, threads.
@pytest.mark.parametrize(
    ("idle", "own", "expected"),
    [(10, 10, 2), (0, 10, 1), (20, 0, 2), (0, 1, 1), (16, 1, 2), (1, 9, 1), (9, 9, 2)],
)
def test_idle_cpus_and_its_own_are_a_process_s(idle: float, own: float, expected: int) -> None:
    assert left_over(Load(100, 500, 200, 3), Load(110, 520, 200 + idle, 3 + own)) == expected


def test_counters_that_stand_still_tell_nothing() -> None:
    assert left_over(Load(100, 0, 0, 3), Load(110, 0, 0, 13)) is None


def test_this_machine_tells_a_number_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    threads.begin()
    found = threads.idle_cpus()
    assert found is None or 1 <= found <= len(os.sched_getaffinity(0))
    monkeypatch.setattr(Path, "read_text", lambda _: (_ for _ in ()).throw(FileNotFoundError()))
    threads.begin()
    assert threads.idle_cpus() is None


@pytest.mark.parametrize(
    ("environment", "asked", "begun", "idle", "expected"),
    [
        ({}, "auto", None, 3, 3),
        ({}, "auto", None, 9, 8),
        ({}, "auto", None, None, 8),
        ({}, "auto", 5, 3, 5),  # a run that goes on rounds as it began
        ({}, "auto", 9, 3, 8),
        ({}, 6, 5, 3, 6),
        ({"SLURM_CPUS_PER_TASK": "4"}, "auto", None, 3, 4),
        ({"SLURM_CPUS_PER_TASK": "4"}, 2, None, 3, 2),
        ({"OMP_NUM_THREADS": "8"}, "auto", 5, 3, 8),
        ({"OMP_NUM_THREADS": "8", "SLURM_CPUS_PER_TASK": "4"}, 6, None, 3, 8),
    ],
)
def test_environment_then_option_then_first_leg_then_idle_cpus(
    environment: dict[str, str], asked: Any, begun: int | None, idle: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [8]
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch, "get_num_threads", lambda: taken[-1])
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(threads, "idle_cpus", lambda: idle)
    built.take_threads(asked, begun)
    assert taken[-1] == expected


def test_a_run_folder_remembers_the_threads_of_an_unfinished_run(tmp_path: Path) -> None:
    assert run_folder.begun_threads(tmp_path, "run-a") is None
    run_folder.start(tmp_path, {"ratio": 0.5}, "run-a", "data", threads=3)
    assert run_folder.begun_threads(tmp_path, "run-a") == 3
    assert run_folder.begun_threads(tmp_path, "run-b") is None


@pytest.mark.parametrize("rerun", [False, True])
def test_a_run_takes_the_threads_of_its_first_leg_or_of_the_run_that_it_repeats(
    rerun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(built, "take_threads", lambda *given: taken.append(given))
    monkeypatch.setattr("runners.storage.keys.run_name", lambda values: "run-a")
    run_folder.start(tmp_path, {}, "run-a", threads=3)
    Built(OmegaConf.create(), {"threads": "auto", "rerun": rerun}, tmp_path)
    assert taken == [("auto", 3)]
