"""The launcher of a Slurm cluster."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn

from runners.command.arguments import CONF
from runners.command.gate import PLANNED, config_flags
from runners.sweeping.slurm import run_on_slurm

if TYPE_CHECKING or find_spec("hydra_plugins.hydra_submitit_launcher"):
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as Submitit
else:  # without the extra [slurm] this stays abstract, and the gate says so to whoever asks for it
    from hydra.plugins.launcher import Launcher as Submitit


class SlurmLauncher(Submitit):
    """Every job a task of one array, its command a process of its own there, so that a sweep is the same everywhere."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hands the planned jobs to Slurm, and waits for them unless told not to.

        Raises:
            UserError: some jobs failed, or Slurm does not take them.
        """
        assert self.config is not None
        flags = config_flags(sys.argv[1:])
        run_on_slurm(PLANNED, self.config, CONF.parent, flags=flags, options=self.params)
        return []
