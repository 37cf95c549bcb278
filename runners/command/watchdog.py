"""Ends a run that hangs, so that whoever started it can start it again: it goes on from its last saved state."""

import faulthandler
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from runners.process.interruption import Preempted, beats
from runners.storage import folder as run_folder

LOOKS = 20  # of the watchdog, before it calls a run hung


@contextmanager
def watched(folder: Path, minutes: float | None) -> Iterator[None]:
    """Within the block, so many minutes without a step or a batch end the process with code 75 and its stacks in error.log.

    What counts is how often nothing had happened when the watchdog looked, so that a process that was stopped, or a computer
    that slept, has not hung.
    """
    ended = Event()
    if minutes is not None:
        Thread(target=_watch, args=(ended, folder, minutes), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _watch(ended: Event, folder: Path, minutes: float) -> None:
    before, silent = beats(), 0
    while not ended.wait(60 * minutes / LOOKS):
        now = beats()
        silent = silent + 1 if now == before else 0
        before = now
        if silent >= LOOKS:
            _give_up(folder, minutes)


def _give_up(folder: Path, minutes: float) -> None:
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        stacks = file.read().decode(errors="replace")
    message = (
        f"no step and no batch for {minutes:g} minutes (hang_minutes); where it hung is in {folder / run_folder.ERROR_LOG}; "
        "give the same command to go on from the last saved state"
    )
    run_folder.fail(folder, message, Preempted.exit_code, stacks)
    sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()
    os._exit(Preempted.exit_code)
