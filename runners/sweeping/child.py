"""What a job's process owes to the one that started it."""

import ctypes
import os
import signal
import sys
from pathlib import Path

from runners.errors import ConfigError
from runners.storage.code import sources_digest
from runners.storage.interruption import Preempted
from runners.sweeping.pool import PARENT, SOURCES

PR_SET_PDEATHSIG = 1


def follow_parent() -> None:
    """From now on the end of the process that started this job asks it to stop, as SIGTERM does (on Linux).

    Raises:
        Preempted: that process has ended already.
    """
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != int(parent):
        raise Preempted("the sweep that started this job has ended; give its command again to go on")


def check_code(root: Path, *, allow_drift: bool) -> None:
    """Refuses to mix code: a sweep's jobs run what it was begun with.

    Raises:
        ConfigError: the sources are no longer those that the sweep was begun with.
    """
    begun = os.environ.get(SOURCES)
    if begun is None or allow_drift or sources_digest(root) == begun:
        return
    raise ConfigError(
        "the code or conf/ changed after the sweep began, and its jobs would not be of one kind; allow_code_drift=true lets "
        "them; or give the sweep's command again, which runs what is missing with the code as it is now"
    )
