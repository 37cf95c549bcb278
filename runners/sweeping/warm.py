"""Jobs as forks of one process that has imported everything; that process never touches a GPU.

Without it every job imports torch by itself: a job that trains nothing takes 9.8 s instead of 4.7 (two cores).
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runners.storage.folder import RUN_LOG
from runners.sweeping.devices import Slot
from runners.sweeping.job import Job
from runners.sweeping.pool import PARENT, Child, arguments

IMPORTED = "runners.command.imported"


def forks(
    main: Callable[[Path], int], root: Path, flags: Sequence[str], environment: Mapping[str, str], threads: int
) -> Callable[[Job, Slot], Child]:
    """A function that starts a job as a fork; all have the same number of threads, which OpenMP reads once.

    Args:
        main: the command line, which returns the exit code.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([IMPORTED])

    def start(job: Job, slot: Slot) -> Child:
        job.folder.mkdir(parents=True, exist_ok=True)
        told = {**environment, **slot.environment, PARENT: str(os.getpid())}
        process = context.Process(target=_run, args=(main, root, arguments(job, flags), told, job.folder / RUN_LOG))
        process.start()
        assert process.pid is not None
        return Child(process.pid, lambda: process.exitcode, process.join)

    return start


def _run(main: Callable[[Path], int], root: Path, given: list[str], environment: dict[str, str], log: Path) -> None:
    """The job, in the fork."""
    os.setsid()  # signals for the sweep reach it through the sweep alone
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(output, stream.fileno())
    sys.argv = [str(root / "run.py"), *given]
    sys.exit(main(root))
