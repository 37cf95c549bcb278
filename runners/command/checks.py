"""Every option of a run against its range: what its function's signature says, or else the type of its default."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from runners.command.arguments import CONF
from runners.command.limits import INSTEAD
from runners.command.ranges import FUNCTION, Range, like, written_as
from runners.command.signatures import OURS, signature, uses
from runners.process.errors import ConfigError
from runners.storage.keys import RUNNER_BOOKKEEPING

TOP_LEVEL = ("runners.selection.rule.Rule", "runners.command.limits.TopLevel")  # the second counts before the first
# Keys that Hydra reads.
HYDRAS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
# Keys for people and for the command line; no function takes them.
NO_ARGUMENTS = {"about", "images", "part_of"} | RUNNER_BOOKKEEPING
# The folder of conf/ whose files stand at a place of the config, where its name is another.
GROUPS = {"finetune": "recipe", "criteria": "criterion", "hydra": "hydra/launcher"}
# Ranges of data sets' options, and the function that takes those that all data sets have.
DATASET, COMMON = "runners.command.limits.Dataset", "runners.data.splits.make_splits"
MANY = ("criteria", "reports")  # of functions, by name

# When options contradict each other: which, why, and the way out.
CONFLICTS: tuple[tuple[Callable[[Mapping[str, Any]], bool], str, str], ...] = (
    (
        lambda config: isinstance(config["ratio"], Mapping) and config["scope"] == "global",
        "ratio by layer with scope=global cannot be used; shares of single layers are a matter of scope=layer",
        "try scope=layer, or one number for ratio",
    ),
    (
        lambda config: isinstance(config["ratio"], Mapping) and config["ratio_of"] != "filters",
        "ratio by layer with ratio_of=params or macs cannot be used; shares of single layers are of filters",
        "try ratio_of=filters, or one number for ratio",
    ),
    (
        lambda config: config["coupled"] == "mask" and config["ratio_of"] != "filters",
        "coupled=mask with ratio_of=params or macs cannot be used; filters that are only zeroed save neither",
        "try ratio_of=filters, coupled=skip or coupled=group",
    ),
    (
        lambda config: any(key in config["optimizer"] for key in ("lr", "weight_decay")),
        "optimizer.lr and optimizer.weight_decay cannot be used; they belong to the recipe",
        "try recipe.lr=0.1 recipe.weight_decay=1e-4",
    ),
    (
        lambda config: config["weights_set"] is not None and config["weights"] is None,
        "weights_set without weights cannot be used; it names a set of weights in a file",
        "try weights=FILE, or leave weights_set out",
    ),
    (
        lambda config: "attention" in config["model"] and not uses(str(config["model"].get("_target_")), "models.host"),
        "model/attention cannot be used with this network, which has no place for it; it weighs the branches of our networks",
        "try model=resnet56, or leave model/attention out",
    ),
)


def check_config(config: Mapping[str, Any]) -> None:
    """Checks every key and every value.

    Raises:
        ConfigError: a key that nothing reads, a value outside its range, or options that contradict each other.
    """
    defaults = file("config.yaml")
    ranges = {key: allowed for target in TOP_LEVEL for key, allowed in _ranges(target).items()}
    for key in defaults.keys() - {"defaults", "hydra", "names", *MANY}:
        _check_value(key, config[key], ranges.get(key) or _like(config, defaults[key]), defaults[key])
    for section in MANY:
        _check_names(section, config[section])
    for path, node in _functions(config):
        if path == "model" and isinstance(node, Mapping) and "_target_" not in node:
            continue  # without a network: `networkless` checks it
        check_function(config, path, node)
    for contradicts, what, fix in CONFLICTS:
        if contradicts(config):
            raise ConfigError(f"{what}; {fix}")


def check_function(config: Mapping[str, Any], path: str, node: Any) -> None:
    """Checks the arguments that a config gives a function at a dotted path of it.

    Raises:
        ConfigError: the first that the function does not take, or that is outside its range.
    """
    group = _group(path)
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise _no_group(path, node)
    target = str(node["_target_"])
    written, files = signature(target), defaults_of(group, target)
    if written is None and target.split(".")[0] in OURS:
        raise ConfigError(f"{path}._target_={target} names no function that is there; see the files of conf/{group}; mend it")
    options = _ranges(target) | _ranges(INSTEAD.get(target, ""))
    if path == "runner":  # its other arguments are built for it
        options = {key: options[key] for key in options.keys() & files.keys()}
    general: dict[str, Range | None] = {}
    if path == "dataset":
        options = _ranges(COMMON) | options
        general = {key: allowed for key, allowed in _ranges(DATASET).items() if key in options}
    inside = {folder.name for folder in (CONF / group).glob("*/")}  # groups of functions network -> network
    known = options.keys() | inside | HYDRAS | NO_ARGUMENTS
    if written and not written.takes_any and (unknown := sorted(set(node) - known)):
        raise ConfigError(
            f"{path}.{unknown[0]} is no option; {path} takes {', '.join(sorted(known - HYDRAS - NO_ARGUMENTS)) or 'none'}; "
            f"leave +{path}.{unknown[0]} out"
        )
    for key, value in node.items():
        if key in HYDRAS or (isinstance(value, Mapping) and "_target_" in value):
            continue
        if key in inside or options.get(key) is FUNCTION:
            raise _no_group(f"{path}.{key}", value)
        for allowed in (options.get(key) or _like(config, files.get(key)), general.get(key)):
            _check_value(f"{path}.{key}", value, allowed, files.get(key))


def _no_group(path: str, value: Any) -> ConfigError:
    group = _group(path)
    if path.startswith("reports."):
        return ConfigError(
            f"{path}={value} is no function of tables; a YAML gives it _target_ and _partial_: true; try {path}=null"
        )
    place = group if group.replace("/", ".") == path else f"{group}@{path}"
    return ConfigError(
        f"{path}={value} is a value where a group is needed; options are files; "
        f"try {place}={value if isinstance(value, str) else 'NAME'}"
    )


def _functions(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The places where a config names functions, and what stands there; those inside others after them."""
    groups = {group.split("@")[-1] for entry in file("config.yaml")["defaults"] if isinstance(entry, dict) for group in entry}
    places = [(key, config[key]) for key in config if key in groups - set(MANY)]
    places += [
        (f"{many}.{name}", node)
        for many in MANY
        for name, node in config[many].items()
        if not (many == "reports" and node is None)  # left out
    ]
    places.sort(key=lambda place: place[0] != "dataset")  # networks take classes and channels from it
    while places:
        path, node = places.pop(0)
        yield path, node
        if isinstance(node, Mapping):
            places += [
                (f"{path}.{key}", part) for key, part in node.items() if isinstance(part, Mapping) and "_target_" in part
            ]


def _group(path: str) -> str:
    """The folder of conf/ for a place of the config: `recipe` for `finetune`, `schedule` for `finetune.schedule`."""
    first, _, rest = path.partition(".")
    if first in GROUPS and (not rest or first != "finetune"):
        return GROUPS[first]
    nested = path.replace(".", "/")
    return nested if (CONF / nested).is_dir() else path.rpartition(".")[2]


def _ranges(target: str) -> dict[str, Range | None]:
    found = signature(target)
    return dict(found.options) if found else {}


def _check_value(key: str, value: Any, allowed: Range | None, default: Any) -> None:
    if allowed and not allowed.right(value):
        plain = default is not None and not (isinstance(default, str) and "?" in default or "${" in str(default))
        way_out = f"try {key}={written_as(default)}" if plain else f"leave {key} out"
        raise ConfigError(f"{key}={'' if value is None else value} cannot be used; it is {allowed.words}; {way_out}")


def _like(config: Mapping[str, Any], default: Any) -> Range | None:
    """The type of a default; of one that refers to another option, the type of that."""
    if isinstance(default, str) and (reference := re.fullmatch(r"\$\{([\w.]+)\}", default)):
        default = OmegaConf.select(OmegaConf.create(dict(config)), reference[1])
    return None if default == "???" else like(default)


def defaults_of(group: str, target: str) -> dict[str, Any]:
    """Key -> default, as the files of a group that name this function have them."""
    found: dict[str, Any] = {}
    for path in sorted((CONF / group).glob("*.yaml")):
        node = whole(f"{group}/{path.name}")
        node = node.get(group, node)
        if node.get("_target_") == target:
            found = {**node, **found}
    return found


def whole(name: str) -> dict[str, Any]:
    """A file below conf/, with what it inherits from its neighbours; groups inside it are left out."""
    own = file(name)
    for parent in own.get("defaults", ()):
        if isinstance(parent, str) and parent != "_self_":
            own = {**whole(f"{Path(name).parent}/{parent}.yaml"), **own}
    return {key: value for key, value in own.items() if key != "defaults"}


@cache
def file(name: str) -> dict[str, Any]:
    """A YAML below conf/ as it stands there; empty if there is none."""
    path = CONF / name
    return cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(path))) if path.is_file() else {}


def _check_names(section: str, named: Any) -> None:
    """These names become names of files, and cells of tables."""
    if not isinstance(named, Mapping):
        raise ConfigError(f"{section}={named} cannot be used; it maps names to functions; try {section}.NAME=...")
    if wrong := [str(name) for name in named if not re.fullmatch(r"[A-Za-z_]\w{0,63}", str(name), re.ASCII)]:
        raise ConfigError(f"{section} has the name {wrong[0]!r}; names are made of letters, digits and '_'; rename it")
