"""Duties of a job's process towards the one that started it: it ends with it, and runs the code it was begun with."""

import os
import select
import signal
from pathlib import Path
from threading import Thread

from runners.process.errors import ConfigError
from runners.process.interruption import Preempted
from runners.storage.code import sources_digest
from runners.sweeping.pool import PARENT, SOURCES


def follow_parent() -> None:
    """From now on the end of the sweep that started this job asks it to stop, as SIGTERM does (on Linux).

    Raises:
        Preempted: the sweep has ended already.
    """
    parent = os.environ.get(PARENT)
    if parent is None or not hasattr(os, "pidfd_open"):
        return
    try:
        watched = os.pidfd_open(int(parent))
    except ProcessLookupError as error:
        raise Preempted("the sweep that started this job has ended; give its command again to go on") from error
    Thread(target=_stop_with, args=(watched,), daemon=True).start()


def _stop_with(watched: int) -> None:
    select.select([watched], [], [])
    os.kill(os.getpid(), signal.SIGTERM)


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
