"""A sweep on a Slurm cluster: one array of the jobs that are not done, then waiting for them, or not."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from runners.process.errors import INTERRUPTED, UserError
from runners.storage import folder as run_folder
from runners.storage.code import code
from runners.sweeping.job import Job
from runners.sweeping.manifest import begin_sweep, not_done
from runners.sweeping.outcomes import Outcome, raise_if_failed, tables_of, teller
from runners.sweeping.pool import SOURCES
from runners.sweeping.queue import PASSING, Array, NoSlurm, noted, queued, require_slurm
from runners.sweeping.submission import LOGS, submit
from runners.sweeping.task import Task

POLL_SECONDS = 5.0
# A node's last files may reach the folder this long after Slurm has forgotten the job (NFS).
GRACE_SECONDS = 30.0
# So long Slurm may not answer while jobs are waited for: it is being restarted.
UNREACHABLE_SECONDS = 900.0


class LeftRunning(UserError):
    """Nobody waits for the jobs any more."""

    exit_code = INTERRUPTED


def run_on_slurm(
    jobs: Sequence[Job], config: DictConfig, root: Path, *, flags: Sequence[str], options: Mapping[str, Any]
) -> None:
    """Hands the jobs that are neither done nor in the queue to Slurm, and waits for all of them unless `detach` is set.

    Raises:
        JobsFailed: with how many; each has its line on stdout.
        NoSlurm: Slurm is not there, does not answer or refuses.
        LeftRunning: Ctrl-C ended the waiting.
    """
    require_slurm()
    identity = code(root)
    sweep = begin_sweep(jobs, config, identity)
    there = queued(noted(sweep))
    arrays = [array for array in noted(sweep) if not there.keys().isdisjoint(array.jobs)]
    missing = [job for job in not_done(jobs, rerun=config.rerun) if job.name not in there]
    waiting = [job for job in jobs if job in missing or job.name in there]
    print(f"{len(jobs)} jobs, {len(jobs) - len(waiting)} of them done before; {len(there)} in the queue", flush=True)
    told = {SOURCES: str(identity["sources"])}
    tasks = [Task(root, flags, job, told, Path.cwd(), patience=options["signal_delay_s"] * 0.8) for job in missing]
    arrays = submit(tasks, arrays, sweep, options)
    if arrays:
        print(f"{len(missing)} handed to Slurm; scancel {_ids(arrays)} ends them", flush=True)
    if options["detach"]:
        print(f"{tables_of(sweep)}; runner=status looks how they are; the same command waits for them", flush=True)
        return
    outcomes = _follow(waiting, arrays, rerun=config.rerun)
    if any(outcome.code is None for outcome in outcomes):
        print(f"what Slurm's side said of jobs that left it unfinished lies in {sweep / LOGS}", flush=True)
    print(tables_of(sweep), flush=True)
    raise_if_failed(outcomes, len(jobs))


def _follow(waiting: Sequence[Job], arrays: Sequence[Array], *, rerun: bool) -> list[Outcome]:
    try:
        return wait(waiting, still_there=lambda: queued(arrays), tell=teller(len(waiting)), rerun=rerun)
    except KeyboardInterrupt:
        raise LeftRunning(
            f"interrupted; the jobs go on in Slurm; the same command waits; scancel {_ids(arrays)} ends them"
        ) from None


def _ids(arrays: Sequence[Array]) -> str:
    return " ".join(array.id or array.name for array in arrays)


def wait(
    jobs: Sequence[Job],
    *,
    still_there: Callable[[], Mapping[str, str]],
    tell: Callable[[Outcome], None],
    rerun: bool = False,
) -> list[Outcome]:
    """Waits until Slurm has none of the jobs any more; then their folders say how they ended.

    Args:
        rerun: finished runs are repeated, so that a result which is there already is no end.

    Raises:
        NoSlurm: it has not answered for a quarter of an hour.
    """
    started = answered = time.monotonic()
    before = {job.name: run_folder.read_status(job.folder) for job in jobs}
    left = {job.name: job for job in jobs}
    gone: dict[str, float] = {}
    ended: list[Outcome] = []
    known: set[str] = set(PASSING)
    while left:
        now = time.monotonic()
        try:
            there, answered = still_there(), now
        except NoSlurm:
            if now - answered > UNREACHABLE_SECONDS:
                raise
            there = dict.fromkeys(left, "")
        _tell_of_obstacles(there, known)
        gone = {name: gone.get(name, now) for name in left if name not in there}
        for name, since in gone.items():
            settled, code = _end(left[name], before[name], rerun=rerun, lost=now - since >= GRACE_SECONDS)
            if settled:
                ended.append(Outcome(left.pop(name), code, now - started))
                tell(ended[-1])
        if left:
            time.sleep(POLL_SECONDS)
    return ended


def _tell_of_obstacles(there: Mapping[str, str], known: set[str]) -> None:
    """Names, once each, the reasons for which jobs could wait for ever: a time limit above the partition's, a hold."""
    for reason in sorted(set(there.values()) - known):
        number = sum(1 for one in there.values() if one == reason)
        print(f"Slurm lets {number} jobs wait: {reason} (man squeue says what that means)", flush=True)
        known.add(reason)


def _end(job: Job, before: Mapping[str, Any], *, rerun: bool, lost: bool) -> tuple[bool, int | None]:
    """True if the end of a job that has left the queue is known by now; and its exit code, None if nobody wrote one."""
    status = run_folder.read_status(job.folder)
    if run_folder.is_done(job.folder) and not (rerun and status == before):
        return True, 0
    if status.get("state") == "failed" and status != before:
        return True, status["exit_code"]
    return lost, None
