"""The range of every option of a run, how to say it, and an example; imports no torch."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from runners.command.ranges import Check, check, number, numbers, one_of, share, text, text_or_null, whole
from runners.process.errors import ConfigError

MAX_SEED = 2**63 - 1


def _plain_name(value: Any) -> bool:
    """Part of the run folder's name."""
    return isinstance(value, str) and re.fullmatch(r"\w[\w.-]{0,99}", value, re.ASCII) is not None


def _recipe_checks(section: str) -> Iterator[Check]:
    yield f"{section}.epochs", whole(0), "a whole number from 0 on", f"{section}.epochs=2"
    yield (
        f"{section}.batch_size",
        whole(2),
        "a whole number from 2 on (BatchNorm needs two)",
        f"{section}.batch_size=128",
    )
    yield f"{section}.lr", lambda v: number(v) and v > 0, "a number above 0", f"{section}.lr=0.1"
    yield (
        f"{section}.weight_decay",
        lambda v: number(v) and v >= 0,
        "a number from 0 on",
        f"{section}.weight_decay=1e-4",
    )
    yield f"{section}.crop_padding", whole(0), "a whole number of pixels from 0 on", f"{section}.crop_padding=4"
    yield f"{section}.flip", one_of(True, False), "true or false", f"{section}.flip=false"


def _ratio(value: Any) -> bool:
    return number(value) and 0 <= value < 1


def _layer(value: Any) -> bool:
    return text(value) or whole(1)(value)


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
    ("after", one_of("finetune", "scratch_e", "scratch_b"), "finetune, scratch_e or scratch_b", "after=finetune"),
    ("runner.rounds", whole(1), "a whole number from 1 on", "runner.rounds=5"),
    ("runner.pace", one_of("linear", "geometric"), "linear or geometric", "runner.pace=linear"),
    ("scope", one_of("layer", "global"), "layer or global", "scope=layer"),
    (
        "rounding",
        one_of("floor_pruned", "floor_kept", "nearest"),
        "floor_pruned, floor_kept or nearest",
        "rounding=floor_pruned",
    ),
    (
        "min_keep",
        lambda v: whole(1)(v) or share(v),
        "a whole number from 1 on (a layer never loses its last filter), or a share above 0 and below 1",
        "min_keep=1",
    ),
    ("start_layer", whole(0), "a whole number of convolutions from 0 on", "start_layer=0"),
    (
        "skip",
        lambda v: isinstance(v, list) and all(map(_layer, v)),
        "a list of layers by name, pattern or index",
        "skip=[conv1]",
    ),
    (
        "normalise",
        one_of("none", "mean", "l2", "max", "sqrt_dim", "zscore", "rank"),
        "none, mean, l2, max, sqrt_dim, zscore or rank",
        "normalise=none",
    ),
    ("budget", one_of("filters", "params", "macs"), "filters, params or macs", "budget=filters"),
    ("coupled", one_of("skip", "group", "mask"), "skip, group or mask", "coupled=skip"),
    ("seed", whole(0, MAX_SEED), "a whole number from 0 to 2^63 - 1", "seed=0"),
    (
        "device",
        lambda v: isinstance(v, str) and re.fullmatch(r"auto|cpu|cuda(:\d+)?", v) is not None,
        "auto, cpu, cuda or cuda:0, cuda:1, ...",
        "device=cpu",
    ),
    ("precision", one_of("auto", "fp32", "bf16"), "auto, fp32 or bf16", "precision=fp32"),
    ("compile", one_of(True, False), "true or false", "compile=true"),
    ("cuda_graph", one_of("auto", False), "auto or false", "cuda_graph=false"),
    ("threads", lambda v: v == "auto" or whole(1)(v), "auto or a whole number from 1 on", "threads=2"),
    ("tensorboard", one_of(True, False), "true or false", "tensorboard=true"),
    ("rerun", one_of(True, False), "true or false", "rerun=true"),
    ("debug", one_of(True, False), "true or false", "debug=true"),
    ("hang_minutes", lambda v: v is None or number(v) and v > 0, "a number of minutes above 0, or null", "hang_minutes=60"),
    ("sweep", text_or_null, "the folder of a sweep, or null for the newest", "sweep=outputs/sweeps/NAME"),
    ("runner.verify", one_of(True, False), "true or false", "runner.verify=true"),
    ("shared_store", one_of(True, False), "true or false", "shared_store=true"),
    ("allow_code_drift", one_of(True, False), "true or false", "allow_code_drift=true"),
    ("detach", one_of(True, False), "true or false", "detach=true"),
    (
        "dataset.score_share",
        lambda v: number(v) and 0 < v <= 1,
        "a share of the training images above 0, up to 1",
        "dataset.score_share=0.1",
    ),
    ("score_batch_size", whole(1), "a whole number of images from 1 on", "score_batch_size=128"),
    ("weights", text_or_null, "a file, or null to train (an unset shell variable is neither)", "weights=null"),
    ("data_root", text_or_null, "a folder, or null to download", "data_root=null"),
    ("outputs", text, "a folder", "outputs=outputs"),
    ("store", text, "a folder", "store=outputs/store"),
    ("lock", one_of("auto", "flock", "lease", "none"), "auto, flock, lease or none", "lock=auto"),
    (
        "runner.ratios",
        lambda v: isinstance(v, list) and len(v) > 0 and all(map(_ratio, v)),
        "a list of shares from 0 up to but not 1",
        "runner.ratios=[0.3,0.5]",
    ),
    ("runner.repeats", whole(2), "a whole number from 2 on (one repeat has no spread)", "runner.repeats=20"),
    (
        "runner.window",
        lambda v: isinstance(v, list) and len(v) == 2 and all(map(number, v)) and 0 <= v[0] < v[1] <= 1,
        "a lower and a higher quantile of scores, from 0 to 1 (all filters)",
        "runner.window=[0,1]",
    ),
    (
        "runner.vary",
        lambda v: isinstance(v, list) and len(v) == len(set(map(str, v))) > 0 and all(map(one_of("filters", "seeds"), v)),
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
    ("model.pretrained", one_of(False), "false; weights come from a file, by its content", "weights=FILE"),
    ("model.weights", lambda v: v is None, "null; weights come from a file, by its content", "weights=FILE"),
    ("model.shortcut", one_of("pad", "pad_end", "conv"), "pad, pad_end or conv", "model.shortcut=pad"),
    ("optimizer.momentum", lambda v: number(v) and 0 <= v < 1, "a number from 0 up to but not 1", "optimizer.momentum=0.9"),
    ("dataset.num_classes", whole(2), "a whole number from 2 on", "dataset.num_classes=10"),
    ("dataset.channels", whole(1), "a whole number from 1 on", "dataset.channels=3"),
    ("dataset.image_size", whole(1, 4096), "a whole number of pixels from 1 to 4096", "dataset.image_size=16"),
    ("dataset.num_images", whole(4), "a whole number from 4 on", "dataset.num_images=64"),
    ("dataset.test_share", share, "a share above 0 and below 1", "dataset.test_share=0.2"),
    ("dataset.mean", numbers(-math.inf), "a list of numbers, one a channel", "dataset.mean=[0.5]"),
    ("dataset.std", numbers(0), "a list of numbers above 0, one a channel", "dataset.std=[0.25]"),
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
    ("threshold", lambda v: number(v) and v >= 0, "a number from 0 on", "1e-4"),
    ("bins", whole(2), "a whole number from 2 on", "100"),
    ("site", one_of("post_act", "conv_out"), "post_act or conv_out", "post_act"),
    ("images", lambda v: v is None or whole(1)(v), "a whole number from 1 on, or null for all", "500"),
    ("norm", one_of(1, 2), "1 or 2", "1"),
    ("seed", whole(0, MAX_SEED), "a whole number from 0 to 2^63 - 1", "0"),
    (
        "members",
        lambda v: isinstance(v, list) and len(v) == len(set(map(str, v))) >= 2 and all(map(text, v)),
        "a list of two or more criteria that are compared, each once",
        "[l1,gm]",
    ),
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
    check(config, (*CHECKS, *of_criteria))
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
