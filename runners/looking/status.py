"""The state of every job of a sweep, one line a job, read afresh from the run folders."""

import re
import shlex
from pathlib import Path

from runners.looking.seen import Seen
from runners.looking.state import DONE, FAILED, LOST, RUNNING, STATES, STOPPED, State, counts, headline, last_lines, state_of
from runners.looking.sweep import find_sweep, read_sweep
from runners.process.errors import plain
from runners.sweeping.job import Job

EPOCH = re.compile(r"(\S+): epoch (\d+)/(\d+)\b.*?([\d:]+) left")
LONGEST_LINE = 300
GOES_ON = "the same command goes on"


def run(sweep: str | None, outputs: str) -> Seen:
    """The status of the sweep that is meant; see `find_sweep`.

    Raises:
        ConfigError: there is no such sweep, or its manifest cannot be read.
    """
    return Seen(status(find_sweep(sweep, outputs)))


def status(sweep: Path) -> str:
    """The number of jobs in each state, a line a job, and the command that goes on with what is not done.

    Raises:
        ConfigError: the manifest is missing, damaged or of a newer version.
    """
    found = read_sweep(sweep)
    states = [state_of(job) for job in found.jobs]
    varied = [plain(str(job)) for job in found.jobs]
    digits, width = len(str(max(job.number for job in found.jobs))), max(map(len, varied))
    state_width = max(map(len, STATES))
    lines = [f"{len(found.jobs)} jobs: {counts(states)}"]
    for job, state, values in zip(found.jobs, states, varied, strict=True):
        lines.append(f"{job.number:>{digits}}  {state.name:<{state_width}}  {values:<{width}}  {_note(job, state)}".rstrip())
    origin = f"Sweep {plain(str(sweep))}, started {plain(found.started)}"
    if all(state.name == DONE for state in states):
        return "\n".join([*lines, f"{origin}."])
    command = plain(shlex.join(["python", *found.command]))
    return "\n".join([*lines, f"{origin}; {GOES_ON} with what is not done:", command])


def _note(job: Job, state: State) -> str:
    if state.name == DONE:
        told = headline(state.facts)
        return plain(f"{told}, " if told else "") + f"{state.facts['seconds']['total']:,.1f} s"
    if state.name == RUNNING:
        return _progress(job.folder) + plain(state.reason)
    if state.name == FAILED:
        return f"exit code {state.exit_code}: {plain(state.reason)}"
    if state.name in (STOPPED, LOST):
        return GOES_ON
    return plain(state.reason)


def _progress(folder: Path) -> str:
    """The last epoch in the log, or else its last line."""
    lines = [line[-LONGEST_LINE:] for line in last_lines(folder)]
    for line in reversed(lines):
        if found := EPOCH.search(line):
            label, epoch, epochs, left = found.groups()
            return f"{plain(label)}: epoch {epoch}/{epochs}, {left} left; "
    return f"{plain(lines[-1])}; " if lines else ""
