"""The range of every value of a config, how to say it, and an example; imports no torch."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from runners.errors import ConfigError

MAX_SEED = 2**63 - 1

# config key, what is right, how to say so, an example
Check = tuple[str, Callable[[Any], bool], str, str]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(least: int, most: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _one_of(*choices: Any) -> Callable[[Any], bool]:
    return lambda value: value in choices and type(value) in {type(choice) for choice in choices}


def _numbers(least: float) -> Callable[[Any], bool]:
    """A list of finite numbers above `least`."""
    return lambda value: isinstance(value, list) and len(value) > 0 and all(_number(v) and v > least for v in value)


def _text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _text_or_null(value: Any) -> bool:
    return value is None or _text(value)


def _whole_or_null(value: Any) -> bool:
    return value is None or _whole(1)(value)


def _slurm_name(option: str, example: str) -> Iterator[Check]:
    key = f"hydra.launcher.{option}"
    yield key, _text_or_null, "a name that the cluster knows, or null for its own choice", f"{key}={example}"


def _plain_name(value: Any) -> bool:
    """Part of the run folder's name."""
    return isinstance(value, str) and re.fullmatch(r"\w[\w.-]{0,99}", value, re.ASCII) is not None


def _share(value: Any) -> bool:
    return _number(value) and 0 < value < 1


def _recipe_checks(section: str) -> Iterator[Check]:
    yield f"{section}.epochs", _whole(0), "a whole number from 0 on", f"{section}.epochs=2"
    yield (
        f"{section}.batch_size",
        _whole(2),
        "a whole number from 2 on (BatchNorm needs two)",
        f"{section}.batch_size=128",
    )
    yield f"{section}.lr", lambda v: _number(v) and v > 0, "a number above 0", f"{section}.lr=0.1"
    yield (
        f"{section}.weight_decay",
        lambda v: _number(v) and v >= 0,
        "a number from 0 on",
        f"{section}.weight_decay=1e-4",
    )
    yield f"{section}.crop_padding", _whole(0), "a whole number of pixels from 0 on", f"{section}.crop_padding=4"
    yield f"{section}.flip", _one_of(True, False), "true or false", f"{section}.flip=false"


def _ratio(value: Any) -> bool:
    return _number(value) and 0 <= value < 1


def _layer(value: Any) -> bool:
    return _text(value) or _whole(1)(value)


def _ratios(value: Any) -> bool:
    """A share, or a share for each of some layers."""
    if isinstance(value, Mapping):
        return len(value) > 0 and all(_layer(key) and _ratio(share) for key, share in value.items())
    return _ratio(value)


CHECKS: tuple[Check, ...] = (
    (
        "ratio",
        _ratios,
        "a share of filters to remove, from 0 up to but not 1 (which would remove every filter), or layers with their shares",
        "ratio=0.5",
    ),
    ("after", _one_of("finetune", "scratch_e", "scratch_b"), "finetune, scratch_e or scratch_b", "after=finetune"),
    ("runner.rounds", _whole(1), "a whole number from 1 on", "runner.rounds=5"),
    ("runner.pace", _one_of("linear", "geometric"), "linear or geometric", "runner.pace=linear"),
    ("scope", _one_of("layer", "global"), "layer or global", "scope=layer"),
    (
        "rounding",
        _one_of("floor_pruned", "floor_kept", "nearest"),
        "floor_pruned, floor_kept or nearest",
        "rounding=floor_pruned",
    ),
    (
        "min_keep",
        lambda v: _whole(1)(v) or _share(v),
        "a whole number from 1 on (a layer never loses its last filter), or a share above 0 and below 1",
        "min_keep=1",
    ),
    ("start_layer", _whole(0), "a whole number of convolutions from 0 on", "start_layer=0"),
    (
        "skip",
        lambda v: isinstance(v, list) and all(map(_layer, v)),
        "a list of layers by name, pattern or index",
        "skip=[conv1]",
    ),
    (
        "normalise",
        _one_of("none", "mean", "l2", "max", "sqrt_dim", "zscore", "rank"),
        "none, mean, l2, max, sqrt_dim, zscore or rank",
        "normalise=none",
    ),
    ("budget", _one_of("filters", "params", "macs"), "filters, params or macs", "budget=filters"),
    ("coupled", _one_of("skip", "group", "mask"), "skip, group or mask", "coupled=skip"),
    ("seed", _whole(0, MAX_SEED), "a whole number from 0 to 2^63 - 1", "seed=0"),
    (
        "device",
        lambda v: isinstance(v, str) and re.fullmatch(r"auto|cpu|cuda(:\d+)?", v) is not None,
        "auto, cpu, cuda or cuda:0, cuda:1, ...",
        "device=cpu",
    ),
    ("precision", _one_of("auto", "fp32", "bf16"), "auto, fp32 or bf16", "precision=fp32"),
    ("compile", _one_of(True, False), "true or false", "compile=true"),
    ("cuda_graph", _one_of("auto", False), "auto or false", "cuda_graph=false"),
    ("tensorboard", _one_of(True, False), "true or false", "tensorboard=true"),
    ("rerun", _one_of(True, False), "true or false", "rerun=true"),
    ("debug", _one_of(True, False), "true or false", "debug=true"),
    ("hang_minutes", lambda v: v is None or _number(v) and v > 0, "a number of minutes above 0, or null", "hang_minutes=60"),
    ("sweep", _text_or_null, "the folder of a sweep, or null for the newest", "sweep=outputs/sweeps/NAME"),
    ("runner.verify", _one_of(True, False), "true or false", "runner.verify=true"),
    ("shared_store", _one_of(True, False), "true or false", "shared_store=true"),
    ("allow_code_drift", _one_of(True, False), "true or false", "allow_code_drift=true"),
    ("detach", _one_of(True, False), "true or false", "detach=true"),
    (
        "dataset.score_share",
        lambda v: _number(v) and 0 < v <= 1,
        "a share of the training images above 0, up to 1",
        "dataset.score_share=0.1",
    ),
    ("score_batch_size", _whole(1), "a whole number of images from 1 on", "score_batch_size=128"),
    ("weights", _text_or_null, "a file, or null to train (an unset shell variable is neither)", "weights=null"),
    ("data_root", _text_or_null, "a folder, or null to download", "data_root=null"),
    ("outputs", _text, "a folder", "outputs=outputs"),
    ("store", _text, "a folder", "store=outputs/store"),
    ("lock", _one_of("auto", "flock", "lease", "none"), "auto, flock, lease or none", "lock=auto"),
    (
        "runner.ratios",
        lambda v: isinstance(v, list) and len(v) > 0 and all(map(_ratio, v)),
        "a list of shares from 0 up to but not 1",
        "runner.ratios=[0.3,0.5]",
    ),
    ("runner.repeats", _whole(2), "a whole number from 2 on (one repeat has no spread)", "runner.repeats=20"),
    (
        "runner.window",
        lambda v: isinstance(v, list) and len(v) == 2 and all(map(_number, v)) and 0 <= v[0] < v[1] <= 1,
        "a lower and a higher quantile of scores, from 0 to 1 (all filters)",
        "runner.window=[0,1]",
    ),
    (
        "runner.vary",
        lambda v: isinstance(v, list) and len(v) == len(set(map(str, v))) > 0 and all(map(_one_of("filters", "seeds"), v)),
        "a list of filters, seeds or both, each once",
        "runner.vary=[filters,seeds]",
    ),
    (
        "model.model_name",
        _plain_name,
        "a network's name in timm, of letters, digits, '_', '.' and '-' (no address and no path, which could fetch code)",
        "model.model_name=resnet18",
    ),
    (
        "model.name",
        _plain_name,
        "a network's name in torchvision, of letters, digits, '_', '.' and '-'",
        "model.name=resnet18",
    ),
    # Weights that a library fetches have no hash of ours, and would be in no key.
    ("model.pretrained", _one_of(False), "false; weights come from a file, by its content", "weights=FILE"),
    ("model.weights", lambda v: v is None, "null; weights come from a file, by its content", "weights=FILE"),
    ("model.shortcut", _one_of("pad", "pad_end", "conv"), "pad, pad_end or conv", "model.shortcut=pad"),
    ("optimizer.momentum", lambda v: _number(v) and 0 <= v < 1, "a number from 0 up to but not 1", "optimizer.momentum=0.9"),
    ("dataset.num_classes", _whole(2), "a whole number from 2 on", "dataset.num_classes=10"),
    ("dataset.channels", _whole(1), "a whole number from 1 on", "dataset.channels=3"),
    ("dataset.image_size", _whole(1, 4096), "a whole number of pixels from 1 to 4096", "dataset.image_size=16"),
    ("dataset.num_images", _whole(4), "a whole number from 4 on", "dataset.num_images=64"),
    ("dataset.test_share", _share, "a share above 0 and below 1", "dataset.test_share=0.2"),
    ("dataset.mean", _numbers(-math.inf), "a list of numbers, one a channel", "dataset.mean=[0.5]"),
    ("dataset.std", _numbers(0), "a list of numbers above 0, one a channel", "dataset.std=[0.25]"),
    *_recipe_checks("recipe"),
    *_recipe_checks("finetune"),
)


# When options contradict each other: which, why, and the way out.
CONFLICTS: tuple[tuple[Callable[[Mapping[str, Any]], bool], str, str], ...] = (
    (
        lambda config: config["after"] != "finetune" and config["names"]["runner"] in ("iterative", "random_pruning"),
        "after=scratch_e or scratch_b with runner=iterative or random_pruning cannot be used; they are about fine-tuning",
        "try runner=one_shot, or after=finetune",
    ),
    (
        lambda config: isinstance(config["ratio"], Mapping) and config["scope"] == "global",
        "ratio by layer with scope=global cannot be used; shares of single layers are a matter of scope=layer",
        "try scope=layer, or one number for ratio",
    ),
    (
        lambda config: isinstance(config["ratio"], Mapping) and config["budget"] != "filters",
        "ratio by layer with a budget of the whole network cannot be used; shares of single layers are of filters",
        "try budget=filters, or one number for ratio",
    ),
    (
        lambda config: config["coupled"] == "mask" and config["budget"] != "filters",
        "coupled=mask with budget=params or macs cannot be used; filters that are only zeroed save neither",
        "try budget=filters, coupled=skip or coupled=group",
    ),
)

# Of any criterion: option, what is right, how to say so, an example.
CRITERION_CHECKS: tuple[Check, ...] = (
    ("threshold", lambda v: _number(v) and v >= 0, "a number from 0 on", "1e-4"),
    ("bins", _whole(2), "a whole number from 2 on", "100"),
    ("site", _one_of("post_act", "conv_out"), "post_act or conv_out", "post_act"),
    ("images", lambda v: v is None or _whole(1)(v), "a whole number from 1 on, or null for all", "500"),
    ("norm", _one_of(1, 2), "1 or 2", "1"),
    ("seed", _whole(0, MAX_SEED), "a whole number from 0 to 2^63 - 1", "0"),
    (
        "members",
        lambda v: isinstance(v, list) and len(v) == len(set(map(str, v))) >= 2 and all(map(_text, v)),
        "a list of two or more criteria that are compared, each once",
        "[l1,gm]",
    ),
)

# Of the launchers of sweeps.
LAUNCHER_CHECKS: tuple[Check, ...] = (
    (
        "hydra.launcher.devices",
        lambda v: v in ("auto", "cpu") or isinstance(v, list) and bool(v) and all(map(_whole(0), v)),
        "auto, cpu, or a list of GPUs counted from 0",
        "hydra.launcher.devices=[0,1]",
    ),
    ("hydra.launcher.per_device", _whole(1), "a whole number from 1 on", "hydra.launcher.per_device=4"),
    ("hydra.launcher.warm", _one_of("auto", True, False), "auto, true or false", "hydra.launcher.warm=false"),
    ("hydra.launcher.retries", _whole(0), "a whole number from 0 on", "hydra.launcher.retries=2"),
    *_slurm_name("partition", "gpu"),
    *_slurm_name("account", "lab"),
    *_slurm_name("gres", "shard:1"),
    *_slurm_name("qos", "normal"),
    *_slurm_name("constraint", "a100"),
    *_slurm_name("exclude", "n1,n2"),
    ("hydra.launcher.gpus_per_node", _whole_or_null, "a whole number from 1 on, or null", "hydra.launcher.gpus_per_node=1"),
    ("hydra.launcher.cpus_per_task", _whole_or_null, "a whole number from 1 on, or null", "hydra.launcher.cpus_per_task=4"),
    (
        "hydra.launcher.mem_gb",
        lambda v: v is None or _number(v) and v > 0,
        "a number above 0, or null",
        "hydra.launcher.mem_gb=16",
    ),
    ("hydra.launcher.timeout_min", _whole(1), "a whole number of minutes from 1 on", "hydra.launcher.timeout_min=60"),
    ("hydra.launcher.array_parallelism", _whole(1), "a whole number from 1 on", "hydra.launcher.array_parallelism=256"),
    ("hydra.launcher.max_num_timeout", _whole(0), "a whole number from 0 on", "hydra.launcher.max_num_timeout=100"),
    ("hydra.launcher.signal_delay_s", _whole(1), "a whole number of seconds from 1 on", "hydra.launcher.signal_delay_s=120"),
    (
        "hydra.launcher.setup",
        lambda v: isinstance(v, list) and all(map(_text, v)),
        "a list of lines of shell",
        "hydra.launcher.setup=['module load cuda']",
    ),
    (
        "hydra.launcher.additional_parameters",
        lambda v: isinstance(v, Mapping),
        "options of sbatch with their values",
        "+hydra.launcher.additional_parameters.mail-type=END",
    ),
    ("hydra.launcher.detach", _one_of(True, False), "true or false", "detach=true"),
)


def check_launcher(launcher: Mapping[str, Any], device: Any, *, detach: Any) -> None:
    """Checks the options of a sweep's launcher, and that jobs leave the choice of a GPU to it.

    Raises:
        ConfigError: the first value outside its range, or options that contradict each other.
    """
    _check({"hydra": {"launcher": launcher}}, LAUNCHER_CHECKS)
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


def check_config(config: Mapping[str, Any]) -> None:
    """Checks every value that has a range; a key that the config does not have is not needed by it.

    Raises:
        ConfigError: the first value outside its range, or options that contradict each other.
    """
    for section in ("criteria", "reports"):
        _check_names(section, config[section])
    criteria = ["criterion", *(f"criteria.{name}" for name in config["criteria"])]
    of_criteria = [
        (f"{section}.{key}", right, allowed, f"{section}.{key}={example}")
        for section in criteria
        for key, right, allowed, example in CRITERION_CHECKS
    ]
    _check(config, (*CHECKS, *of_criteria))
    for contradicts, what, fix in CONFLICTS:
        if contradicts(config):
            raise ConfigError(f"{what}; {fix}")


def _check_names(section: str, named: Any) -> None:
    """These names become names of files, and cells of tables."""
    if not isinstance(named, Mapping):
        raise ConfigError(f"{section}={named} cannot be used; it maps names to functions; try {section}.NAME=...")
    if wrong := [str(name) for name in named if not re.fullmatch(r"[A-Za-z_]\w{0,63}", str(name), re.ASCII)]:
        raise ConfigError(
            f"{section} has the name {wrong[0]!r}, which cannot be used; names are made of letters, digits and '_'; rename it"
        )


def _check(config: Mapping[str, Any], checks: Iterable[Check]) -> None:
    for key, right, allowed, example in checks:
        *sections, rest = key.split(".")
        section = ".".join(sections)
        place: Any = config
        for part in sections:
            place = place[part]
        if not isinstance(place, Mapping):
            group = f"recipe@{section}" if section == "finetune" else section
            raise ConfigError(f"{section}={place} is a value where a group is needed; options are files; try {group}={place}")
        if rest in place and not right(value := place[rest]):
            raise ConfigError(f"{key}={'' if value is None else value} cannot be used; it is {allowed}; try {example}")
