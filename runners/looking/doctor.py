"""Whether store, locks, devices, data and Slurm of this place are fit for a sweep: asked by trying them."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from runners.looking.disk import excludes, takes_files
from runners.looking.finding import Finding, Verdict
from runners.looking.seen import Seen
from runners.process.errors import ResourceError, StoreError
from runners.storage.store import Store, is_whole

PACKAGES = ("torch", "torchvision", "hydra-core", "filelock")
SHOWN = 3


def run(*, store: str, outputs: str, data_root: str | None, device: str, verify: bool, lock: str) -> Seen:
    """All findings, one a line, and the verdict.

    Args:
        verify: whether every stored result is read and its hashes are checked, too.
    """
    found = doctor(Path(store), Path(outputs), Path(data_root) if data_root else None, device, lock=lock)
    found += [_verified(Path(store))] if verify else []
    return Seen(listing(found), ResourceError.exit_code if verdict(found) == "failed" else 0)


def doctor(store: Path, outputs: Path, data_root: Path | None, device: str, *, lock: str = "auto") -> list[Finding]:
    """What can be known in about ten seconds; whatever a check trips over is its finding."""
    checks: dict[str, Callable[[], Finding]] = {
        "versions": versions,
        "store": lambda: takes_files("store", store),
        "outputs": lambda: takes_files("outputs", outputs),
        "lock": lambda: excludes(store, lock),
        "devices": lambda: devices(device),
        "data": lambda: data(data_root),
        "slurm": slurm,
    }
    return [checked(what, check) for what, check in checks.items()]


def listing(found: list[Finding]) -> str:
    """Findings as a table in plain text, the worst verdict last."""
    width = max(len(finding.what) for finding in found)
    lines = [f"{finding.verdict:<8} {finding.what:<{width}}  {finding.line}" for finding in found]
    return "\n".join([*lines, f"verdict: {verdict(found)}"])


def verdict(found: list[Finding]) -> Verdict:
    """The worst of all."""
    order: tuple[Verdict, ...] = ("ok", "warning", "failed")
    return order[max((order.index(finding.verdict) for finding in found), default=0)]


def checked(what: str, check: Callable[[], Finding]) -> Finding:
    """A check's finding, or that it broke."""
    try:
        return check()
    except Exception as error:  # a doctor that falls over says nothing about the rest
        lines = str(error).strip().splitlines() or [""]
        return Finding(what, "failed", f"{type(error).__name__}: {lines[0]}")


def versions() -> Finding:
    """What is installed."""
    found = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return Finding("versions", "ok", f"Python {sys.version.split()[0]}, {found}")


def devices(device: str) -> Finding:
    """What torch computes on, and whether it multiplies bf16."""
    import torch  # seconds; last of what the other checks need

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= len(names):
        return Finding("devices", "failed", f"device={device}, and torch sees {len(names)} CUDA devices; try device=cpu")
    if not names:
        return Finding("devices", "ok", f"no CUDA device; the CPU with {torch.get_num_threads()} threads")
    bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
    return Finding("devices", "ok", f"{len(names)} x {', '.join(sorted(set(names)))}, {bf16}; CUDA {torch.version.cuda}")


def data(data_root: Path | None) -> Finding:
    """Whether CIFAR-10's files are there, with the published checksums."""
    if data_root is None:
        return Finding(
            "data", "ok", "data_root=null: CIFAR-10 is downloaded by the run that needs it; nodes may have no network"
        )
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    folder = data_root / CIFAR10.base_folder
    files = {name: md5 for name, md5 in [*CIFAR10.train_list, *CIFAR10.test_list]}
    files[str(CIFAR10.meta["filename"])] = str(CIFAR10.meta["md5"])
    wrong = [name for name, md5 in files.items() if not check_integrity(str(folder / name), md5)]
    if wrong:
        shown = ", ".join(wrong[:SHOWN]) + (f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else "")
        return Finding("data", "failed", f"{folder}: missing or not as published: {shown}; download it again")
    return Finding("data", "ok", f"{folder}: all {len(files)} files have the published checksums")


def slurm() -> Finding:
    """Whether Slurm and its accounting answer within two seconds."""
    if not shutil.which("sinfo"):
        return Finding("slurm", "ok", "no Slurm here; sweeps run on this machine's own devices")
    answers = {name: _answers(name, options) for name, options in {"sinfo": ["-h"], "sacct": ["-n", "-X"]}.items()}
    silent = [name for name, answered in answers.items() if not answered]
    if silent:
        return Finding("slurm", "warning", f"{' and '.join(silent)} did not answer within 2 s; jobs may still run")
    return Finding("slurm", "ok", "sinfo and sacct answer")


def _answers(program: str, options: list[str]) -> bool:
    try:
        return subprocess.run([program, *options], capture_output=True, timeout=2).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _verified(store: Path) -> Finding:
    return checked("stored results", lambda: verify(store))


def verify(store: Path) -> Finding:
    """Whether every stored result still has its hashes; nothing is changed."""
    entries, wrong = 0, []
    for entry in Store(store).entries():
        entries += 1
        try:
            whole = is_whole(entry)
        except (OSError, StoreError):
            whole = False
        if not whole:
            wrong.append(f"{entry.parent.parent.name} {entry.name[:10]}")
    if wrong:
        shown = ", ".join(wrong[:SHOWN]) + (f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else "")
        advice = "the next run that needs one sets it aside and makes it anew"
        return Finding("stored results", "failed", f"{len(wrong)} of {entries} are damaged ({shown}); {advice}")
    return Finding("stored results", "ok", f"all {entries} have their hashes")
