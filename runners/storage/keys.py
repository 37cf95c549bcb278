"""Names for results: a hash of exactly what influences each, chained from the data set to the tuned network.

Imports no torch, so that the gate and the run folder's name cost nothing.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runners.process.errors import ConfigError

KEY_LENGTH = 32

# What changes how a result comes about, but not the result. Everything else in the config is part of a run's name.
BOOKKEEPING = frozenset(
    "data_root device outputs store shared_store lock rerun debug hang_minutes cuda_graph threads tensorboard reports "
    "allow_code_drift sweep detach".split()
)
# Names of experiments and presets are not hashed; the values they set are. Without a preset the key is left out.
NAMES_OF_NO_EFFECT = frozenset({"experiment", "preset", "normalisation"})
DATASET_BOOKKEEPING = frozenset({"data_root", "download_root", "about", "images", "part_of", "num_workers"})
# Options of data sets that say how training images are augmented, each with its value that changes no image.
AUGMENTATION: Mapping[str, Any] = {"crop_padding": 0, "flip": False, "crop_scale": None}
# Of a runner's YAML: how it is called and shown, not what it computes.
RUNNER_BOOKKEEPING = frozenset({"looks", "name_after", "without_network"})
NAME_AFTER = ("dataset", "model", "runner")

# What a rule of selection is made of.
RULE = ("ratio", "scope", "rounding", "min_keep", "start_layer", "normalise", "skip", "ratio_of", "coupled")
# Option -> its name when results were first stored by it; hashes are of that name.
FIRST_NAMES = {"ratio_of": "budget"}
# An option at its default is left out of the hash, so that results stored before the option existed are still found.
NO_EFFECT: Mapping[str, Any] = {
    "start_layer": 0,
    "normalise": "none",
    "skip": [],
    "budget": "filters",
    "coupled": "skip",
    "compile": False,
    "after": "finetune",
    "weights_set": None,
    "labels": "given",
}


@dataclass(frozen=True)
class Stage:
    """One result of a run that is worth keeping, and all that goes into it; declared beside the code that makes it.

    Args:
        name: begins its key, and names its folder in the store.
        version: raised when the code of the stage comes to give other results for the same config.
        after: the stages whose results go in.
        options: the options that go in: keys of the runner's YAML, of config.yaml, and `compared`, `chosen`, `score_share`.
        contents: what goes in that no option says, by name (`data`: hash of the images and labels).
        unless: an option, and the stage whose key this one takes where the option is set (`weights`: nothing is trained).
        round: plain values that tell a round of this stage from the others.
        which: plain values that tell one of several results from the others, to which all of the above is common.
        place: of the result in the store, if not `name`; what follows a slash is left out.
    """

    name: str
    version: int
    after: tuple["Stage", ...] = ()
    options: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    unless: "tuple[str, Stage] | None" = None
    round: Any = None
    which: Any = None
    place: str = ""

    @property
    def label(self) -> str:
        """Its name among the stages of a run."""
        return self.place or self.name

    @property
    def kind(self) -> str:
        """Its folder in the store, which stages labelled `kind/...` share."""
        return self.label.partition("/")[0]


class Keys:
    """The key of each stage of one run, worked out when it is asked for.

    Args:
        options: the plain values of `stage_options`.
        contents: name -> what gives the value: options and contents that take time to find out.
    """

    def __init__(self, options: Mapping[str, Any], contents: Mapping[str, Callable[[], str]]) -> None:
        self.options, self.contents = options, contents

    def of(self, stage: Stage) -> str:
        """A hash of the stage's version, of the keys of the stages before it, and of all that goes in."""
        if other := self.instead(stage):
            return self.of(other)
        before = [self.of(earlier) for earlier in stage.after] + [self.contents[name]() for name in stage.contents]
        rounds = [] if stage.round is None else [stage.round]
        common = digest([stage.name, stage.version, before, self._sections(stage), *rounds])
        return common if stage.which is None else digest([common, stage.which])

    def instead(self, stage: Stage) -> Stage | None:
        """The stage whose key this one takes in this run, if it does."""
        return stage.unless[1] if stage.unless and self.options.get(stage.unless[0]) else None

    def _sections(self, stage: Stage) -> dict[str, Any]:
        """The options that go in, but for those that have no effect."""
        found: dict[str, Any] = {}
        for option in (FIRST_NAMES.get(option, option) for option in stage.options):
            if option in self.options:
                found[option] = self.options[option]
            elif option in self.contents:
                found[option] = self.contents[option]()
            elif option not in NO_EFFECT:
                raise KeyError(f"stage {stage.label!r} depends on {option!r}, which is no option of this run")
        return found


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
    without_effect = {key for key, value in NO_EFFECT.items() if key in config and canonical(config[key]) == value}
    kept = {key: value for key, value in config.items() if key not in BOOKKEEPING | without_effect}
    kept["names"] = {key: name for key, name in config["names"].items() if key not in NAMES_OF_NO_EFFECT}
    if preset(config):
        kept["names"]["preset"] = preset(config)
    kept["runner"] = {key: value for key, value in config["runner"].items() if key not in RUNNER_BOOKKEEPING}
    kept["dataset"] = {key: value for key, value in config["dataset"].items() if key not in DATASET_BOOKKEEPING}
    return _with_contents(kept)


def as_first_written(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config in the spelling of the first version, by which results are hashed, so that stored ones are found.

    There some options had other names, each recipe held the augmentation that is now the data set's (without `augment`:
    none), and labels were never random nor smoothed. Configs that are spelt so already stay as they are.
    """
    dataset = dict(config["dataset"])
    moved = {key: dataset.pop(key) for key in AUGMENTATION if key in dataset}
    if dataset.get("random_labels") == 0:
        del dataset["random_labels"]
    spelt = {FIRST_NAMES.get(key, key): value for key, value in config.items()} | {"dataset": dataset}
    for section in ("recipe", "finetune"):
        recipe = dict(config[section])
        augment = recipe.pop("augment", True)
        if recipe.get("label_smoothing") == 0:
            del recipe["label_smoothing"]
        spelt[section] = recipe | {key: value if augment else AUGMENTATION[key] for key, value in moved.items()}
    return spelt


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
    """A readable prefix and the hash of the resolved config: `digits-resnet56-l1-0.5-seed0-1a2b3c4d5e`.

    Raises:
        ConfigError: the runner's `name_after` names an option that is no word.
    """
    parts = [_word(config, option) for option in config["runner"].get("name_after", NAME_AFTER)]
    return "-".join([*parts, f"seed{config['seed']}", digest(influential(config))[:10]])


def _word(config: Mapping[str, Any], option: str) -> str:
    """An option in the name of a run; shares layer by layer go by the preset that gives them."""
    value = config["names"].get(option, canonical(config.get(option)))
    if option == "ratio" and isinstance(value, dict):
        return preset(config) or "by_layer"
    if value is None or not re.fullmatch(r"[\w.-]{1,64}", str(value)):
        raise ConfigError(
            f"runner.name_after names {option!r}; options whose value is a word or a number can be in a run's name; "
            f"try runner.name_after=[{','.join(NAME_AFTER)}]"
        )
    return str(value)


def chosen(config: Mapping[str, Any]) -> str:
    """The name of the criterion to prune by, set apart from one of the compared set that is configured otherwise."""
    name = config["names"]["criterion"]
    in_set = config["criteria"].get(name, config["criterion"])
    return name if canonical(in_set) == canonical(config["criterion"]) else f"{name}_chosen"


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The criteria that are scored: the set, and the one to prune by."""
    return {**config["criteria"], chosen(config): config["criterion"]}


def preset(config: Mapping[str, Any]) -> str:
    """The name of the preset; empty without one."""
    name = config["names"]["preset"]
    return "" if name in (None, "null") else name


def stage_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options that may go into stages, by name; without those that have no effect, and files by their content.

    Returns:
        The sections of the config, the runner's own options, `compared` (all criteria that are scored), `chosen` (the name
        of the one to prune by) and `score_share`.
    """
    plain = influential(config)
    found = {**plain.get("runner", {}), **plain, "compared": compared(config), "chosen": chosen(config)}
    found.pop("precision")  # `auto`: what steps compute in is known later
    if "after" in found:  # no fine-tuning: the recipe of training, once more
        found["finetune"] = found["recipe"]
    # Which images score is chosen among the training images, and changes nothing before the scores.
    found["score_share"] = found["dataset"].get("score_share")
    found["dataset"] = {key: value for key, value in found["dataset"].items() if key != "score_share"}
    return found
