"""Questions to Slurm: the jobs that it still has, the size of an array; never sacct, which many clusters lack."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from runners.process.errors import ResourceError
from runners.storage.files import write_json

NOTE, VERSION = "slurm.json", 1
ANSWER_SECONDS = 60
# What jobs wait for that comes by itself; anything else may need a person.
PASSING = ("None", "(null)", "", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Prolog", "Cleaning", "NodeDown")


class NoSlurm(ResourceError):
    """Slurm is not there, or does not answer, or refuses."""


@dataclass(frozen=True)
class Array:
    """Jobs that were handed to Slurm at once.

    Args:
        name: in the queue, used once.
        id: that Slurm gave it; empty until it has.
        uid: the user that handed it over.
        jobs: names of the runs, by task number.
    """

    name: str
    id: str
    uid: int
    jobs: tuple[str, ...]


def noted(sweep: Path) -> list[Array]:
    """The arrays that this sweep has handed to Slurm, or was about to."""
    try:
        found = json.loads((sweep / NOTE).read_text())["arrays"]
        return [Array(one["name"], one["id"], one["uid"], tuple(one["jobs"])) for one in found]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def note(sweep: Path, arrays: Sequence[Array]) -> None:
    """Writes them down, for the next one who gives the command."""
    write_json(sweep / NOTE, {"version": VERSION, "arrays": [asdict(array) for array in arrays]})


def queued(arrays: Sequence[Array]) -> dict[str, str]:
    """The runs that wait or run, with what Slurm says they wait for.

    Raises:
        NoSlurm: squeue does not answer.
    """
    if not arrays:
        return {}
    users = ",".join(sorted({str(array.uid) for array in arrays}))
    lines = _ask("squeue", "--noheader", "--array", f"--user={users}", "--format=%F|%K|%r|%j").splitlines()
    there = [line.strip().split("|", 3) for line in lines if line.count("|") >= 3]
    return {
        array.jobs[int(task) if task.isdigit() else 0]: reason
        for array in arrays
        for number, task, reason, name in there
        if name == array.name or number == array.id
    }


def max_array_size() -> int:
    """Largest number of tasks of an array.

    Raises:
        NoSlurm: scontrol does not answer.
    """
    for line in _ask("scontrol", "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return max(1, int(value))
    raise NoSlurm("scontrol show config names no MaxArraySize, which Slurm's does; see that scontrol is Slurm's own")


def require_slurm() -> None:
    """Looks for the commands.

    Raises:
        NoSlurm: one is missing.
    """
    for program in ("sbatch", "srun", "squeue", "scontrol"):
        if not shutil.which(program):
            raise NoSlurm(
                f"{program} is not on the PATH; hydra/launcher=slurm needs the commands of Slurm; start from a login node of "
                "the cluster, or use hydra/launcher=slots"
            )


def requeue(job: str) -> None:
    """Puts a job that runs back into the queue.

    Raises:
        NoSlurm: scontrol does not answer or refuses.
    """
    _ask("scontrol", "requeue", job)


def state(job: str) -> str:
    """State of a job in Slurm's words: RUNNING, CANCELLED, ...

    Raises:
        NoSlurm: squeue does not answer.
    """
    return _ask("squeue", "--noheader", f"--jobs={job}", "--format=%T").strip()


def _ask(*command: str) -> str:
    require_slurm()
    english = {**os.environ, "LC_ALL": "C"}
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True, env=english)
    except subprocess.TimeoutExpired:
        raise NoSlurm(f"{command[0]} gave no answer for {ANSWER_SECONDS} s; {SEE_SINFO}") from None
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())
        raise NoSlurm(f"{command[0]} does not answer ({said}); {SEE_SINFO}") from None
    return answer.stdout


SEE_SINFO = "Slurm must be up; see whether sinfo answers, and give the same command again"
