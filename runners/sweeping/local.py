"""A sweep on this machine: what is done stays, the rest runs in slots, and the end says what is missing."""

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from runners.errors import SOME_JOBS_FAILED, UserError
from runners.storage import folder as run_folder
from runners.storage.code import code
from runners.storage.interruption import Preempted, listen
from runners.sweeping.devices import slots
from runners.sweeping.jobs import Job
from runners.sweeping.manifest import begin, sweep_folder
from runners.sweeping.pool import SOURCES, Outcome, popen, run_all
from runners.sweeping.warm import forks


class JobsFailed(UserError):
    """Some jobs of a sweep failed; the others are done."""

    exit_code = SOME_JOBS_FAILED


def run_here(
    jobs: Sequence[Job],
    config: DictConfig,
    root: Path,
    *,
    main: Callable[[Path], int],
    flags: Sequence[str],
    devices: str | Sequence[int],
    per_device: int,
    retries: int,
    warm: str | bool,
) -> None:
    """Runs the jobs of a sweep that are not done yet.

    Args:
        root: of this project.
        main: the command line, for jobs that are forks.
        flags: of the jobs' command lines, before their overrides.
        devices: as `slots` takes them.
        per_device: jobs at a time on each.
        retries: how often a job is started again that was preempted or killed.
        warm: whether jobs are forks of a process that has imported torch; `auto` is where no GPU is used.

    Raises:
        JobsFailed: with how many; each has its line on stdout.
        Preempted: a signal stopped the sweep, or jobs were stopped more often than they are started again.
    """
    found = slots("cpu" if config.device == "cpu" else devices, per_device=per_device)
    identity = code(root)
    sweep = begin_sweep(jobs, config, identity)
    missing = not_done(jobs, rerun=config.rerun)
    at_once = f"{min(len(found), len(missing))} at a time, {found[0].threads} CPU threads each"
    print(f"{len(jobs)} jobs, {len(jobs) - len(missing)} of them done before; {len(missing)} to run, {at_once}", flush=True)
    listen()
    number = 0

    def tell(outcome: Outcome) -> None:
        nonlocal number
        number += 1
        how = "done" if outcome.code == 0 else f"failed ({why(outcome)})"
        print(f"[{number}/{len(missing)}] {outcome.job}: {how}, {outcome.seconds:.0f} s", flush=True)

    told = {SOURCES: str(identity["sources"])}
    forked = found[0].device is None if warm == "auto" else warm
    start = forks(main, root, flags, told, found[0].threads) if forked else popen(root, flags, told)
    outcomes = run_all(missing, found, start=start, tell=tell, retries=retries)
    print(f"{sweep}\npython run.py runner=report {shlex.quote(f'sweep={sweep}')} makes the tables of what is done", flush=True)
    raise_if_failed(outcomes, len(jobs))


def begin_sweep(jobs: Sequence[Job], config: DictConfig, identity: Mapping[str, Any]) -> Path:
    """The sweep's folder, its jobs and code noted there."""
    sweep = sweep_folder(Path(str(config.outputs)), jobs, config.hydra.runtime.choices.get("experiment"))
    begin(sweep, jobs, command=["run.py", *sys.argv[1:]], code=identity)
    return sweep


def not_done(jobs: Sequence[Job], *, rerun: bool) -> list[Job]:
    """The jobs whose results are not there, or are asked for anew."""
    return [job for job in jobs if rerun or not run_folder.is_done(job.folder)]


def why(outcome: Outcome) -> str:
    """Exit code or signal of a failed job, and its error line."""
    code = f"killed by signal {-outcome.code}" if outcome.code < 0 else f"exit {outcome.code}"
    try:
        status = json.loads((outcome.job.folder / run_folder.STATUS).read_text())
        return f"{code}: {status['error']}"
    except (OSError, ValueError, KeyError):
        return f"{code}; see {outcome.job.folder / 'run.log'}"


def raise_if_failed(outcomes: Sequence[Outcome], jobs: int) -> None:
    """Turns failures into the sweep's own exit code."""
    stopped = [outcome for outcome in outcomes if outcome.code == Preempted.exit_code]
    failed = [outcome for outcome in outcomes if outcome.code not in (0, Preempted.exit_code)]
    if failed:
        named = "; ".join(f"{outcome.job}: {why(outcome)}" for outcome in failed)
        raise JobsFailed(f"{len(failed)} of {jobs} jobs failed; the others are done; {named}")
    if stopped:
        raise Preempted(f"{len(stopped)} of {jobs} jobs were stopped by signals; give the same command to go on")
