"""Jobs as processes, so many at a time: what each needs to start, and what becomes of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runners.process.interruption import Preempted, requested
from runners.storage.folder import RUN_LOG
from runners.sweeping.devices import Slot
from runners.sweeping.job import Job
from runners.sweeping.outcomes import Outcome

POLL_SECONDS, GRACE_SECONDS = 0.1, 120.0
# Ends that say nothing against trying again: preempted with the state saved.
TRY_AGAIN = (Preempted.exit_code,)
# What a job's process is told by whoever started it.
PARENT, SOURCES = "PRUNESCOPE_PARENT", "PRUNESCOPE_SOURCES"


@dataclass(frozen=True)
class Child:
    """A job's process.

    Args:
        pid: its number, and that of its process group.
        poll: gives the exit code, or minus the number of the signal that ended it; None while it runs.
        wait: returns when it has ended.
    """

    pid: int
    poll: Callable[[], int | None]
    wait: Callable[[], Any]


@dataclass
class _Running:
    job: Job
    slot: Slot
    process: Child
    started: float = field(default_factory=time.monotonic)


def arguments(job: Job, flags: Sequence[str]) -> list[str]:
    """Command line of `run.py` in one job's own process."""
    own = ["hydra.mode=RUN", f"hydra.run.dir={_quoted(job.folder)}", "hydra/job_logging=job"]
    return [*flags, *job.overrides, *own]


def run_all(
    jobs: Sequence[Job],
    slots: Sequence[Slot],
    *,
    start: Callable[[Job, Slot], Child],
    tell: Callable[[Outcome], None],
    retries: int,
) -> list[Outcome]:
    """Runs every job in some slot and returns how they ended, in the order of their ends; one that fails stops no other.

    Raises:
        Preempted: a signal asked this process to stop; the jobs were told, and have saved their states.
        KeyboardInterrupt: Ctrl-C; likewise.
    """
    waiting, free = list(jobs), list(slots)
    running: list[_Running] = []
    ended: list[Outcome] = []
    left = {job.name: retries for job in jobs}
    try:
        while waiting or running:
            while waiting and free:
                job, slot = waiting.pop(0), free.pop(0)
                running.append(_Running(job, slot, start(job, slot)))
            for one, code in [(one, one.process.poll()) for one in running]:
                if code is None:
                    continue
                running.remove(one)
                free.append(one.slot)
                if (code in TRY_AGAIN or code < 0) and left[one.job.name] > 0 and not requested():
                    left[one.job.name] -= 1
                    waiting.append(one.job)
                    continue
                ended.append(Outcome(one.job, code, time.monotonic() - one.started))
                tell(ended[-1])
            if name := requested():
                raise Preempted(f"{name} came; {len(running)} jobs were told to stop; give the same command to go on")
            time.sleep(POLL_SECONDS)
    finally:
        _stop([one.process for one in running])
    return ended


def popen(root: Path, flags: Sequence[str], environment: Mapping[str, str]) -> Callable[[Job, Slot], Child]:
    """A function that starts a job as a process; its output goes to `run.log`, signals reach it through its parent alone."""

    def start(job: Job, slot: Slot) -> Child:
        job.folder.mkdir(parents=True, exist_ok=True)
        told = {**os.environ, **environment, **slot.environment, PARENT: str(os.getpid())}
        with (job.folder / RUN_LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(root / "run.py"), *arguments(job, flags)],
                env=told,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Child(process.pid, process.poll, process.wait)

    return start


def _stop(processes: Sequence[Child]) -> None:
    """Asks processes to save and end, and ends those that do not; Ctrl-C ends the patience."""
    until = time.monotonic() + GRACE_SECONDS
    try:
        for process in processes:
            _signal(process, signal.SIGTERM)
        while any(process.poll() is None for process in processes) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
    finally:
        for process in processes:
            if process.poll() is None:
                _signal(process, signal.SIGKILL)
                process.wait()


def _signal(process: Child, number: signal.Signals) -> None:
    """To the job's group; to the job alone in the moment before it has one; to nobody if it has ended."""
    if process.poll() is None:
        for send in (os.killpg, os.kill):
            with suppress(ProcessLookupError):
                return send(process.pid, number)


def _quoted(path: Path) -> str:
    """A path as Hydra's grammar takes any."""
    escaped = str(path).replace("'", "\\'")
    return f"'{escaped}'"
