"""What the store asks of a disk, tried on it: files, renames, and locks between two real processes."""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from runners.looking.finding import Finding
from runners.storage.files import sync_folder
from runners.storage.locks import file_system, kinds

ROOT = Path(__file__).parents[2]
LOW_GB = 5
HOLD = """
import sys, time
from pathlib import Path
from runners.storage.locks import Locks
with Locks(Path(sys.argv[1]), sys.argv[2]).held("doctor", "probe", unless=lambda: False):
    print("held", flush=True)
    time.sleep(60)
"""


def takes_files(what: str, folder: Path) -> Finding:
    """Whether files can be made, put to disk and renamed in a folder, as the store does it."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".doctor-{os.getpid()}"
    shutil.rmtree(probe, ignore_errors=True)
    try:
        wrong = _renames(probe)
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    free = shutil.disk_usage(folder).free / 1e9
    about = f"{folder} on {file_system(folder) or 'an unknown file system'}, {free:.1f} GB free"
    if wrong:
        return Finding(what, "failed", f"{about}; {wrong}; choose another {what}=DIR")
    if free < LOW_GB:
        return Finding(what, "warning", f"{about}; less than {LOW_GB} GB")
    return Finding(what, "ok", about)


def _renames(probe: Path) -> str:
    """What is wrong with exclusive creation and renaming in a new folder `probe`; empty if nothing is."""
    old, new, full = probe / "old", probe / "new", probe / "full"
    full.mkdir(parents=True)
    for path, content in ((old, b"old"), (new, b"new"), (full / "file", b"full")):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.write(descriptor, content)
        os.fsync(descriptor)
        os.close(descriptor)
    try:
        os.close(os.open(old, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        return "a file that exists can be made once more with O_EXCL"
    except FileExistsError:
        pass
    new.rename(old)
    if old.read_bytes() != b"new" or new.exists():
        return "renaming onto a file does not replace it"
    other = probe / "other"
    other.mkdir()
    (other / "file").write_bytes(b"other")
    try:
        other.rename(full)
        return "a folder can be renamed onto one that is not empty"
    except OSError:
        pass
    sync_folder(probe)
    return "" if (full / "file").read_bytes() == b"full" else "a failed rename changed a folder"


def excludes(store: Path, choice: str) -> Finding:
    """Whether of two processes one waits for the other, and goes on as soon as that is killed."""
    if choice == "none":
        return Finding("lock", "warning", "lock=none: two runs that need the same network both train it")
    folder = store / "locks"
    kind = " or ".join(kinds(choice, folder)[:1])
    holder = _hold(folder, choice)
    waiter = None
    try:
        if not _says_held(holder, 4):
            return Finding("lock", "warning", f"{kind} cannot be taken in {folder}; runs may train the same network twice")
        used = next((path.suffix[1:] for path in folder.glob("doctor-probe.*") if path.suffix != ".json"), "no lock")
        waiter = _hold(folder, choice)
        if _says_held(waiter, 1.5):
            advice = "nothing is wrong by that, but work is done twice; try another lock="
            return Finding("lock", "warning", f"{used} does not keep two processes apart in {folder}; {advice}")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        started = time.monotonic()
        if not _says_held(waiter, 4):
            return Finding("lock", "warning", f"{used}: the lock of a killed process is not free after 4 s")
        seconds = time.monotonic() - started
        return Finding(
            "lock", "ok", f"{used}: of two processes one waits, and goes on {seconds:.1f} s after the other is killed"
        )
    finally:
        for process in filter(None, (holder, waiter)):
            process.kill()
            process.communicate()
        for path in folder.glob("doctor-probe.*"):
            path.unlink(missing_ok=True)


def _hold(folder: Path, choice: str) -> subprocess.Popen[bytes]:
    """A process that takes the lock, says so, and keeps it for a minute."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-c", HOLD, str(folder), choice]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _says_held(process: subprocess.Popen[bytes], seconds: float) -> bool:
    assert process.stdout is not None
    return bool(select.select([process.stdout], [], [], seconds)[0]) and process.stdout.readline() == b"held\n"
