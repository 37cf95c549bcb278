"""Environment variables that a config may read; their values are written beside the results.

Without the list `${oc.env:AWS_SECRET}` puts a secret into two files (config.yaml and run.log), and nobody is asked.
"""

import os
import re

from runners.process.errors import ConfigError
from runners.process.redaction import is_secret

# Places, and what a cluster says of its jobs.
ALLOWED = re.compile(r"(\w*_)?(ROOT|DIR|SCRATCH|HOME|WORK|TMPDIR)|(SLURM|PRUNESCOPE)_\w+")


def variable(name: str, default: str | None = None) -> str | None:
    """Value of `${oc.env:NAME}` or `${oc.env:NAME,default}` in a config.

    Raises:
        ConfigError: the name is not of a kind that configs may hold, or the variable is not set and there is no default.
    """
    if not ALLOWED.fullmatch(name) or is_secret(name):
        raise ConfigError(
            f"the environment variable {name} may not be read into a config, which is written beside the results; only "
            "those named ..._ROOT, ..._DIR, ..._SCRATCH, ..._HOME, ..._WORK, SLURM_... and PRUNESCOPE_... may; use one"
        )
    found = os.environ.get(name, default)
    if found is None:
        raise ConfigError(f"environment variable {name} is not set; a config refers to it; set it, or give a value")
    return found
