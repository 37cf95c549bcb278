"""Where numbers come from: code, versions, hardware."""

import hashlib
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "numpy", "scipy", "pandas", "timm", "scikit-learn")


def facts(root: Path, device: torch.device) -> dict[str, Any]:
    """Commit, versions and hardware of this process, as plain values for `run.json`."""
    return {
        "command": sys.argv,
        "code": _code(root),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hardware": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
            "machine": platform.machine(),
            "system": platform.platform(),
            "threads": torch.get_num_threads(),
            "cuda": torch.version.cuda if device.type == "cuda" else None,
        },
    }


def peak_memory_mb(device: torch.device) -> dict[str, float]:
    """The most memory this process has held so far (in a sweep, earlier jobs included), and this run on the device."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6}
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device) / 1e6
    return {place: round(value, 1) for place, value in peak.items()}


def _code(root: Path) -> dict[str, Any]:
    """Commit and uncommitted changes; nulls where this is no git checkout."""
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        changes = _git(root, "status", "--porcelain") + _git(root, "diff", "HEAD")
        untracked = _git(root, "ls-files", "--others", "--exclude-standard", "-z").split("\0")
        changes += "".join(hashlib.sha256((root / name).read_bytes()).hexdigest() for name in untracked if name)
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None, "diff_sha256": None}
    found = hashlib.sha256(changes.encode()).hexdigest() if changes else None
    return {"commit": commit, "dirty": bool(changes), "diff_sha256": found}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
