"""Store, locks, devices, data and Slurm of this place, tried out before a sweep in about ten seconds.

Without it a disk on which locks do not hold is noticed by the bill only: 64 processes that needed one network trained it 64
times with `lock=none`, and 1.2 times with locks (benchmarks/results/reliability.md).
"""

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from runners.looking.datasets import state
from runners.looking.seen import Seen
from runners.process.errors import ResourceError, StoreError, first_line, some
from runners.storage.files import write_atomic
from runners.storage.locks import file_system
from runners.storage.store import Store, is_whole

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "torchvision", "hydra-core", "filelock")
SHOWN = 3
LOW_GB = 5
Verdict = Literal["ok", "warning", "failed"]
VERDICTS: tuple[Verdict, ...] = ("ok", "warning", "failed")
# Takes the lock, says so, and keeps it for a minute.
HOLD = """
import sys, time
from pathlib import Path
from runners.storage.locks import Locks
with Locks(Path(sys.argv[1]), sys.argv[2]).held("doctor", "probe", unless=lambda: False):
    print("held", flush=True)
    time.sleep(60)
"""


class Finding(NamedTuple):
    """The verdict on a thing that was checked, and one line about it."""

    verdict: Verdict
    line: str


def run(
    *, store: str, outputs: str, names: Mapping[str, str], dataset: Mapping[str, Any], device: str, verify: bool, lock: str
) -> Seen:
    """All findings, one a line, and the worst verdict.

    Args:
        names: of the chosen files; `dataset` is what the one of the data set says.
        verify: reads every stored result and checks its hashes, too.
    """
    checks: dict[str, Callable[[], Finding]] = {
        "versions": versions,
        "store": lambda: takes_files("store", Path(store)),
        "outputs": lambda: takes_files("outputs", Path(outputs)),
        "lock": lambda: excludes(Path(store), lock),
        "devices": lambda: devices(device),
        "data": lambda: data(names["dataset"], dataset),
        "slurm": slurm,
        **({"stored results": lambda: verified(Path(store))} if verify else {}),
    }
    found = {what: _checked(check) for what, check in checks.items()}
    width, verdict = max(map(len, found)), worst(found.values())
    lines = [f"{finding.verdict:<8} {what:<{width}}  {finding.line}" for what, finding in found.items()]
    return Seen("\n".join([*lines, f"verdict: {verdict}"]), ResourceError.exit_code if verdict == "failed" else 0)


def worst(found: Iterable[Finding]) -> Verdict:
    """The worst verdict of all findings."""
    return max(found, key=lambda finding: VERDICTS.index(finding.verdict), default=Finding("ok", "")).verdict


def _checked(check: Callable[[], Finding]) -> Finding:
    """A check's finding, or that it broke; the other checks go on."""
    try:
        return check()
    except Exception as error:
        return Finding("failed", f"{type(error).__name__}: {first_line(error)}")


def versions() -> Finding:
    """The versions of Python and of the packages that numbers depend on."""
    found = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return Finding("ok", f"Python {sys.version.split()[0]}, {found}")


def takes_files(what: str, folder: Path) -> Finding:
    """Tries to write a file twice as the store does: under another name, put to disk, renamed onto the old one."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".doctor-{os.getpid()}"
    try:
        for content in (b"old", b"new"):
            write_atomic(probe, content)
        replaced = probe.read_bytes() == b"new"
    finally:
        probe.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free / 1e9
    about = f"{folder} on {file_system(folder) or 'an unknown file system'}, {free:.1f} GB free"
    if not replaced:
        return Finding("failed", f"{about}; renaming onto a file does not replace it; choose another {what}=DIR")
    if free < LOW_GB:
        return Finding("warning", f"{about}; less than {LOW_GB} GB")
    return Finding("ok", about)


def excludes(store: Path, choice: str) -> Finding:
    """Lets two processes ask for one lock: the second has to wait, and to go on as soon as the first is killed."""
    if choice == "none":
        return Finding("warning", "lock=none: two runs that need the same network both train it")
    folder = store / "locks"
    processes = [_hold(folder, choice)]
    try:
        if not _says_held(processes[0], 4):
            return Finding("warning", f"no lock can be taken in {folder}; runs may train the same network twice")
        kind = next((path.suffix[1:] for path in folder.glob("doctor-probe.*") if path.suffix != ".json"), "no lock")
        processes.append(_hold(folder, choice))
        if _says_held(processes[1], 1.5):
            advice = "results stay right, but work is done twice; try another lock="
            return Finding("warning", f"{kind} does not keep two processes apart in {folder}; {advice}")
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait()
        if not _says_held(processes[1], 4):
            return Finding("warning", f"{kind}: the lock of a killed process is not free after 4 s")
        return Finding("ok", f"{kind}: of two processes one waits, and goes on when the other is killed")
    finally:
        for process in processes:
            process.kill()
            process.communicate()
        for path in folder.glob("doctor-probe.*"):
            path.unlink(missing_ok=True)


def _hold(folder: Path, choice: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-c", HOLD, str(folder), choice]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _says_held(process: subprocess.Popen[bytes], seconds: float) -> bool:
    assert process.stdout is not None
    return bool(select.select([process.stdout], [], [], seconds)[0]) and process.stdout.readline() == b"held\n"


def devices(device: str) -> Finding:
    """The devices that torch sees, and their ability to multiply bf16."""
    import torch  # seconds; last of what the other checks need

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= len(names):
        return Finding("failed", f"device={device}, and torch sees {len(names)} CUDA devices; try device=cpu")
    if not names:
        return Finding("ok", f"no CUDA device; the CPU with {torch.get_num_threads()} threads")
    bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
    return Finding("ok", f"{len(names)} x {', '.join(sorted(set(names)))}, {bf16}; CUDA {torch.version.cuda}")


def data(name: str, dataset: Mapping[str, Any]) -> Finding:
    """The state of the chosen data set, its files compared with their published checksums."""
    found = state(dataset)
    return Finding(
        "failed" if found.state in ("missing", "other files") else "ok", f"dataset={name} is {found.state}: {found.line}"
    )


def slurm() -> Finding:
    """Asks Slurm and its accounting, which have two seconds to answer."""
    if not shutil.which("sinfo"):
        return Finding("ok", "no Slurm here; sweeps run on this machine's own devices")
    silent = [command[0] for command in (["sinfo", "-h"], ["sacct", "-n", "-X"]) if not _answers(command)]
    if silent:
        return Finding("warning", f"{' and '.join(silent)} did not answer within 2 s; jobs may still run")
    return Finding("ok", "sinfo and sacct answer")


def _answers(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=2).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def verified(store: Path) -> Finding:
    """Compares every stored result with its hashes; nothing is changed."""
    entries = list(Store(store).entries())
    wrong = [f"{entry.parent.parent.name} {entry.name[:10]}" for entry in entries if not _whole(entry)]
    if wrong:
        advice = "the next run that needs one sets it aside and makes it anew"
        return Finding("failed", f"{len(wrong)} of {len(entries)} are damaged ({some(wrong, SHOWN)}); {advice}")
    return Finding("ok", f"all {len(entries)} have their hashes")


def _whole(entry: Path) -> bool:
    try:
        return is_whole(entry)
    except (OSError, StoreError):
        return False
