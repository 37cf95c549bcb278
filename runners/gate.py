"""What can be wrong with a config, found before torch is imported and before anything is written."""

import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
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

from runners.errors import ConfigError, ResourceError, UserError

CONF = Path(__file__).parents[1] / "conf"
GROUP_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,63}")
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


CHECKS: tuple[Check, ...] = (
    (
        "ratio",
        lambda v: _number(v) and 0 <= v < 1,
        "a share of filters to remove, from 0 up to but not 1 (which would remove every filter)",
        "ratio=0.5",
    ),
    ("scope", _one_of("layer", "global"), "layer or global", "scope=layer"),
    (
        "rounding",
        _one_of("floor_pruned", "floor_kept", "nearest"),
        "floor_pruned, floor_kept or nearest",
        "rounding=floor_pruned",
    ),
    ("min_keep", _whole(1), "a whole number from 1 on (a layer never loses its last filter)", "min_keep=1"),
    ("seed", _whole(0, MAX_SEED), "a whole number from 0 to 2^63 - 1", "seed=0"),
    (
        "device",
        lambda v: isinstance(v, str) and re.fullmatch(r"auto|cpu|cuda(:\d+)?", v) is not None,
        "auto, cpu, cuda or cuda:0, cuda:1, ...",
        "device=cpu",
    ),
    ("precision", _one_of("auto", "fp32", "bf16"), "auto, fp32 or bf16", "precision=fp32"),
    ("rerun", _one_of(True, False), "true or false", "rerun=true"),
    ("debug", _one_of(True, False), "true or false", "debug=true"),
    (
        "dataset.score_share",
        lambda v: _number(v) and 0 < v <= 1,
        "a share of the training images above 0, up to 1",
        "dataset.score_share=0.1",
    ),
    ("weights", _text_or_null, "a file, or null to train (an unset shell variable is neither)", "weights=null"),
    ("data_root", _text_or_null, "a folder, or null to download", "data_root=null"),
    ("outputs", _text, "a folder", "outputs=outputs"),
    ("store", _text, "a folder", "store=outputs/store"),
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


def check_config(config: Mapping[str, Any]) -> None:
    """Checks every value that has a range; a key that the config does not have is not needed by it.

    Raises:
        ConfigError: the first value outside its range.
    """
    for key, right, allowed, example in CHECKS:
        section, _, rest = key.rpartition(".")
        place: Any = config[section] if section else config
        if not isinstance(place, Mapping):
            group = f"recipe@{section}" if section == "finetune" else section
            raise ConfigError(f"{section}={place} is a value where a group is needed; options are files; try {group}={place}")
        if rest in place and not right(value := place[rest]):
            raise ConfigError(f"{key}={'' if value is None else value} cannot be used; it is {allowed}; try {example}")


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
