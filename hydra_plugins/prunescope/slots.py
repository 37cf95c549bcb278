"""The launcher of a machine's own slots."""

import sys
from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, MinLen
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from runners.command.arguments import CONF
from runners.command.cli import main
from runners.command.gate import PLANNED, config_flags
from runners.sweeping.local import run_here


class SlotsLauncher(Launcher):
    """Every job a process of its own, so many at a time on each device.

    Args:
        devices: `auto` is every visible GPU, else the CPU; `cpu`; or a list of GPUs.
        per_device: jobs at a time on each.
        retries: restarts of a job that was preempted or killed.
        warm: true makes jobs forks of one process that has imported torch; `auto` is true where no GPU is used.
    """

    def __init__(
        self,
        devices: Literal["auto", "cpu"] | Annotated[Sequence[Annotated[int, Ge(0)]], MinLen(1)],
        per_device: Annotated[int, Ge(1)],
        retries: Annotated[int, Ge(0)],
        warm: Literal["auto"] | bool,
    ) -> None:
        self.devices: str | Sequence[int] = devices
        self.per_device, self.retries, self.warm = per_device, retries, warm
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Notes the config of the sweep."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the planned jobs.

        Raises:
            UserError: some jobs failed, or a signal stopped the sweep.
        """
        assert self.config is not None
        run_here(
            PLANNED,
            self.config,
            CONF.parent,
            main=main,
            flags=config_flags(sys.argv[1:]),
            devices=self.devices,
            per_device=self.per_device,
            retries=self.retries,
            warm=self.warm,
        )
        return []
