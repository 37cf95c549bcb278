"""The runs of a sweep, as its command composes them and as its manifest says them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runners.process import hydra_private
from runners.process.errors import ConfigError
from runners.process.hydra_private import Overrides
from runners.process.redaction import redacted_argument


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Args:
        number: its place in the grid, from 0.
        overrides: the command line of the run.
        values: the options that the sweep varies, with this job's plain values.
        name: of its folder; ends in the hash of everything that influences its results.
        folder: where its results go.
    """

    number: int
    overrides: tuple[str, ...]
    values: Mapping[str, Any]
    name: str
    folder: Path

    def __str__(self) -> str:
        """The options in which it differs from the other jobs: `criterion=l1 ratio=0.1`; its name if there are none."""
        return " ".join(redacted_argument(f"{key}={_text(value)}") for key, value in self.values.items()) or self.name


def unfolded(config: DictConfig) -> list[Overrides]:
    """The overrides of every job, in the order of the grid: those of the config's sweeper, then those of the command line.

    An interpolation among them stays one: each job works it out from its own values.

    Raises:
        ConfigError: the sweeper's options are no mapping.
    """
    sweeper: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    task: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    params = sweeper.get("params") or {}
    if not isinstance(params, Mapping):
        raise ConfigError(
            f"hydra.sweeper.params={params} cannot be used; it maps options to their values; "
            "try hydra.sweeper.params.ratio='0.1,0.2'"
        )
    given = [*(f"{key}={value}" for key, value in params.items()), *task]
    return hydra_private.unfolded(given)


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


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _pairs(overrides: Overrides) -> dict[str, str]:
    pairs = (override.partition("=") for override in overrides)
    return {key.lstrip("+"): value for key, _, value in pairs}
