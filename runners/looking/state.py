"""The state of one job (done, running, failed, ...), read from its run folder alone."""

import calendar
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runners.looking.sweep import number, read_object, texts
from runners.storage.folder import FACTS, RUN_LOG, STATUS, is_done
from runners.sweeping.job import Job

STATES = ("done", "running", "failed", "stopped", "lost", "damaged", "missing")
DONE, RUNNING, FAILED, STOPPED, LOST, DAMAGED, MISSING = STATES
TAIL_BYTES = 16_384
NEEDED_FACTS = {"code": dict, "versions": dict, "hardware": dict, "keys": dict, "seconds": dict, "seed": int}
# Clocks are set while jobs run; a process id is given out again after much longer.
CLOCK_SLACK_SECONDS = 3600


@dataclass(frozen=True)
class Declared:
    """A table that run.json lists: the columns that name its rows, and the columns of numbers to repeat over seeds."""

    by: tuple[str, ...]
    values: tuple[str, ...]


# Of runs of earlier versions, whose run.json lists no tables.
EARLIER = {
    "accuracy": Declared(("stage",), ("top1_pct", "top5_pct", "loss_nats", "params", "macs")),
    "spearman": Declared(("layer", "index", "criterion_a", "criterion_b"), ("rho",)),
}


@dataclass(frozen=True)
class State:
    """One of `STATES`, and the reason for it.

    Args:
        reason: why there is no result; of a running job, since when and on which other machine.
        facts: the `run.json` of a job that is done.
    """

    name: str
    reason: str = ""
    exit_code: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def state_of(job: Job) -> State:
    """The state of a job now.

    `lost` says it runs, but its process on this machine is gone; `damaged` says it is done, but what it wrote is not
    there, or not what it wrote; `missing` has not begun.
    """
    path = job.folder / STATUS
    if not path.exists():
        return State(MISSING, _not_begun(job.folder))
    try:
        found = read_object(path)
    except (OSError, ValueError) as error:
        return State(DAMAGED, f"{STATUS} cannot be read ({error}); the same command makes it again")
    state = found.get("state")
    if state == DONE:
        return _done(job.folder)
    if state == RUNNING:
        return _running(found)
    if state in (FAILED, STOPPED):
        code = found.get("exit_code")
        return State(state, str(found.get("error", "")), code if isinstance(code, int) else None)
    return State(DAMAGED, f"{STATUS} says {state!r}, which is no state; the same command makes it again")


def counts(states: Iterable[State]) -> str:
    """The number of jobs in each state: `12 done, 1 failed`."""
    names = [state.name for state in states]
    return ", ".join(f"{names.count(name)} {name}" for name in STATES if name in names)


def last_lines(folder: Path) -> list[str]:
    """The end of a job's log; empty if there is none."""
    try:
        with (folder / RUN_LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def declared(facts: Mapping[str, Any]) -> dict[str, Declared]:
    """The tables that a run's `run.json` lists, by their names."""
    if "tables" not in facts:
        return dict(EARLIER)
    return {name: Declared(tuple(each["by"]), tuple(each["values"])) for name, each in facts["tables"].items()}


def headline(facts: Mapping[str, Any]) -> str:
    """A finished run in a few words; of earlier versions, the accuracy of the last stage."""
    if "tables" in facts:
        return facts["headline"]
    last = facts["accuracy"][-1]
    return "top-1 " + ("none" if last.get("top1_pct") is None else f"{last['top1_pct']:.2f} %") + f" ({last['stage']})"


def alive(pid: Any, since: str = "") -> bool:
    """True if the process that this machine numbered `pid` before `since` runs on."""
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's: there
        pass
    return not _ended_or_another(pid, since)


def _ended_or_another(pid: int, since: str) -> bool:
    """True if a process is a zombie, or began after `since` (its number was given out again); False where /proc is not."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(rest[18])  # field 22 of proc_pid_stat(5)
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        noted = calendar.timegm(time.strptime(since, "%Y-%m-%dT%H:%M:%SZ")) if since else time.time()
    except (OSError, ValueError, IndexError):
        return False
    return state in ("Z", "X") or time.time() - age > noted + CLOCK_SLACK_SECONDS


def _not_begun(folder: Path) -> str:
    if not folder.is_dir():
        return "has not begun"
    lines = last_lines(folder)
    return f"has not begun; its {RUN_LOG} ends: {lines[-1]}" if lines else "has not begun"


def _done(folder: Path) -> State:
    if not is_done(folder):
        return State(DAMAGED, "files are missing or not as they were written; the same command makes them again")
    try:
        facts = read_object(folder / FACTS)
    except (OSError, ValueError) as error:
        return State(DAMAGED, f"{FACTS} cannot be read ({error}); the same command makes it again")
    if fault := _fault(facts) or _missing_table(folder, facts):
        return State(DAMAGED, f"{FACTS}: {fault}; rerun=true makes it again")
    return State(DONE, facts=facts)


def _running(found: Mapping[str, Any]) -> State:
    since, host = str(found.get("started", "")), str(found.get("host", ""))
    if host and host != socket.gethostname():
        return State(RUNNING, f"since {since} on {host}")
    if alive(found.get("pid"), since):
        return State(RUNNING, f"since {since}")
    return State(LOST, f"its process, begun {since}, is gone; the same command goes on")


def _fault(facts: Mapping[str, Any]) -> str:
    """The first thing that a finished run's facts lack; empty if nothing is missing."""
    for name, kind in NEEDED_FACTS.items():
        if not isinstance(facts.get(name), kind):
            return f"no {name}"
    if not number(facts["seconds"].get("total")):
        return "no total of seconds"
    if "tables" not in facts:
        return _fault_of_earlier(facts.get("accuracy"))
    if not isinstance(facts.get("headline"), str):
        return "no headline"
    if not isinstance(facts["tables"], dict) or not all(map(_is_table, facts["tables"].items())):
        return "tables without names, by and values"
    return ""


def _fault_of_earlier(accuracy: Any) -> str:
    if not isinstance(accuracy, list) or not accuracy:
        return "no tables"
    last = accuracy[-1]
    if not isinstance(last, dict) or not isinstance(last.get("stage"), str):
        return "a row of accuracy without a stage"
    return "" if last.get("top1_pct") is None or number(last["top1_pct"]) else "top1_pct is no number"


def _is_table(listed: tuple[str, Any]) -> bool:
    name, each = listed
    parts = (each.get("by"), each.get("values")) if isinstance(each, dict) else (None, None)
    return Path(name).name == name and all(texts(part) for part in parts)


def _missing_table(folder: Path, facts: Mapping[str, Any]) -> str:
    """The first listed table that is not in the run folder, in words; empty if all are."""
    missing = [name for name in declared(facts) if not (folder / f"{name}.csv").is_file()]
    return f"{missing[0]}.csv is not there" if missing else ""
