"""CPU threads for this process: as many as CPUs are idle, since threads wait for each other at every operation.

Beside one busy process on two CPUs, one of two threads is stopped again and again while the other spins; ResNet-56 then trains
at 382 images/s (bf16) instead of 924 with one thread.
"""

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

SHORTEST_SECONDS = 0.3  # /proc/stat counts hundredths
IDLE, IOWAIT = 3, 4  # columns of a CPU's line in /proc/stat, after its name
_begun: "list[Load]" = []


@dataclass(frozen=True)
class Load:
    """Counters at one moment, in seconds.

    Args:
        clock: of the machine.
        counted: all that the allowed CPUs have counted, idle or not.
        idle: what they were idle.
        own: CPU time of this process.
    """

    clock: float
    counted: float
    idle: float
    own: float


def begin() -> None:
    """Notes the load when the process starts, which importing torch gives time to grow."""
    _begun[:] = filter(None, [_look()])


def idle_cpus() -> int | None:
    """CPUs that no other process used since `begin`, at least 1; None where the system does not tell (macOS)."""
    if not _begun:
        return None
    before = _begun[0]
    time.sleep(max(0.0, before.clock + SHORTEST_SECONDS - time.monotonic()))
    now = _look()
    return None if now is None else left_over(before, now)


def left_over(before: Load, now: Load) -> int | None:
    """Idle CPUs and those this process used itself, rounded: 1.1 idle and 0.9 of its own are 2."""
    if now.counted <= before.counted:  # some containers show counters that stand still
        return None
    seconds = now.clock - before.clock
    return max(1, round((now.idle - before.idle + now.own - before.own) / seconds))


def counted(stat: str, cpus: Collection[int], ticks_per_second: int) -> tuple[float, float]:
    """Seconds that `cpus` have counted in all, and idle, out of the text of /proc/stat."""
    lines = [line.split() for line in stat.splitlines()]
    ours = [[int(ticks) for ticks in values] for name, *values in filter(None, lines) if name in {f"cpu{cpu}" for cpu in cpus}]
    return (
        sum(map(sum, ours)) / ticks_per_second,
        sum(values[IDLE] + values[IOWAIT] for values in ours) / ticks_per_second,
    )


def _look() -> Load | None:
    try:
        stat, cpus = Path("/proc/stat").read_text(), os.sched_getaffinity(0)
    except (OSError, AttributeError):
        return None
    return Load(time.monotonic(), *counted(stat, cpus, os.sysconf("SC_CLK_TCK")), time.process_time())
