"""What can be wrong with a config, found before torch is imported and before anything is written."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, cast

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runners.checks import check_config, check_launcher
from runners.errors import ConfigError, ResourceError, UserError
from runners.looking import look
from runners.storage.keys import run_name
from runners.sweeping.jobs import Job, composer, unfolded, value_of, varied

CONF = Path(__file__).parents[1] / "conf"
# The jobs of the sweep that this process has begun.
PLANNED: list[Job] = []
GROUP_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,63}")


def check_keys(config: Mapping[str, Any]) -> None:
    """Refuses keys that nothing reads (`+foo=1`), which would only give the run another name.

    Raises:
        ConfigError: the first such key.
    """
    groups = [group for entry in _file("config.yaml")["defaults"] if isinstance(entry, dict) for group in entry]
    known = set(_file("config.yaml")) - {"defaults"} | {group.split("@")[-1] for group in groups}
    if unknown := sorted(set(config) - known):
        raise ConfigError(f"{unknown[0]} is no option; --help and --cfg job show all; leave +{unknown[0]} out")


def check_section_keys(config: Mapping[str, Any]) -> None:
    """Refuses keys of recipes and data sets that their files do not have.

    Raises:
        ConfigError: the first such key.
    """
    known_in = {
        "recipe": [f"recipe/{name}.yaml" for name in options("recipe")],
        "finetune": [f"recipe/{name}.yaml" for name in options("recipe")],
        "dataset": [f"dataset/{config['names']['dataset']}.yaml"],
    }
    for section, files in known_in.items():
        known = {key for file in files for key in _file(file)}
        if unknown := sorted(set(config[section]) - known):
            raise ConfigError(
                f"{section}.{unknown[0]} is no option; {section} takes {', '.join(sorted(known - {'defaults', '_target_'}))}; "
                f"leave +{section}.{unknown[0]} out"
            )


@cache
def _file(name: str) -> dict[str, Any]:
    """A YAML below conf/ as it stands there; empty if there is none."""
    path = CONF / name
    return cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(path))) if path.is_file() else {}


def check_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra takes them in any case: --multirun in front, and no + before a group that is there anyway.

    Refuses unknown flags, names.*, and option names that are no plain names (`criterion=../../x`) before Hydra looks for such
    files.

    Raises:
        ConfigError: the first such argument.
    """
    multirun = [argument for argument in arguments if argument in ("-m", "--multirun")]
    plain = [argument[1:] if argument.startswith("+experiment=") else argument for argument in arguments]
    ordered = multirun + [argument for argument in plain if argument not in multirun]
    parser = get_args_parser()
    parser.error = _refuse_flags
    parser.parse_args(ordered)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        group = key.lstrip("+~").split("@")[0]
        if group.startswith("names."):
            raise ConfigError(f"{group} cannot be set; names follow from the chosen options; leave {argument} out")
        if not equals or not (CONF / group).is_dir() or group in ("", "."):
            continue
        for choice in value.split(","):
            if not GROUP_NAME.fullmatch(choice.strip().strip("'\"")) and choice not in ("", "null"):
                raise ConfigError(
                    f"{group}={choice!r} is no name of an option; names are made of a-z, 0-9, '_', '.' and '-'; choose one "
                    f"of {', '.join(options(group))}"
                )
    return ordered


def config_flags(arguments: Sequence[str]) -> list[str]:
    """Of a command line, the flags that say where configs lie, for the jobs of a sweep."""
    given = vars(get_args_parser().parse_args(list(arguments)))
    named = {flag: given[flag] for flag in ("config_path", "config_name", "config_dir") if given[flag]}
    return [f"--{flag.replace('_', '-')}={value}" for flag, value in named.items()]


def _refuse_flags(message: str) -> NoReturn:
    raise ConfigError(f"{message}; flags are those of --help, and all else is key=value; put flags before the overrides")


def options(group: str) -> list[str]:
    """The names that `group=` takes."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def resolved(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, every interpolation worked out, Hydra's own part left out.

    Raises:
        ConfigError: a value that is missing (`???`) or refers to something that is not there.
    """
    try:
        names = [str(key) for key in config if key != "hydra"]
        return {key: OmegaConf.to_object(config[key]) if OmegaConf.is_config(config[key]) else config[key] for key in names}
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{error.full_key or 'the config'} has no value ({reason}); every option needs one; give it on the command line"
        ) from error


class Gate(Callback):
    """Hydra's earliest hooks: a wrong config ends here, with one line, exit code 2, and no folder made."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks the config of a single run; one that only looks at others is done here, before Hydra makes a folder for it."""
        with _one_line():
            HydraConfig.instance().set_config(config)  # for ${hydra:...}; Hydra itself sets it later
            values = check(config)
            if values["runner"].get("looks"):
                seen = look(values)
                print(seen.text, flush=True)
                raise SystemExit(seen.exit_code)
            _check_folders(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks the configs of all jobs of a sweep, and notes them for the launcher."""
        with _one_line():
            plan(config)
            _check_folders(config)


def check(config: DictConfig) -> dict[str, Any]:
    """The resolved config of one run.

    Raises:
        ConfigError: whatever is wrong with it.
    """
    values = resolved(config)
    check_keys(values)
    check_config(values)
    check_section_keys(values)
    return values


def plan(config: DictConfig) -> list[Job]:
    """Composes and checks every job of a sweep; a run that the grid names twice is one job.

    Raises:
        ConfigError: whatever is wrong with the first job that cannot be run.
    """
    launcher = cast("dict[str, Any]", OmegaConf.to_container(config.hydra.launcher, resolve=True))
    check_launcher(launcher, config.device, detach=config.detach)
    grid = unfolded(config)
    compose, options = composer(config), varied(grid)
    found: dict[str, Job] = {}
    for overrides in grid:
        composed = compose(overrides)
        values = check(composed)
        if values["runner"].get("looks"):
            about = values["names"]["runner"]
            raise ConfigError(f"runner={about} only looks at others' runs; no sweep is made of it; add hydra.mode=RUN")
        name = run_name(values)
        here = {option: value_of(composed, overrides, option) for option in options}
        found.setdefault(name, Job(len(found), overrides, here, name, Path(values["outputs"]).absolute() / name))
    HydraConfig.instance().set_config(config)
    PLANNED[:] = found.values()
    if twice := len(grid) - len(found):
        print(f"{twice} of {len(grid)} jobs are the same as others and run once.")
    return PLANNED


@contextmanager
def _one_line() -> Iterator[None]:
    """Hydra turns exceptions of callbacks into warnings; only SystemExit gets through."""
    try:
        yield
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        from runners.cli import explain

        sys.stderr.write(f"error: {explain(error)}\n")
        raise SystemExit(2) from None


def _check_folders(config: DictConfig) -> None:
    for key in ("outputs", "store"):
        check_writable(key, Path(str(config[key])))


def check_writable(key: str, folder: Path) -> None:
    """Makes the folder of an option and tries a file in it.

    Raises:
        ResourceError: it cannot be made or written.
    """
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ResourceError(
            f"{key}={folder} cannot be written ({error.strerror}); it must be a folder that takes files; choose another "
            f"with {key}=DIR"
        ) from error
