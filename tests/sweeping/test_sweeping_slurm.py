"""Sweeps on Slurm, without one: what is handed over, how the queue is read, what a job does when its node is wanted back."""

import inspect
import os
import pickle
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from omegaconf import OmegaConf

from runners.sweeping import queue, slurm, task
from runners.sweeping.job import Job
from runners.sweeping.outcomes import Outcome, why
from runners.sweeping.queue import Array, NoSlurm, max_array_size, note, noted, queued
from runners.sweeping.slurm import wait
from runners.sweeping.submission import held_python, sbatch_options, submit
from runners.sweeping.task import Task
from support import ROOT, Command, check_line, check_refused, counts, handed, names, raises_line

TINY = ("dataset=fake", "dataset.num_images=64", "dataset.image_size=8", "model=resnet20", "precision=fp32")


def job(number: int, folder: Path) -> Job:
    return Job(number, (f"seed={number}",), {"seed": number}, f"job{number}", folder / f"job{number}")


def options(**given: Any) -> dict[str, Any]:
    found = OmegaConf.load(ROOT / "conf" / "hydra" / "launcher" / "slurm.yaml")
    found.detach = False
    plain = OmegaConf.to_container(found)
    assert isinstance(plain, dict)
    del plain["_target_"]
    return {str(key): value for key, value in plain.items()} | given


class Cluster:
    """Stand-ins for Slurm's commands.

    sbatch numbers and keeps what it is given, squeue prints the file `queue`, scontrol notes what it is asked.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "queue").touch()
        self.program("sbatch", 'n=$(ls script* 2>/dev/null | wc -l); cp "$1" script$n; echo Submitted batch job $((17 + n))')
        self.program("squeue", 'echo "$@" >> asked; cat queue')
        self.program("scontrol", 'echo "$@" >> controlled; printf "MaxArraySize            = 2\\n"')
        self.program("srun", "exit 1")
        self.program("sacct", "exit 1")
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(f'#!/bin/sh\ncd "{self.folder}"\n{text}\n')
        (self.folder / name).chmod(0o755)

    @property
    def scripts(self) -> list[str]:
        return [path.read_text() for path in sorted(self.folder.glob("script*"))]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(tmp_path / "cluster", monkeypatch)


def tasks(tmp_path: Path, number: int) -> list[Task]:
    return [Task(ROOT, (), job(n, tmp_path), {"A": "1"}, tmp_path, 1.0) for n in range(number)]


def test_the_queue_is_read_by_number_and_by_name(cluster: Cluster) -> None:
    arrays = [Array("one-a", "17", 5, ("a", "b", "c")), Array("two-b", "", 5, ("d", "e")), Array("three-c", "19", 6, ("f",))]
    (cluster.folder / "queue").write_text(
        "17|1|None|one-a\n17|2|Priority|renamed\n18|0|(null)|two-b\n19|N/A|None|x\n20|0|None|y|z\n"
    )
    assert queued(arrays) == {"b": "None", "c": "Priority", "d": "(null)", "f": "None"}
    assert "--user=5,6" in (cluster.folder / "asked").read_text()
    assert queued([]) == {} and queued(arrays[1:2]) == {"d": "(null)"}


def test_as_few_arrays_as_slurm_allows_each_noted_and_submitted_to_be_requeued(cluster: Cluster, tmp_path: Path) -> None:
    before = [Array("old", "3", 1, ("z",))]
    arrays = submit(tasks(tmp_path, 3), before, tmp_path, options(partition="gpu", setup=["module load x"]))
    assert [(array.id, array.jobs) for array in arrays] == [("3", ("z",)), ("17", ("job0", "job1")), ("18", ("job2",))]
    assert noted(tmp_path) == arrays and {array.uid for array in arrays[1:]} == {os.getuid()}
    first, second = cluster.scripts
    flags = {line.removeprefix("#SBATCH --") for line in first.splitlines() if line.startswith("#SBATCH")}
    expected = {"array=0-1%2", "requeue", "signal=USR2@120", "time=60", "partition=gpu", "gpus-per-node=1", "cpus-per-task=4"}
    assert expected <= flags and f"job-name={arrays[1].name}" in flags
    lines = first.splitlines()
    start = lines.index(f"cd {ROOT}")
    assert lines[start + 1 : start + 3] == ["export SRUN_CPUS_PER_TASK=4", "module load x"] and "--array" not in second
    for name, number in (("17_0", 0), ("17_1", 1), ("18", 2)):
        handed = pickle.loads((tmp_path / "slurm" / f"{name}_submitted.pkl").read_bytes())
        assert handed.function == tasks(tmp_path, 3)[number] and handed._timeout_countdown == 100


@pytest.mark.parametrize("refuses", [False, True])
def test_jobs_inherit_nothing_of_the_allocation_that_hands_them_over(
    refuses: bool, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "3", "SLURM_CPUS_PER_TASK": "9", "SLURMD_NODENAME": "n1"}
    inside |= {"SRUN_CPUS_PER_TASK": "9", "SBATCH_CPU_BIND": "quiet"}
    stays = {"SLURM_CONF": str(tmp_path), "SBATCH_ACCOUNT": "mine", "SLURM_JWT": "token"}
    for name, value in (inside | stays).items():
        monkeypatch.setenv(name, value)
    ends = "exit 1" if refuses else "echo Submitted batch job 17"
    cluster.program("sbatch", f"env | grep -E '^(SLURM|SRUN|SBATCH)' | sort > given; {ends}")
    with raises_line(NoSlurm, "sbatch") if refuses else nullcontext():
        submit(tasks(tmp_path, 1), [], tmp_path, options())
    assert dict(line.split("=", 1) for line in (cluster.folder / "given").read_text().splitlines()) == stays
    assert (inside | stays).items() <= os.environ.items(), "what runs here is still in the allocation"


def test_a_refusal_is_one_line_and_what_was_taken_after_all_is_found_by_name(cluster: Cluster, tmp_path: Path) -> None:
    cluster.program("sbatch", "echo sbatch: error: invalid partition specified: gpuu >&2; exit 1")
    with raises_line(NoSlurm, "sbatch", "gpuu"):
        submit(tasks(tmp_path, 1), [], tmp_path, options())
    [array] = noted(tmp_path)
    assert array.id == "" and queued([array]) == {}
    (cluster.folder / "queue").write_text(f"17|N/A|None|{array.name}\n")
    assert queued([array]) == {"job0": "None"}


def test_a_note_that_is_torn_or_not_there_is_none(tmp_path: Path) -> None:
    assert noted(tmp_path) == []
    note(tmp_path, [Array("a", "1", 0, ("b",))])
    whole = (tmp_path / "slurm.json").read_text()
    (tmp_path / "slurm.json").write_text(whole[:30])
    assert noted(tmp_path) == []


def test_options_that_are_null_are_not_asked_for() -> None:
    given = sbatch_options(options(gpus_per_node=None, gres="shard:1", cpus_per_task=None, mem_gb=1.5), "name", Path("/a b"))
    assert given["gres"] == "shard:1" and given["mem"] == "1536M" and given["setup"] == ["cd '/a b'"]
    assert not {"gpus_per_node", "cpus_per_task", "partition", "account", "detach", "max_num_timeout", "mem_gb"} & given.keys()
    assert sbatch_options(options(additional_parameters={"requeue": False, "x": 1}), "n", ROOT)["additional_parameters"] == {
        "requeue": False,
        "x": 1,
    }


class Queue:
    """One answer after another; the last one stays."""

    def __init__(self, *answers: Mapping[str, str] | str) -> None:
        self.answers = list(answers)

    def __call__(self) -> Mapping[str, str]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, str):
            raise NoSlurm(answer)
        return answer


def write_status(job: Job, text: str) -> None:
    job.folder.mkdir(exist_ok=True)
    (job.folder / "status.json").write_text(text)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(slurm, "GRACE_SECONDS", 0.15)
    monkeypatch.setattr("runners.storage.folder.is_done", lambda folder: (folder / "done").exists())


def test_waiting_ends_when_slurm_has_no_job_left_and_the_folders_say_how(
    tmp_path: Path, patient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [job(number, tmp_path) for number in range(5)]
    write_status(jobs[0], '{"state": "running"}')
    (jobs[0].folder / "done").touch()  # of an earlier run, which rerun=true repeats: not yet over while in the queue
    write_status(jobs[1], '{"state": "running"}')
    write_status(jobs[2], '{"state": "failed", "exit_code": 5, "error": "of an earlier sweep"}')
    write_status(jobs[4], '{"state": "stopped", "exit_code": 75, "error": "SIGTERM came"}')
    everything = dict.fromkeys([one.name for one in jobs], "None")
    told: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        told.append(outcome)

    class Scenes(Queue):
        def __call__(self) -> Mapping[str, str]:
            if len(self.answers) == 3:
                write_status(jobs[1], '{"state": "failed", "exit_code": 2, "error": "new"}')
            if len(self.answers) == 2:
                assert [outcome.job.number for outcome in told] == [0, 1]
                (jobs[3].folder).mkdir()
                (jobs[3].folder / "done").touch()
            return super().__call__()

    back = {"job2": "BeginTime", "job3": "BeginTime"}
    scenes = Scenes(everything, everything, "slurmctld is being restarted", {**back, "job4": "None"}, back, {})
    outcomes = wait(jobs, still_there=scenes, tell=tell)
    assert {outcome.job.number: outcome.code for outcome in outcomes} == {0: 0, 1: 2, 2: None, 3: 0, 4: None}
    assert outcomes == told and capsys.readouterr().out == ""
    check_line(why(Outcome(jobs[4], None, 1.0)), "Slurm", "SIGTERM came")


@pytest.mark.parametrize(("rerun", "repeated", "code"), [(False, False, 0), (True, False, None), (True, True, 0)])
def test_a_result_of_before_is_no_end_of_a_job_that_repeats_it(
    rerun: bool, repeated: bool, code: int | None, tmp_path: Path, patient: None
) -> None:
    one = job(0, tmp_path)
    write_status(one, '{"state": "done", "ended": "then"}')
    (one.folder / "done").touch()

    def there() -> Mapping[str, str]:
        if repeated:
            write_status(one, '{"state": "done", "ended": "now"}')
        return {}

    [outcome] = wait([one], still_there=there, tell=lambda _: None, rerun=rerun)
    assert outcome.code == code


def test_a_job_that_leaves_the_queue_for_a_moment_is_not_lost(tmp_path: Path, patient: None) -> None:
    """A requeued job may be unknown between two states."""
    one = job(0, tmp_path)
    looks: list[int] = []

    def there() -> Mapping[str, str]:
        looks.append(1)
        if len(looks) > 9:
            one.folder.mkdir(exist_ok=True)
            (one.folder / "done").touch()
            return {}
        return {} if len(looks) % 2 else {"job0": "None"}

    [outcome] = wait([one], still_there=there, tell=lambda _: None)
    assert outcome.code == 0


def test_what_may_keep_jobs_for_ever_is_told_once(tmp_path: Path, patient: None, capsys: pytest.CaptureFixture[str]) -> None:
    limit = {"job0": "PartitionTimeLimit", "job1": "PartitionTimeLimit", "job2": "Priority"}
    wait([job(number, tmp_path) for number in range(3)], still_there=Queue(limit, limit, {}), tell=lambda _: None)
    out = capsys.readouterr().out
    check_line(out.splitlines()[0], "2 jobs", "PartitionTimeLimit")
    assert out.count("PartitionTimeLimit") == 1


def test_a_slurm_that_stays_away_ends_the_waiting(tmp_path: Path, patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "UNREACHABLE_SECONDS", 0.1)
    with pytest.raises(NoSlurm, match="away"):
        wait([job(0, tmp_path)], still_there=Queue("away"), tell=lambda _: None)


def running(tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> Task:
    """A task whose job is a program."""
    start = lambda *_: subprocess.Popen([sys.executable, "-c", program], start_new_session=True)  # noqa: E731
    monkeypatch.setattr(task, "popen", lambda *_: start)
    monkeypatch.chdir(tmp_path)
    return Task(ROOT, (), job(0, tmp_path), {}, tmp_path, patience=20)


@pytest.mark.parametrize(("program", "code"), [("raise SystemExit(5)", 5), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_a_task_ends_as_its_job_did(program: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        running(tmp_path, program, monkeypatch)()
    assert ended.value.code == code
    assert running(tmp_path, "", monkeypatch)() is None


@pytest.mark.parametrize("array", [None, "17"])
@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("CANCELLED", False)])
def test_a_stopped_job_goes_back_to_the_queue_unless_it_was_cancelled(
    state: str, requeued: bool, array: str | None, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(queue, "ANSWER_SECONDS", 0.5)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    if array:  # its last task has the array's own number, which means all of them
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", array)
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    (cluster.folder / "queue").write_text(f"{state}\n")
    with pytest.raises(SystemExit) as ended:
        running(tmp_path, "raise SystemExit(75)", monkeypatch)()
    assert ended.value.code == 75
    job, asked = "17_3" if array else "17", cluster.folder / "controlled"
    assert f"--jobs={job} " in (cluster.folder / "asked").read_text()
    assert (asked.read_text() if asked.exists() else "") == (f"requeue {job}\n" if requeued else "")


def test_when_the_node_is_wanted_back_the_job_saves_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = (
        "import signal, time, pathlib, sys\n"
        "def end(*_):\n    time.sleep(.3); pathlib.Path('saved').touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, end); pathlib.Path('ready').touch(); time.sleep(60)"
    )
    one = running(tmp_path, saves, monkeypatch)
    handed: list[Any] = []

    def handler(number: int, frame: FrameType | None) -> None:
        if not Path("ready").exists():
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        handed.append(one.checkpoint())
        assert Path("saved").exists()
        sys.exit(255)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    try:
        with pytest.raises(SystemExit) as ended:
            one()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ended.value.code == 255 and one.process is not None
    again = pickle.loads(pickle.dumps(handed[0].function))
    assert again.process is None and (again.job, again.patience) == (one.job, one.patience)
    one.process.wait()


def test_a_signal_while_python_starts_is_held_until_somebody_listens() -> None:
    """As Slurm's step would: the words of the shell, and a signal at once."""
    program = (
        "import signal, sys, time; time.sleep(.5); told = []; signal.signal(signal.SIGUSR2, lambda *_: told.append(1));"
        f"sys.path.insert(0, {str(ROOT)!r}); from runners.sweeping.held import let_through; let_through(); sys.exit(len(told))"
    )
    words = shlex.split(held_python(ROOT))
    for delay, expected in ((0.3, 1), (None, 0)):
        process = subprocess.Popen([*words, "-c", program])
        if delay is not None:
            time.sleep(delay)
            process.send_signal(signal.SIGUSR2)
        assert process.wait() == expected


def test_the_same_command_hands_nothing_over_twice(cluster: Cluster, command: Command, tmp_path: Path) -> None:
    sweep = ("--multirun", *TINY, "seed=1,2", "hydra/launcher=slurm", "hydra.launcher.mem_gb=8", "detach=true")
    first = command(*sweep)
    assert first.code == 0, first.err
    assert counts(first.out) == (2, 0, 0) and handed(first.out) == 2 and names(first.out, "scancel 17")
    assert "runner=status" in first.out and len(cluster.scripts) == 1
    (cluster.folder / "queue").write_text("17|0|None|x\n17|1|Priority|x\n")
    again = command(*sweep).out
    assert counts(again) == (2, 0, 2) and handed(again) == 0 and names(again, "scancel 17") and len(cluster.scripts) == 1
    (cluster.folder / "queue").write_text("17|1|Priority|x\n")
    again = command(*sweep).out
    assert counts(again) == (2, 0, 1) and handed(again) == 1 and names(again, "scancel 17 18") and len(cluster.scripts) == 2


@pytest.mark.parametrize(
    ("overrides", "code", "told"),
    [
        (["hydra.launcher.gres=shard:1"], 2, ["hydra.launcher.gres=shard:1", "hydra.launcher.gpus_per_node=1"]),
        (["hydra.launcher.timeout_min=2"], 2, ["signal_delay_s=120"]),
        (["hydra.launcher.timeout_min=0"], 2, ["timeout_min=0"]),
        (["hydra.launcher.partition="], 2, ["partition="]),
        (["hydra.launcher.cpus_per_task=0"], 2, ["cpus_per_task=0"]),
        (["hydra.launcher.setup=x"], 2, ["setup=x"]),
        (["device=cuda:1"], 2, ["device=cuda:1"]),
        (["detach=1"], 2, ["detach=1", "true or false"]),
        (["hydra/launcher=slots", "detach=true"], 2, ["detach=true", "Slurm"]),
        ([], 6, ["squeue", "PATH", "hydra/launcher=slurm"]),
    ],
)
def test_wrong_options_and_no_slurm_are_one_line(
    overrides: list[str], code: int, told: list[str], cluster: Cluster, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cluster.folder / "squeue").unlink()
    monkeypatch.setenv("PATH", str(cluster.folder))
    check_refused(command("--multirun", *TINY, "seed=1,2", "hydra/launcher=slurm", *overrides), code, *told)
    assert not cluster.scripts


def test_a_slurm_that_does_not_answer_is_one_line(cluster: Cluster, command: Command, tmp_path: Path) -> None:
    cluster.program("scontrol", "echo slurm_load_ctl_conf error: Unable to contact slurm controller >&2; exit 1")
    ended = command("--multirun", *TINY, "seed=1,2", "hydra/launcher=slurm")
    check_refused(ended, 6, "scontrol", "slurm_load_ctl_conf")
    with raises_line(NoSlurm, "MaxArraySize"):
        cluster.program("scontrol", "echo Other = 1")
        max_array_size()


def test_without_the_extra_hydra_finds_no_such_launcher_and_the_gate_says_what_to_install(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("runners.command.launcher_checks.find_spec", lambda name: None)
    found = runpy.run_path(str(ROOT / "hydra_plugins" / "prunescope" / "slurm.py"))
    assert inspect.isabstract(found["SlurmLauncher"])
    check_refused(command("--multirun", *TINY, "seed=1,2", "hydra/launcher=slurm"), 2, "pip install -e '.[slurm]'")
