"""Outcomes of the jobs of a sweep, in words and as the sweep's exit code."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from runners.process.errors import SOME_JOBS_FAILED, UserError
from runners.process.interruption import Preempted
from runners.storage.folder import RUN_LOG, read_status
from runners.sweeping.job import Job


@dataclass(frozen=True)
class Outcome:
    """The end of a job.

    Args:
        code: 0 done, minus the number of the signal that killed it, or an exit code; None where nobody saw the end.
        seconds: since it was started, or handed to Slurm.
    """

    job: Job
    code: int | None
    seconds: float


class JobsFailed(UserError):
    """Some jobs of a sweep failed; the others are done."""

    exit_code = SOME_JOBS_FAILED


def teller(n_jobs: int) -> Callable[[Outcome], None]:
    """A function that prints the line of one job that has ended, and counts them."""
    numbers = count(1)

    def tell(outcome: Outcome) -> None:
        how = "done" if outcome.code == 0 else f"failed ({why(outcome)})"
        print(f"[{next(numbers)}/{n_jobs}] {outcome.job}: {how}, {outcome.seconds:.0f} s", flush=True)

    return tell


def why(outcome: Outcome) -> str:
    """Exit code or signal of a failed job, and its error line."""
    code, folder = _ending(outcome.code), outcome.job.folder
    error = read_status(folder).get("error")
    return f"{code}: {error}" if error else f"{code}; see {folder / RUN_LOG}"


def tables_of(sweep: Path) -> str:
    """The sweep's folder, and the command that makes its tables."""
    return f"{sweep}\npython run.py runner=report {shlex.quote(f'sweep={sweep}')} makes the tables of what is done"


def raise_if_failed(outcomes: Sequence[Outcome], jobs: int) -> None:
    """Turns failures into the sweep's own exit code."""
    stopped = [outcome for outcome in outcomes if outcome.code == Preempted.exit_code]
    failed = [outcome for outcome in outcomes if outcome.code not in (0, Preempted.exit_code)]
    if failed:
        named = "; ".join(f"{outcome.job}: {why(outcome)}" for outcome in failed)
        raise JobsFailed(f"{len(failed)} of {jobs} jobs failed; the others are done; {named}")
    if stopped:
        raise Preempted(f"{len(stopped)} of {jobs} jobs were stopped by signals; give the same command to go on")


def _ending(code: int | None) -> str:
    if code is None:
        return "left Slurm unfinished (cancelled, or killed?)"
    return f"killed by signal {-code}" if code < 0 else f"exit {code}"
