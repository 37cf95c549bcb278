"""Signals that ask a run to stop soon: noted here, obeyed at the next step."""

import signal
from types import FrameType

from runners.process.errors import UserError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_noted: list[signal.Signals] = []
_beats = [0]


class Preempted(UserError):
    """The run was asked to stop, and has saved where it was."""

    exit_code = 75  # EX_TEMPFAIL: the same command goes on


def listen() -> None:
    """From now on the signals that clusters send before they kill only set a flag."""
    _noted.clear()
    for number in SIGNALS:
        signal.signal(number, _note)


def beat() -> None:
    """Notes a sign of life."""
    _beats[0] += 1


def beats() -> int:
    """Number of signs of life so far, for the watchdog."""
    return _beats[0]


def requested() -> str:
    """The signal that asked the run to stop; empty if none did. Asking also counts as a sign of life for the watchdog."""
    beat()
    return _noted[0].name if _noted else ""


def stop_if_requested(where: str) -> None:
    """Ends the run between two stages.

    Raises:
        Preempted: a signal came.
    """
    if name := requested():
        raise Preempted(f"{name} came {where}; everything finished is kept; give the same command to go on")


def _note(number: int, frame: FrameType | None) -> None:
    _noted.append(signal.Signals(number))
