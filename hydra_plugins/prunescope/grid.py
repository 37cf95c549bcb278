"""Hydra's grid, without composing every job once more."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from runners.command.gate import PLANNED


class GridSweeper(Sweeper):
    """Every combination of the values, all in one batch; the gate has composed and checked the jobs.

    Args:
        params: option -> values, of an experiment; the gate reads them from the config.
    """

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Makes the config's launcher."""
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Hands the planned jobs to the launcher."""
        assert self.launcher is not None
        return [self.launcher.launch([list(job.overrides) for job in PLANNED], initial_job_idx=0)]
