"""Locks on results: one process makes a result, and others that need it wait instead of making it too.

They save work, nothing is wrong without them: of 64 processes that need one network, 64 train it without locks, one with.
"""

import errno
import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLease, Timeout

from runners.process.interruption import stop_if_requested
from runners.storage.files import now

log = logging.getLogger(__name__)
CHOICES = ("auto", "flock", "lease", "none")
# A holder refreshes its lease every third of this; one that has not for so long is taken to be gone.
LEASE_SECONDS = 120.0
LEASES_FORSAKEN = 4 / 3  # after so many, a lease that filelock did not take over is removed
POLL_SECONDS = (0.02, 1.0)  # the first pause between two tries, and the longest
UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
MOUNTS = Path("/proc/self/mounts")
# Where flock of one host may not be seen by another.
NETWORK = re.compile(
    r"(nfs|cifs|smb|ncpfs|lustre|gpfs|beegfs|ceph|glusterfs|gfs2|ocfs2|orangefs|pvfs2|panfs|wekafs|afs|9p|virtiofs|vboxsf|"
    r"fuse\.).*"
)


def file_system(folder: Path) -> str:
    """The type of the file system that `folder` lies in, as the kernel names it; empty where that cannot be asked."""
    try:
        mounts = [line.split() for line in MOUNTS.read_text().splitlines()]
    except OSError:
        return ""
    place = folder.resolve()
    # Spaces and the like are octal there. Of two mounts in one place the later covers the earlier.
    points = [(re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), mount[1]), mount[2]) for mount in mounts]
    inside = [(point, kind) for point, kind in points if place == Path(point) or Path(point) in place.parents]
    return max(enumerate(inside), key=lambda found: (len(found[1][0]), found[0]))[1][1] if inside else ""


def kinds(choice: str, folder: Path) -> list[str]:
    """The kinds of lock to try in `folder`, the best first."""
    if choice != "auto":
        return [] if choice == "none" else [choice]
    return ["lease"] if NETWORK.fullmatch(file_system(folder)) else ["flock", "lease"]


@dataclass(frozen=True)
class Locks:
    """Locks in a folder, one a result.

    Args:
        choice: one of `CHOICES`; auto is flock, which the kernel takes from a dead process, on local file systems, and a
            lease, which a dead process loses after `LEASE_SECONDS`, on network ones and wherever there is no flock.
    """

    folder: Path
    choice: str = "auto"

    @contextmanager
    def held(self, kind: str, key: str, *, unless: Callable[[], bool]) -> Iterator[None]:
        """The block runs while no other process holds the lock of this result, or as soon as `unless` is true.

        It also runs where no lock can be made, with a warning.

        Raises:
            Preempted: a signal came while it waited.
        """
        claim = self._claim(kind, key, unless)
        try:
            yield
        finally:
            if claim:
                claim.release()

    def _claim(self, kind: str, key: str, unless: Callable[[], bool]) -> "Claim | None":
        for lock in kinds(self.choice, self.folder):
            try:
                claim = Claim(self.folder, lock, kind, key)
                return claim if claim.wait(unless) else None
            except (OSError, ValueError, RuntimeError) as error:
                if not (isinstance(error, OSError) and error.errno in UNSUPPORTED and self.choice == "auto"):
                    _warn(self.folder, lock, str(error))
                    return None
        if self.choice != "none":
            _warn(self.folder, "lock", "this file system has none")
        return None


class Claim:
    """One process's claim to make one result.

    Args:
        lock: flock or lease. Their files have different names: a host that sees the store as a local disk must not leave
            a file that the others would take for a lease.
        kind: of the result.
        key: of the result.
    """

    def __init__(self, folder: Path, lock: str, kind: str, key: str) -> None:
        self.label = f"{kind} ({key[:10]})"
        self.path = folder / f"{kind}-{key}.{lock}"
        self.about = folder / f"{kind}-{key}.json"
        folder.mkdir(parents=True, exist_ok=True)
        if lock == "flock":
            self.lock: FileLock | SoftFileLease = FileLock(self.path, fallback_to_soft=False)
        else:
            self.lock = SoftFileLease(self.path, lease_duration=LEASE_SECONDS)
        self.seen, self.since = (0, 0.0), time.monotonic()

    def wait(self, unless: Callable[[], bool]) -> bool:
        """True if the lock was taken before `unless` came true.

        Raises:
            OSError: no such lock can be made here.
            Preempted: a signal came.
        """
        pause, longest = POLL_SECONDS
        told = False
        while not self._try():
            if unless():
                return False
            stop_if_requested(f"while another process made {self.label}")
            if not told:
                log.info(f"{self.label}: {self._holder()} is making it; waits for that")
                told = True
            self._forget_if_forsaken()
            time.sleep(pause)
            pause = min(longest, 1.5 * pause)
        self._sign()
        return True

    def release(self) -> None:
        """Lets the next one in. The file of a flock goes as well: a later holder makes a new one."""
        with suppress(OSError):
            self.about.unlink(missing_ok=True)
            if isinstance(self.lock, FileLock):
                self.path.unlink(missing_ok=True)
        with suppress(OSError):
            self.lock.release()

    def _try(self) -> bool:
        try:
            self.lock.acquire(blocking=False)
        except Timeout:
            return False
        return True

    def _sign(self) -> None:
        """Leaves a note for those who will wait."""
        note = {"host": socket.gethostname(), "pid": os.getpid(), "since": now()}
        with suppress(OSError):
            self.about.write_text(json.dumps(note))

    def _holder(self) -> str:
        note = self._note()
        return f"process {note['pid']} on {note['host']} (since {note['since']})" if note else "another process"

    def _note(self) -> dict[str, Any]:
        """The holder's note about itself; empty while it has only just begun."""
        try:
            note = json.loads(self.about.read_text())
            return {"host": str(note["host"]), "pid": int(note["pid"]), "since": str(note["since"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _forget_if_forsaken(self) -> None:
        """Removes a lease whose maker is gone, where filelock cannot.

        filelock takes over by exchanging two names, which network file systems refuse, and waits for ever for one who died
        before he had written his name. Gone is a process of this host that no longer runs, and whoever has refreshed
        nothing for `LEASES_FORSAKEN` leases by the clock of this process.
        """
        if isinstance(self.lock, FileLock):
            return
        with suppress(OSError):
            lease, found = self.path.read_bytes(), self.path.stat()
            if (found.st_ino, found.st_mtime) != self.seen:
                self.seen, self.since = (found.st_ino, found.st_mtime), time.monotonic()
            if self._maker_has_died() or time.monotonic() - self.since > LEASES_FORSAKEN * LEASE_SECONDS:
                self._remove(lease)

    def _remove(self, lease: bytes) -> None:
        """Removes this lease, but not the next one, which another waiter may hold by now: one waiter at a time looks again."""
        going = self.path.with_suffix(".going")
        try:
            going.touch(exist_ok=False)
        except FileExistsError:
            if time.monotonic() - self.since > 2 * LEASES_FORSAKEN * LEASE_SECONDS:
                going.unlink()  # its maker has died as well
            return
        try:
            if self.path.read_bytes() == lease:
                self.path.unlink()
        finally:
            going.unlink()

    def _maker_has_died(self) -> bool:
        """True if the lease is that of a process of this host that no longer runs."""
        note = self._note()
        # The note may still be that of the maker before.
        if note.get("host") != socket.gethostname() or note.get("pid") != self.lock.pid:
            return False
        try:
            os.kill(note["pid"], 0)
        except ProcessLookupError:
            return True
        return False


@cache
def _warn(folder: Path, lock: str, reason: str) -> None:
    """Once a process is enough."""
    log.warning(f"no {lock} in {folder} ({reason}); two runs that need the same result may both make it, which changes nothing")
