"""A sweep on this machine: what is done stays, the rest runs in slots, and the end says what is missing."""

from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from runners.process.interruption import listen
from runners.storage.code import code
from runners.sweeping.devices import slots
from runners.sweeping.job import Job
from runners.sweeping.manifest import begin_sweep, not_done
from runners.sweeping.outcomes import raise_if_failed, tables_of, teller
from runners.sweeping.pool import SOURCES, popen, run_all
from runners.sweeping.warm import forks


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
        retries: restarts of a job that was preempted or killed.
        warm: true makes jobs forks of a process that has imported torch; `auto` is true where no GPU is used.

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
    told = {SOURCES: str(identity["sources"])}
    forked = found[0].device is None if warm == "auto" else warm
    start = forks(main, root, flags, told, found[0].threads) if forked else popen(root, flags, told)
    outcomes = run_all(missing, found, start=start, tell=teller(len(missing)), retries=retries)
    print(tables_of(sweep), flush=True)
    raise_if_failed(outcomes, len(jobs))
