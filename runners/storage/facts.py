"""Provenance of numbers: code, versions, hardware."""

import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from runners.storage.code import code

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "numba", "numpy", "scipy", "pandas", "timm", "scikit-learn")


def facts(root: Path, device: torch.device) -> dict[str, Any]:
    """Commit, versions and hardware of this process, as plain values for `run.json`."""
    return {
        "command": sys.argv,
        "code": code(root),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "hardware": {
            "device": _name(device),
            "machine": platform.machine(),
            "system": platform.platform(),
            "threads": torch.get_num_threads(),
            "cuda": torch.version.cuda if device.type == "cuda" else None,
        },
    }


def numerics(device: torch.device) -> str:
    """Numerics class, on which rounding depends: results of one class repeat bit for bit, others to within rounding."""
    cuda = f", CUDA {torch.version.cuda}" if device.type == "cuda" else ""
    return f"{_name(device)}, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}{cuda}"


def peak_memory_mb(device: torch.device) -> dict[str, float]:
    """The most memory this process has held so far (in a sweep, earlier jobs included), and this run on the device."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6}
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device) / 1e6
    return {place: round(value, 1) for place, value in peak.items()}


def _version(package: str) -> str | None:
    """None for what is not installed: a run that needs none of it is no worse for that."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
