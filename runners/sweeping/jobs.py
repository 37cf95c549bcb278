"""The jobs of a sweep: composed once, all of them before the first begins."""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

Overrides = tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Args:
        number: its place in the grid, from 0.
        overrides: the command line of the run.
        values: what the sweep varies, and what this job has there, as plain values.
        name: of its folder; ends in the hash of everything that influences its results.
        folder: where its results go.
    """

    number: int
    overrides: Overrides
    values: Mapping[str, Any]
    name: str
    folder: Path

    def __str__(self) -> str:
        """The values in which it differs from the other jobs."""
        return " ".join(f"{key}={_text(value)}" for key, value in self.values.items()) or self.name


def unfolded(config: DictConfig) -> list[Overrides]:
    """The overrides of every job, in the order of the grid: those of the config's sweeper, then those of the command line.

    An interpolation among them stays one: each job works it out from its own values.
    """
    params: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    task: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    given = [*(f"{key}={value}" for key, value in (params.get("params") or {}).items()), *task]
    parsed = _parser().parse_overrides(given)
    return [tuple(job) for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None) for job in batch]


def composer(config: DictConfig) -> Callable[[Overrides], DictConfig]:
    """A function that composes one job's config after another, without Hydra's own part.

    Each choice of files is read once, the names that follow from it are worked out, and the values of a job are set in a copy.
    """
    loader, parser = GlobalHydra.instance().config_loader(), _parser()

    @cache
    def chosen(groups: Overrides) -> DictConfig:
        whole = loader.load_sweep_config(config, list(groups))
        HydraConfig.instance().set_config(whole)
        for name in whole.names:
            if str(whole.names._get_node(name)).startswith(
                "${hydra:"
            ):  # slow to work out, and the same for all jobs with these files
                whole.names[name] = whole.names[name]
        return OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])

    @cache
    def parsed(override: str) -> Override:
        return parser.parse_overrides([override])[0]

    @cache
    def is_group(name: str) -> bool:
        return bool(loader.get_group_options(name))

    def compose(overrides: Overrides) -> DictConfig:
        groups = tuple(one for one in overrides if is_group(parsed(one).key_or_group))
        found = deepcopy(chosen(groups))
        ConfigLoaderImpl._apply_overrides_to_config([parsed(one) for one in overrides if one not in groups], found)
        return found

    return compose


def varied(jobs: Sequence[Overrides]) -> list[str]:
    """The options that are not the same in all jobs, in the order of the command line."""
    values: dict[str, set[str]] = {}
    for job in jobs:
        for key, value in _pairs(job).items():
            values.setdefault(key, set()).add(value)
    return [key for key, found in values.items() if len(found) > 1]


def value_of(config: DictConfig, overrides: Overrides, option: str) -> Any:
    """Value of an option of a job: the plain value at its dotted key, or the name of the chosen file."""
    found = OmegaConf.select(config, option)
    if OmegaConf.is_dict(found) or found is None:
        return _pairs(overrides)[option]
    return OmegaConf.to_object(found) if OmegaConf.is_config(found) else found


def _pairs(overrides: Overrides) -> dict[str, str]:
    pairs = (override.partition("=") for override in overrides)
    return {key.lstrip("+"): value for key, _, value in pairs}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parser() -> OverridesParser:
    return OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
