"""Hydra's grid, without composing every job once more."""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from runners.command.gate import PLANNED


class GridSweeper(BasicSweeper):
    """Every combination of the values, all in one batch; the gate has composed and checked the jobs."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)

    def sweep(self, arguments: list[str]) -> Any:
        """Hands the planned jobs to the launcher."""
        assert self.launcher is not None
        return [self.launcher.launch([list(job.overrides) for job in PLANNED], initial_job_idx=0)]
