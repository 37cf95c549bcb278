"""What can be wrong with a config, found before torch is imported and before anything is written."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runners.checks import check_config
from runners.errors import ConfigError, ResourceError, UserError

CONF = Path(__file__).parents[1] / "conf"
GROUP_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,63}")


def check_keys(config: Mapping[str, Any]) -> None:
    """Refuses keys that nothing reads (`+foo=1`), which would only give the run another name.

    Raises:
        ConfigError: the first such key.
    """
    top: Any = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    groups = [group for entry in top["defaults"] if isinstance(entry, dict) for group in entry]
    known = set(top) - {"defaults"} | {group.split("@")[-1] for group in groups}
    if unknown := sorted(set(config) - known):
        raise ConfigError(f"{unknown[0]} is no option; --help and --cfg job show all; leave +{unknown[0]} out")


def check_section_keys(config: Mapping[str, Any]) -> None:
    """Refuses keys of recipes and data sets that their files do not have.

    Raises:
        ConfigError: the first such key.
    """
    known_in = {
        "recipe": (CONF / "recipe").glob("*.yaml"),
        "finetune": (CONF / "recipe").glob("*.yaml"),
        "dataset": (CONF / "dataset").glob(f"{config['names']['dataset']}.yaml"),
    }
    for section, files in known_in.items():
        known = {str(key) for file in files for key in OmegaConf.load(file)}
        if unknown := sorted(set(config[section]) - known):
            raise ConfigError(
                f"{section}.{unknown[0]} is no option; {section} takes {', '.join(sorted(known - {'defaults', '_target_'}))}; "
                f"leave +{section}.{unknown[0]} out"
            )


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
        """Checks the config of a single run."""
        _pass_or_exit(config, lambda: [config])

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks the configs of all jobs of a sweep."""
        _pass_or_exit(config, lambda: _jobs(config))


def _pass_or_exit(first: DictConfig, configs: Callable[[], list[DictConfig]]) -> None:
    """Hydra turns exceptions of callbacks into warnings; only SystemExit gets through."""
    try:
        for config in configs():
            HydraConfig.instance().set_config(config)  # for ${hydra:...}; Hydra itself sets it later
            values = resolved(config)
            check_keys(values)
            check_config(values)
            check_section_keys(values)
        for key in ("outputs", "store"):
            check_writable(key, Path(str(first[key])))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        from runners.cli import explain

        sys.stderr.write(f"error: {explain(error)}\n")
        raise SystemExit(2) from None


def _jobs(config: DictConfig) -> list[DictConfig]:
    """One config a job, as the sweeper will make them."""
    loader = GlobalHydra.instance().config_loader()
    params = config.hydra.sweeper.get("params") or {}
    overrides = [f"{key}={value}" for key, value in params.items()] + list(config.hydra.overrides.task)
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [loader.load_sweep_config(config, job) for batch in batches for job in batch]


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
