"""Sweeps on a real Slurm, disturbed in every way we know; each ends with the table of an undisturbed sweep."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest

from support import ROOT, counts, handed, names

pytestmark = pytest.mark.slurm

TINY = (
    *("dataset=fake", "dataset.num_images=64", "dataset.image_size=8", "model=resnet20", "precision=fp32", "criteria=norms"),
    *("recipe.epochs=1", "recipe.batch_size=16", "finetune.epochs=60", "finetune.batch_size=16"),
)
SLURM = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.gpus_per_node=1")


@pytest.fixture(autouse=True, scope="module")
def cluster() -> None:
    if not (shutil.which("sbatch") and os.environ.get("SLURM_CONF")):
        pytest.skip("no Slurm: sbatch is not on the PATH, or SLURM_CONF names no cluster that may be disturbed")


def ask(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def until(holds: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)


@dataclass
class Sweep:
    """A sweep's command in a folder of its own, given as often as the drill needs."""

    folder: Path
    overrides: tuple[str, ...] = (*TINY, "criterion=l1,l2")
    environment: dict[str, str] = field(default_factory=dict)
    given: int = 0

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    def start(self, *more: str) -> "subprocess.Popen[bytes]":
        self.given += 1
        command = [sys.executable, str(ROOT / "run.py"), "--multirun", f"outputs={self.outputs}", *self.overrides, *more]
        told = {**os.environ, "OMP_NUM_THREADS": "1", **self.environment}
        with (self.folder / f"out{self.given}").open("wb") as out:
            return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=told, cwd=self.folder)

    def run(self, *more: str) -> int:
        return self.start(*more).wait(timeout=400)

    @property
    def said(self) -> str:
        return (self.folder / f"out{self.given}").read_text()

    @property
    def array(self) -> str:
        until(lambda: "scancel" in self.said)
        found = re.search(r"scancel (\d+)", self.said)
        assert found, self.said
        return found.group(1)

    def trains(self) -> bool:
        """True if every job is past its first epochs of fine-tuning, and will be for some seconds."""
        logs = [path.read_text() for path in self.outputs.glob("fake-*/run.log")]
        return len(logs) == 2 and all("finetune: epoch 3/" in log for log in logs)

    def table(self) -> pd.DataFrame:
        """The rows of all accuracy tables, but for what a clock measured."""
        tables = [pd.read_csv(path).assign(run=path.parent.name) for path in sorted(self.outputs.glob("fake-*/accuracy.csv"))]
        return pd.concat(tables, ignore_index=True).drop(columns="latency_ms")

    def again(self, undisturbed: pd.DataFrame) -> None:
        """The same command once more completes the table."""
        assert self.run(*SLURM) == 0, self.said
        pd.testing.assert_frame_equal(self.table(), undisturbed)


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    found = Sweep(tmp_path)
    yield found
    for said in tmp_path.glob("out[0-9]"):
        for array in re.findall(r"scancel (\d+)", said.read_text()):
            subprocess.run(["scancel", array], check=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The same sweep on this machine, in slots."""
    found = Sweep(tmp_path_factory.mktemp("undisturbed"))
    assert found.run("hydra.launcher.devices=cpu", "hydra.launcher.per_device=2") == 0, found.said
    return found.table()


def show(job: str) -> dict[str, str]:
    """The facts that Slurm has of a job."""
    return dict(pair.split("=", 1) for pair in ask("scontrol", "show", "job", job).split() if "=" in pair)


def restarts(array: str) -> list[int]:
    return [int(show(f"{array}_{task}")["Restarts"]) for task in (0, 1)]


def environment_of(job: Path) -> dict[str, str]:
    """Of the process that does a run."""
    pid = re.search(r'"pid": (\d+)', (job / "status.json").read_text())
    assert pid
    pairs = Path(f"/proc/{pid.group(1)}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def test_a_sweep_goes_through_sbatch_and_a_second_command_computes_nothing(sweep: Sweep, undisturbed: pd.DataFrame) -> None:
    head = sweep.start(*SLURM)
    array = sweep.array
    until(sweep.trains)
    seen = [environment_of(path)["CUDA_VISIBLE_DEVICES"] for path in sweep.outputs.glob("fake-*")]
    assert all(re.fullmatch(r"\d", gpus) for gpus in seen), "one GPU each, as Slurm gives it"
    assert head.wait(timeout=200) == 0, sweep.said
    assert "[2/2]" in sweep.said and {show(f"{array}_{task}")["JobState"] for task in (0, 1)} == {"COMPLETED"}
    sweep.again(undisturbed)
    assert counts(sweep.said) == (2, 2, 0)


def test_detached_jobs_on_shards_go_on_and_are_not_handed_over_twice(sweep: Sweep, undisturbed: pd.DataFrame) -> None:
    shards = (*SLURM[:2], "hydra.launcher.gpus_per_node=null", "hydra.launcher.gres=shard:1")
    assert sweep.run(*shards, "detach=true") == 0, sweep.said
    assert "runner=status" in sweep.said and not list(sweep.outputs.glob("fake-*/accuracy.csv"))
    first = sweep.array
    until(sweep.trains)
    for path in sweep.outputs.glob("fake-*"):
        told = environment_of(path)
        assert re.fullmatch(r"\d", told["CUDA_VISIBLE_DEVICES"]) and told["SLURM_SHARDS_ON_NODE"] == "1"
    sweep.again(undisturbed)
    assert counts(sweep.said)[2] == 2 and handed(sweep.said) == 0 and sweep.array == first


def test_preempted_jobs_go_on_from_where_they_were(sweep: Sweep, undisturbed: pd.DataFrame) -> None:
    head = sweep.start(*SLURM)
    array = sweep.array
    until(sweep.trains)
    ask("sbatch", "--partition=high", "--nodes=2", "--ntasks-per-node=2", "--output=/dev/null", "--wrap=sleep 3")
    assert head.wait(timeout=200) == 0, sweep.said
    assert min(restarts(array)) >= 1
    for log in sweep.outputs.glob("fake-*/run.log"):
        assert log.read_text().count("finetune: epoch 3/") == 1, "no epoch was trained twice"
    sweep.again(undisturbed)


def test_sigterm_alone_is_taken_for_preemption(sweep: Sweep, undisturbed: pd.DataFrame) -> None:
    """On clusters without preempt_send_user_signal; submitit itself ignores SIGTERM."""
    head = sweep.start(*SLURM)
    array = sweep.array
    until(sweep.trains)
    ask("scancel", "--signal=TERM", array)
    assert head.wait(timeout=200) == 0, sweep.said
    assert min(restarts(array)) >= 1
    sweep.again(undisturbed)


def test_a_signal_while_python_starts_is_obeyed_too(sweep: Sweep, undisturbed: pd.DataFrame) -> None:
    head = sweep.start(*SLURM)
    array = sweep.array
    until(python_starts)
    ask("scancel", "--signal=USR2", array)
    assert head.wait(timeout=200) == 0, sweep.said
    assert max(restarts(array)) >= 1
    sweep.again(undisturbed)


def python_starts() -> bool:
    """True if the process of some task has become Python, which holds the signal back until the program is ready for it."""
    commands: list[list[bytes]] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            commands.append(path.read_bytes().split(b"\0"))
    return any(b"python" in command[0] and b"submitit.core._submit" in command for command in commands)


def test_jobs_of_a_node_that_dies_go_on_elsewhere(sweep: Sweep, undisturbed: pd.DataFrame) -> None:
    head = sweep.start(*SLURM)
    array = sweep.array
    until(sweep.trains)
    node = show(f"{array}_0")["NodeList"]
    ids = {show(f"{array}_{task}")["JobId"] for task in (0, 1) if show(f"{array}_{task}")["NodeList"] == node}
    kill_node(node, ids)
    try:
        assert head.wait(timeout=300) == 0, sweep.said
    finally:
        subprocess.run(["slurmd", "-f", os.environ["SLURM_CONF"], "-N", node], check=True)
    assert max(restarts(array)) >= 1
    until(lambda: "idle" in ask("sinfo", "--noheader", f"--nodes={node}", "--format=%t"))
    sweep.again(undisturbed)


def kill_node(node: str, jobs: set[str]) -> None:
    """Kills the daemon of a virtual node, and all that it runs."""
    [pid_file] = [
        line.split("=")[1].strip() for line in ask("scontrol", "show", "config").splitlines() if "SlurmdPidFile" in line
    ]
    os.kill(int(Path(pid_file.replace("%n", node)).read_text()), signal.SIGKILL)
    names = {path.parent.name: path.read_text().replace("\0", " ") for path in Path("/proc").glob("[0-9]*/cmdline")}
    doomed = [int(pid) for pid, name in names.items() if any(name.startswith(f"slurmstepd: [{job}.") for job in jobs)]
    assert doomed
    for pid in [*doomed, *descendants(doomed)]:
        os.kill(pid, signal.SIGKILL)


def descendants(pids: list[int]) -> list[int]:
    parents = {
        int(path.parent.name): int(path.read_text().rsplit(")", 1)[1].split()[1]) for path in Path("/proc").glob("[0-9]*/stat")
    }
    children = [child for child, parent in parents.items() if parent in pids]
    return [*children, *descendants(children)] if children else []


def test_a_cancelled_job_is_listed_and_made_up_for_without_sacct(sweep: Sweep, undisturbed: pd.DataFrame) -> None:
    """submitit's own waiting hangs for ever on a cancelled job where sacct gives no answer."""
    (sweep.folder / "sacct").write_text("#!/bin/sh\nexit 1\n")
    (sweep.folder / "sacct").chmod(0o755)
    sweep.environment["PATH"] = f"{sweep.folder}:{os.environ['PATH']}"
    head = sweep.start(*SLURM)
    array = sweep.array
    until(sweep.trains)
    ask("scancel", f"{array}_1")
    assert head.wait(timeout=200) == 7, sweep.said
    assert names(sweep.said, "1 of 2 jobs failed") and names(sweep.said, "criterion=l2")
    assert show(f"{array}_1")["JobState"] == "CANCELLED"
    sweep.again(undisturbed)
    assert handed(sweep.said) == 1


def test_a_time_limit_costs_nothing(sweep: Sweep) -> None:
    """The jobs need more than one limit on any machine. The signal comes up to half a minute early: Slurm looks every 30 s."""
    sweep.overrides = (*TINY, "finetune.epochs=600", "criterion=l1,l2")
    assert sweep.run(*SLURM, "hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=10") == 0, sweep.said
    assert min(restarts(sweep.array)) >= 1
    alone = Sweep(sweep.folder / "alone", sweep.overrides)
    alone.folder.mkdir()
    assert alone.run("hydra.launcher.devices=cpu", "hydra.launcher.per_device=2") == 0, alone.said
    sweep.again(alone.table())


def test_without_its_head_a_sweep_goes_on(sweep: Sweep, undisturbed: pd.DataFrame) -> None:
    head = sweep.start(*SLURM)
    array = sweep.array
    head.kill()
    assert head.wait() == -signal.SIGKILL
    sweep.again(undisturbed)
    assert handed(sweep.said) == 0 and restarts(array) == [0, 0]


def test_a_failed_job_has_failed_to_slurm_too(sweep: Sweep) -> None:
    sweep.overrides = (*TINY, "finetune.batch_size=63,64", "finetune.epochs=1")
    assert sweep.run(*SLURM) == 7
    assert names(sweep.said, "1 of 2 jobs failed") and names(sweep.said, "finetune.batch_size=63: exit 2")
    ends = [(show(f"{sweep.array}_{task}")["JobState"], show(f"{sweep.array}_{task}")["ExitCode"]) for task in (0, 1)]
    assert ends == [("FAILED", "2:0"), ("COMPLETED", "0:0")]


def test_slots_inside_an_allocation_use_what_it_has_and_go_on_after_its_end(sweep: Sweep, undisturbed: pd.DataFrame) -> None:
    script = ["sbatch", "--parsable", "--nodes=1", "--cpus-per-task=2", "--gres=gpu:2", "--time=10", f"--chdir={ROOT}"]
    arguments = [f"outputs={sweep.outputs}", *sweep.overrides, "hydra.launcher.per_device=1"]
    told = {**os.environ, "PYTHON": sys.executable}
    told.pop("OMP_NUM_THREADS", None)
    command = [*script, f"--output={sweep.folder / 'out'}", str(ROOT / "docs" / "slurm_slots.sh"), *arguments]
    number = subprocess.run(command, check=True, capture_output=True, text=True, env=told).stdout.strip()
    until(sweep.trains)
    seen = [environment_of(path) for path in sweep.outputs.glob("fake-*")]
    assert sorted(told["CUDA_VISIBLE_DEVICES"] for told in seen) == ["0", "1"]
    assert {told["OMP_NUM_THREADS"] for told in seen} == {"1"}, "two CPUs for two jobs"
    ask("scancel", "--batch", "--signal=USR1", number)
    until(lambda: show(number)["JobState"] == "COMPLETED", 200)
    assert show(number)["Restarts"] == "1"
    pd.testing.assert_frame_equal(sweep.table(), undisturbed)
