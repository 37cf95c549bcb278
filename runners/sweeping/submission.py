"""Handing the jobs of a sweep to Slurm, through submitit."""

import os
import shlex
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runners.sweeping.queue import Array, NoSlurm, max_array_size, note
from runners.sweeping.task import Task

LOGS = "slurm"
# Of submitit and of this launcher; all other options are sbatch's.
NOT_SBATCH = ("max_num_timeout", "detach")
# Slurm sets these in an allocation, and sbatch would hand them on; the other SBATCH_* are defaults that users set.
OF_AN_ALLOCATION = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_CPU_BIND", "SBATCH_MEM_BIND")
# Users and sites set these: where the cluster is, and the right to ask it.
OF_THE_SITE = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")


def submit(tasks: Sequence[Task], arrays: Sequence[Array], sweep: Path, options: Mapping[str, Any]) -> list[Array]:
    """Hands tasks to Slurm, as few arrays as it allows, each noted before and after.

    Returns:
        The arrays that were there, and the new ones.

    Raises:
        NoSlurm: sbatch refuses.
    """
    found = list(arrays)
    size = max_array_size() if tasks else 1
    for start in range(0, len(tasks), size):
        chunk = tasks[start : start + size]
        name = f"{sweep.name}-{uuid.uuid4().hex[:8]}"
        array = Array(name, "", os.getuid(), tuple(task.job.name for task in chunk))
        note(sweep, [*found, array])
        number = _sbatch(chunk, name, sweep / LOGS, options)
        found.append(Array(name, number, array.uid, array.jobs))
        note(sweep, found)
    return found


def _sbatch(tasks: Sequence[Task], name: str, logs: Path, options: Mapping[str, Any]) -> str:
    """The number that Slurm gives to an array of tasks."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    python = held_python(tasks[0].root)
    executor = submitit.SlurmExecutor(logs.absolute(), max_num_timeout=options["max_num_timeout"], python=python)
    executor.update_parameters(**sbatch_options(options, name, tasks[0].root))
    try:
        with outside_allocations():
            given = executor.submit_array(list(tasks))
    except (FailedJobError, FailedSubmissionError) as error:
        said = [line.removeprefix("sbatch: error: ") for line in str(error).splitlines() if line.startswith("sbatch: error:")]
        raise NoSlurm(
            f"sbatch refuses the jobs ({'; '.join(said) or error}); partition, account, GPUs, CPUs and time must be what the "
            "cluster has; see the top of conf/hydra/launcher/slurm.yaml, and sinfo"
        ) from None
    return given[0].job_id.partition("_")[0]


@contextmanager
def outside_allocations() -> Iterator[None]:
    """The environment without what an allocation set in it: jobs would take its CPUs, tasks and job number for their own.

    submitit's `clean_env` takes SLURM_CONF away as well, without which sbatch finds no cluster at some sites.
    """
    hidden = {
        name: value for name, value in os.environ.items() if name.startswith(OF_AN_ALLOCATION) and name not in OF_THE_SITE
    }
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def held_python(root: Path) -> str:
    """Words of a shell that start Python with Slurm's signals held back, so that one that comes early is obeyed later."""
    held = [sys.executable, "-I", "-S", str(root / "runners" / "sweeping" / "held.py"), sys.executable]
    return shlex.join(["sh", "-c", 'trap "" USR1 USR2; exec "$@"', "sh", *held])


def sbatch_options(options: Mapping[str, Any], name: str, root: Path) -> dict[str, Any]:
    """Parameters of submitit's executor, from the launcher's options."""
    given = {key: value for key, value in options.items() if value is not None and key not in NOT_SBATCH}
    minutes, memory = given.pop("timeout_min"), given.pop("mem_gb", None)
    # Since 22.05 srun no longer takes the number of CPUs over from sbatch; and the project's packages must be found first.
    cpus = [f"export SRUN_CPUS_PER_TASK={given['cpus_per_task']}"] if "cpus_per_task" in given else []
    return {
        **given,
        **({} if memory is None else {"mem": f"{round(memory * 1024)}M"}),
        "job_name": name,
        "time": minutes,
        "stderr_to_stdout": True,
        "setup": [f"cd {shlex.quote(str(root))}", *cpus, *given["setup"]],
        "additional_parameters": {"requeue": True, **given["additional_parameters"]},
    }
