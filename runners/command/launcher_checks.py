"""The range of every option of a sweep's launcher; imports no torch."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from runners.command.ranges import Check, check, number, one_of, text, text_or_null, whole, whole_or_null
from runners.process.errors import ConfigError


def _slurm_name(option: str, example: str) -> Iterator[Check]:
    key = f"hydra.launcher.{option}"
    yield key, text_or_null, "a name that the cluster knows, or null for its own choice", f"{key}={example}"


# Of the launchers of sweeps.
LAUNCHER_CHECKS: tuple[Check, ...] = (
    (
        "hydra.launcher.devices",
        lambda v: v in ("auto", "cpu") or isinstance(v, list) and bool(v) and all(map(whole(0), v)),
        "auto, cpu, or a list of GPUs counted from 0",
        "hydra.launcher.devices=[0,1]",
    ),
    ("hydra.launcher.per_device", whole(1), "a whole number from 1 on", "hydra.launcher.per_device=4"),
    ("hydra.launcher.warm", one_of("auto", True, False), "auto, true or false", "hydra.launcher.warm=false"),
    ("hydra.launcher.retries", whole(0), "a whole number from 0 on", "hydra.launcher.retries=2"),
    *_slurm_name("partition", "gpu"),
    *_slurm_name("account", "lab"),
    *_slurm_name("gres", "shard:1"),
    *_slurm_name("qos", "normal"),
    *_slurm_name("constraint", "a100"),
    *_slurm_name("exclude", "n1,n2"),
    ("hydra.launcher.gpus_per_node", whole_or_null, "a whole number from 1 on, or null", "hydra.launcher.gpus_per_node=1"),
    ("hydra.launcher.cpus_per_task", whole_or_null, "a whole number from 1 on, or null", "hydra.launcher.cpus_per_task=4"),
    (
        "hydra.launcher.mem_gb",
        lambda v: v is None or number(v) and v > 0,
        "a number above 0, or null",
        "hydra.launcher.mem_gb=16",
    ),
    ("hydra.launcher.timeout_min", whole(1), "a whole number of minutes from 1 on", "hydra.launcher.timeout_min=60"),
    ("hydra.launcher.array_parallelism", whole(1), "a whole number from 1 on", "hydra.launcher.array_parallelism=256"),
    ("hydra.launcher.max_num_timeout", whole(0), "a whole number from 0 on", "hydra.launcher.max_num_timeout=100"),
    ("hydra.launcher.signal_delay_s", whole(1), "a whole number of seconds from 1 on", "hydra.launcher.signal_delay_s=120"),
    (
        "hydra.launcher.setup",
        lambda v: isinstance(v, list) and all(map(text, v)),
        "a list of lines of shell",
        "hydra.launcher.setup=['module load cuda']",
    ),
    (
        "hydra.launcher.additional_parameters",
        lambda v: isinstance(v, Mapping),
        "options of sbatch with their values",
        "+hydra.launcher.additional_parameters.mail-type=END",
    ),
    ("hydra.launcher.detach", one_of(True, False), "true or false", "detach=true"),
)


def check_launcher(launcher: Mapping[str, Any], device: Any, *, detach: Any) -> None:
    """Checks the options of a sweep's launcher, and that jobs leave the choice of a GPU to it.

    Raises:
        ConfigError: the first value outside its range, or options that contradict each other.
    """
    check({"hydra": {"launcher": launcher}}, LAUNCHER_CHECKS)
    slots, slurm = "per_device" in launcher, "partition" in launcher
    if (slots or slurm) and str(device).startswith("cuda:"):
        how = f"hydra.launcher.devices=[{str(device).removeprefix('cuda:')}]" if slots else "device=cuda"
        raise ConfigError(
            f"device={device}: the jobs of a sweep are given their GPUs, and each sees one; auto, cpu or cuda are allowed; "
            f"try {how}"
        )
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
