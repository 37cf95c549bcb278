"""The options of a sweep's launcher; imports no torch."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from runners.command.checks import check_function
from runners.process.errors import ConfigError


def check_launcher(launcher: Mapping[str, Any], device: Any, *, detach: Any) -> None:
    """Checks the options of a sweep's launcher, and that jobs leave the choice of a GPU to it.

    Raises:
        ConfigError: the first value outside its range, or options that contradict each other.
    """
    if launcher["_target_"].startswith("hydra_plugins.prunescope."):
        check_function({"detach": detach}, "hydra.launcher", launcher)
    slots, slurm = "per_device" in launcher, "partition" in launcher
    if (slots or slurm) and str(device).startswith("cuda:"):
        how = f"hydra.launcher.devices=[{str(device).removeprefix('cuda:')}]" if slots else "device=cuda"
        raise ConfigError(f"device={device}: each job of a sweep sees one GPU; auto, cpu or cuda are allowed; try {how}")
    if slurm:
        _check_slurm(launcher)
    elif detach:
        raise ConfigError("detach=true is of sweeps on Slurm; here the jobs end with their sweep; try hydra/launcher=slurm")


def _check_slurm(launcher: Mapping[str, Any]) -> None:
    if not find_spec("hydra_plugins.hydra_submitit_launcher"):
        raise ConfigError("hydra/launcher=slurm needs submitit, which is not installed; pip install -e '.[slurm]'")
    if launcher["gres"] and launcher["gpus_per_node"]:
        raise ConfigError(
            f"hydra.launcher.gres={launcher['gres']} with hydra.launcher.gpus_per_node={launcher['gpus_per_node']} asks twice; "
            "one of them is allowed; try hydra.launcher.gpus_per_node=null"
        )
    if launcher["signal_delay_s"] >= launcher["timeout_min"] * 60:
        raise ConfigError(
            f"hydra.launcher.signal_delay_s={launcher['signal_delay_s']} leaves no time to work in; it is less than "
            f"hydra.launcher.timeout_min={launcher['timeout_min']} minutes; try hydra.launcher.timeout_min=60"
        )
