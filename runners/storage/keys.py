"""Names for results: a hash of exactly what influences each, chained from the data set to the tuned network.

Imports no torch, so that the gate and the run folder's name cost nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY_LENGTH = 32

# What changes how a result comes about, but not the result. Everything else in the config is part of a run's name.
BOOKKEEPING = frozenset(
    {
        "data_root",
        "device",
        "outputs",
        "store",
        "shared_store",
        "lock",
        "rerun",
        "debug",
        "hang_minutes",
        "cuda_graph",
        "tensorboard",
        "allow_code_drift",
        "sweep",
        "detach",
    }
)
# What an experiment sets counts, not what it is called; no preset is no part of a name.
NAMES_OF_NO_EFFECT = frozenset({"experiment", "preset"})
DATASET_BOOKKEEPING = frozenset({"data_root", "download_root", "about", "num_workers"})
# Options of data sets that say how training images are augmented, each with its value that changes no image.
AUGMENTATION: Mapping[str, Any] = {"crop_padding": 0, "flip": False, "crop_scale": None}


@dataclass(frozen=True)
class Stage:
    """What a stage's result depends on.

    Args:
        version: raised when the code of the stage comes to give other results for the same config.
        after: the stages whose results go in.
        sections: the parts of the config that go in.
    """

    version: int
    after: tuple[str, ...]
    sections: tuple[str, ...]


# What a rule of selection is made of. At these values an option changes nothing, and is not part of a name: what was
# stored before there was the option is found.
RULE = ("ratio", "scope", "rounding", "min_keep", "start_layer", "normalise", "skip", "budget", "coupled")
NO_EFFECT: Mapping[str, Any] = {
    "start_layer": 0,
    "normalise": "none",
    "skip": [],
    "budget": "filters",
    "coupled": "skip",
    "compile": False,
    "after": "finetune",
    "reports": {},
}

STAGES: Mapping[str, Stage] = {
    "dataset": Stage(1, (), ("dataset",)),
    "trained": Stage(1, ("dataset",), ("model", "optimizer", "recipe", "precision", "seed")),
    "given": Stage(1, (), ("model", "weights")),
    "scores": Stage(3, ("trained", "dataset"), ("compared", "score_share", "score_batch_size")),
    "selection": Stage(1, ("scores",), ("chosen", *RULE)),
    "sensitivity": Stage(1, ("scores", "dataset"), ("chosen", "ratios", *(key for key in RULE if key != "ratio"))),
    "tuned": Stage(1, ("selection", "dataset"), ("optimizer", "finetune", "after", "precision", "seed")),
    # Which filters are gone and the seed are part of each repeat's own key.
    "repeat": Stage(1, ("trained", "dataset"), ("optimizer", "finetune", "precision")),
}

# Stages of single runners, by the option that only those runners have.
ASKED_BY = {"sensitivity": "ratios", "repeat": "repeats"}


def canonical(value: Any) -> Any:
    """One spelling for one value: 1 and 1.0, 0.1 and 1e-1, 0.3 and 0.30000000000000004, any order of keys."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        rounded = float(f"{value:.12g}")
        return int(rounded) if rounded.is_integer() else rounded
    if isinstance(value, Mapping):
        return {str(key): canonical(part) for key, part in sorted(value.items(), key=lambda item: str(item[0]))}
    if isinstance(value, list | tuple):
        return [canonical(part) for part in value]
    raise TypeError(f"a config holds no {type(value).__name__}")


def digest(value: Any) -> str:
    """The hash of a plain value (mappings, lists, strings, numbers, booleans, null)."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def influential(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without bookkeeping and options that have no effect, and with the content of files for their paths."""
    config = as_first_written(config)
    kept = {key: value for key, value in config.items() if key not in BOOKKEEPING and not _has_no_effect(key, value)}
    kept["names"] = {key: name for key, name in config["names"].items() if key not in NAMES_OF_NO_EFFECT}
    if preset(config):
        kept["names"]["preset"] = preset(config)
    kept["dataset"] = {key: value for key, value in config["dataset"].items() if key not in DATASET_BOOKKEEPING}
    return _with_contents(kept)


def as_first_written(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config in the spelling of the first version, so that stored results are found.

    There, each recipe held the augmentation that is now the data set's (without `augment`: none), and labels were never
    random. Configs that are spelt so already stay as they are.
    """
    dataset = dict(config["dataset"])
    moved = {key: dataset.pop(key) for key in AUGMENTATION if key in dataset}
    if dataset.get("random_labels") == 0:
        del dataset["random_labels"]
    spelt = {**config, "dataset": dataset}
    for section in ("recipe", "finetune"):
        recipe = dict(config[section])
        augment = recipe.pop("augment", True)
        spelt[section] = recipe | {key: value if augment else AUGMENTATION[key] for key, value in moved.items()}
    return spelt


def _has_no_effect(key: str, value: Any) -> bool:
    return key in NO_EFFECT and canonical(value) == NO_EFFECT[key]


def _with_contents(config: Mapping[str, Any]) -> dict[str, Any]:
    """`weights`, `..._path` and `..._file` by what is in the file, at any depth."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found[key] = _with_contents(value)
        elif isinstance(value, str) and key.endswith(("weights", "_path", "_file")) and Path(value).is_file():
            found[key] = file_digest(Path(value))
        else:
            found[key] = value
    return found


def run_name(config: Mapping[str, Any]) -> str:
    """A readable prefix and the hash of the resolved config: `digits-resnet56-l1-0.5-seed0-1a2b3c4d5e`."""
    names = config["names"]
    parts = [names["dataset"], names["model"]]
    if names["runner"] == "one_shot":
        ratio = canonical(config["ratio"])
        parts += [names["criterion"], preset(config) or "by_layer" if isinstance(ratio, dict) else str(ratio)]
    else:
        parts.append(names["runner"])
    return "-".join([*parts, f"seed{config['seed']}", digest(influential(config))[:10]])


def chosen(config: Mapping[str, Any]) -> str:
    """The name of the criterion to prune by, set apart from one of the compared set that is configured otherwise."""
    name = config["names"]["criterion"]
    in_set = config["criteria"].get(name, config["criterion"])
    return name if canonical(in_set) == canonical(config["criterion"]) else f"{name}_chosen"


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """All criteria that are scored: the set, and the one to prune by."""
    return {**config["criteria"], chosen(config): config["criterion"]}


def preset(config: Mapping[str, Any]) -> str:
    """The name of the preset; empty without one."""
    name = config["names"]["preset"]
    return "" if name in (None, "null") else name


def chain(config: Mapping[str, Any], data_digest: str) -> dict[str, str]:
    """The key of every stage's result.

    Args:
        config: the resolved config, its precision no longer `auto` but what steps compute in.
        data_digest: hash of the images and labels themselves.
    """
    plain = influential(config) | {"compared": compared(config), "chosen": chosen(config)}
    plain["ratios"] = config["runner"].get("ratios")
    if "after" in plain:  # no fine-tuning: the recipe of training, once more
        plain["finetune"] = plain["recipe"]
    unused = {stage for stage, option in ASKED_BY.items() if not config["runner"].get(option)}
    # Which images score is chosen among the training images, and changes nothing before the scores.
    plain["score_share"] = plain["dataset"].pop("score_share", None)
    keys: dict[str, str] = {}
    for name, stage in STAGES.items():
        if (name == "given" and not plain.get("weights")) or name in unused:
            continue
        before = [keys[earlier] for earlier in stage.after]
        if name == "dataset":
            before.append(data_digest)
        keys[name] = digest([name, stage.version, before, _sections(plain, stage)])
        if name == "given":
            keys["trained"] = keys["given"]
    return keys | _round_keys(plain, keys, config["runner"])


def _round_keys(plain: Mapping[str, Any], keys: Mapping[str, str], runner: Mapping[str, Any]) -> dict[str, str]:
    """Of iterative pruning: each round's stages depend on the round before."""
    found: dict[str, str] = {}
    before = keys["trained"]
    for number in range(1, runner.get("rounds", 0) + 1):
        for stage in ("scores", "selection", "tuned"):
            how = [runner["rounds"], runner["pace"], number]
            sections = _sections(plain, STAGES[stage])
            before = digest([stage, STAGES[stage].version, [before, keys["dataset"]], sections, how])
            found[f"{stage}_{number}"] = before
    return found


def _sections(plain: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """The parts of the config that a stage depends on, but for options that have no effect."""
    return {section: plain[section] for section in stage.sections if section in plain or section not in NO_EFFECT}
