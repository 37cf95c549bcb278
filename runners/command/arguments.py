"""The command line, looked at before Hydra does: which flags, which of Hydra's own options, and names that are plain names."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from runners.process.errors import ConfigError
from runners.process.hydra_private import Override, chosen_names, flags, parsed

CONF = Path(__file__).parents[2] / "conf"
GROUP_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,63}")
ALWAYS_THERE = re.compile(r"\+(experiment|preset|normalisation|model/\w+)=")  # groups that need no + before them
# Of Hydra's own part of the config, what may be set; the rest decides what is checked, loaded and written.
HYDRA_KEYS = re.compile(r"hydra\.(mode|verbose|run\.dir|sweeper\.params(\..+)?|launcher\.[a-z]\w*(\.[a-z]\w*)*)")
HYDRA_GROUPS = {"hydra/launcher": ("basic", "slots", "slurm"), "hydra/job_logging": ("job", "plain")}


def check_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra takes them in any case: --multirun in front, and no + before a group that is there anyway.

    Raises:
        ConfigError: an unknown flag, a flag that reads a pickle, or an override that `check_overrides` refuses.
    """
    multirun = [argument for argument in arguments if argument in ("-m", "--multirun")]
    plain = [argument[1:] if ALWAYS_THERE.match(argument) else argument for argument in arguments]
    ordered = multirun + [argument for argument in plain if argument not in multirun]
    given = flags(ordered, _refuse_flags)
    if given["experimental_rerun"] is not None:
        raise ConfigError(
            f"--experimental-rerun={given['experimental_rerun']} reads a pickle; configs are YAML; give the command again"
        )
    check_overrides(given["overrides"])
    return ordered


def check_overrides(arguments: Iterable[str]) -> None:
    """Refuses names.*, most of Hydra's own options, and choices that are no plain names (`criterion=../../x`, `=null`).

    Raises:
        ConfigError: the first such argument, or one that is no override.
    """
    for argument in arguments:
        override = parsed([argument])[0]
        key = override.key_or_group
        if key.split(".")[0] == "names":
            raise ConfigError(f"{key} cannot be set; names follow from the chosen options; leave {argument} out")
        if re.match(r"hydra\b", key) or re.match(r"hydra\b", override.package or ""):
            _check_hydra(override, argument)
        value: Any = override.value()
        if isinstance(value, dict) and "_target_" in value and not override.is_add():
            raise ConfigError(
                f"{key} cannot be set to another function; functions are files; try {key.rpartition('.')[2]}@{key}=NAME"
            )
        is_group = "/" in key or (CONF / key).is_dir()
        if is_group and not override.is_delete() and not isinstance(value, dict):
            _check_choices(key, chosen_names(override) if override.is_sweep_override() else [value])


def chosen_files(arguments: Sequence[str]) -> list[str]:
    """Of a command line, the overrides that choose a file of a group; of a sweep, the first choice."""
    found: list[str] = []
    for argument in flags(arguments)["overrides"]:
        override = parsed([argument])[0]
        is_group = "/" in override.key_or_group or (CONF / override.key_or_group).is_dir()
        if is_group and not override.is_delete() and (names := chosen_names(override)):
            found.append(f"{argument.partition('=')[0]}={names[0]}")
    return found


def options(group: str) -> list[str]:
    """The names that `group=` takes."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _check_hydra(override: Override, argument: str) -> None:
    key = override.key_or_group
    if override.package is not None or override.is_delete() or not (key in HYDRA_GROUPS or HYDRA_KEYS.fullmatch(key)):
        what = key if key.startswith("hydra") else f"{key}@{override.package}"
        raise ConfigError(
            f"{what} is no option of a run; of Hydra's own hydra.mode, hydra.run.dir, hydra.verbose, hydra.sweeper.params, "
            f"hydra.launcher.OPTION, hydra/launcher and hydra/job_logging can be set; leave {argument} out"
        )
    for choice in chosen_names(override) if key in HYDRA_GROUPS else ():
        if GROUP_NAME.fullmatch(choice) and choice not in HYDRA_GROUPS[key]:
            allowed = ", ".join(HYDRA_GROUPS[key])
            raise ConfigError(f"{key}={choice} is unknown; {key} is one of {allowed}; choose one of these")


def _check_choices(group: str, choices: Iterable[Any]) -> None:
    for choice in choices:
        if not (isinstance(choice, str) and GROUP_NAME.fullmatch(choice)):
            known, given = ", ".join(options(group)), "null" if choice is None else repr(choice)
            raise ConfigError(
                f"{group}={given} is no name of an option; names are made of a-z, 0-9, '_', '.' and '-'; "
                f"{f'choose one of {known}, or leave it out' if known else f'{group} has none'}"
            )


def _refuse_flags(message: str) -> NoReturn:
    raise ConfigError(f"{message}; flags are those of --help, and all else is key=value; put flags before the overrides")
