"""Devices that the jobs of a sweep may use, and the CPU threads of each job; imports no torch."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from runners.process.errors import ConfigError


@dataclass(frozen=True)
class Slot:
    """Room for one job at a time.

    Args:
        device: of CUDA, as an entry of CUDA_VISIBLE_DEVICES; None is a CPU.
        threads: of the CPU, for this slot's job.
    """

    device: str | None
    threads: int

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that tell the job's process of its slot."""
        visible = {} if self.device is None else {"CUDA_VISIBLE_DEVICES": self.device}
        return {"OMP_NUM_THREADS": str(self.threads), **visible}


def slots(asked: str | Sequence[int], *, per_device: int) -> list[Slot]:
    """`per_device` slots on each of the devices; one CPU is the device where there is no GPU or none is asked for.

    Args:
        asked: `auto` is every visible GPU, `cpu` none, and numbers count the visible ones from 0.

    Raises:
        ConfigError: a device that is not visible.
    """
    devices = [] if asked == "cpu" else visible_gpus()
    if asked not in ("auto", "cpu"):
        if beyond := [number for number in asked if not 0 <= int(number) < len(devices)]:
            raise ConfigError(
                f"hydra.launcher.devices={list(asked)}: GPU {beyond[0]} is not visible; {len(devices)} are "
                f"({', '.join(devices) or 'none'}); choose their places from 0, auto, or cpu"
            )
        devices = [devices[int(number)] for number in asked]
    number = max(1, len(devices)) * per_device
    return [Slot(device, _threads(number)) for device in devices or [None] for _ in range(per_device)]


def visible_gpus() -> list[str]:
    """Names of the GPUs as CUDA_VISIBLE_DEVICES lists them: an outer allocation's list, or all that the driver knows."""
    outer = os.environ.get("CUDA_VISIBLE_DEVICES")
    if outer is not None:
        return [name.strip() for name in outer.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    return answer.stdout.split() if answer.returncode == 0 else []


def _threads(number: int) -> int:
    """Equal share of the CPUs that this process may use; the user's own OMP_NUM_THREADS stands."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Not every cluster binds a job to the CPUs that it has given it.
    allowed = min(allowed, int(os.environ.get("SLURM_CPUS_ON_NODE", allowed)))
    return int(given) if given.isdigit() else max(1, allowed // number)
