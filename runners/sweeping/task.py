"""One job of a sweep on a node of the cluster: what submitit starts there, and what it does when Slurm wants the node back."""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runners.process.interruption import SIGNALS, Preempted
from runners.sweeping import queue
from runners.sweeping.devices import slots
from runners.sweeping.held import let_through
from runners.sweeping.job import Job
from runners.sweeping.pool import POLL_SECONDS, Child, popen

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

# Slurm signals every process of a job at once, and the job may end before its signal is handled here.
SETTLE_SECONDS = 5.0


@dataclass
class Task:
    """A job as Slurm runs it; submitit pickles it.

    Args:
        root: of this project.
        flags: of the job's command line, before its overrides.
        environment: what its process is told besides what Slurm tells it.
        start_folder: where the sweep's command was given; relative paths start there.
        patience: time that the job may take to save its state.  [s]
    """

    root: Path
    flags: Sequence[str]
    job: Job
    environment: Mapping[str, str]
    start_folder: Path
    patience: float
    process: Child | None = field(default=None, init=False)

    def __call__(self) -> None:
        """Runs the job, and ends with its exit code, so that a job that failed has FAILED to Slurm as well."""
        let_through()
        os.chdir(self.start_folder)
        [slot] = slots("cpu", per_device=1)  # the threads; what Slurm says of GPUs is inherited
        self.process = process = popen(self.root, self.flags, self.environment)(self.job, slot)
        while (code := process.poll()) is None:
            time.sleep(POLL_SECONDS)
        if code == Preempted.exit_code or -code in SIGNALS:
            _requeue_unless_cancelled()
        if code != 0:
            sys.exit(code if code > 0 else 128 - code)

    def checkpoint(self) -> "DelayedSubmission":
        """Lets the job save its state; what is returned runs when Slurm starts the job again."""
        from submitit.core.utils import DelayedSubmission

        if self.process is not None:
            _stop(self.process.pid, self.patience)
        return DelayedSubmission(replace(self))


def _stop(pid: int, patience: float) -> None:
    """Asks a child to save and end, and waits.

    The code that this interrupts may itself be waiting for the child, with the lock of Popen taken: so without Popen.
    """
    until = time.monotonic() + patience
    try:
        os.killpg(pid, signal.SIGTERM)
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
    except (ProcessLookupError, ChildProcessError):
        return


def _requeue_unless_cancelled() -> None:
    """For clusters whose preemption sends SIGTERM, which submitit ignores and a job obeys."""
    time.sleep(SETTLE_SECONDS)
    job = own_id()
    if queue.state(job) == "RUNNING":
        queue.requeue(job)
        time.sleep(queue.ANSWER_SECONDS)  # until Slurm ends this process


def own_id() -> str:
    """Number of this process's job as Slurm's commands take it.

    The plain number of an array's last task is the array's own, and means all of its tasks.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
