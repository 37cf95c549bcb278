"""The folder of a sweep: which jobs it has and which code began it, for whoever looks at it later."""

import sys
from collections.abc import Mapping, Sequence
from os.path import relpath
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from runners.process.redaction import redacted, redacted_argument
from runners.storage import folder as run_folder
from runners.storage.files import now, write_json
from runners.storage.keys import digest
from runners.sweeping.job import Job

MANIFEST, SWEEPS, VERSION = "sweep.json", "sweeps", 1


def sweep_folder(outputs: Path, jobs: Sequence[Job], experiment: str | None) -> Path:
    """`outputs/sweeps/<words>-<hash of the jobs>`: the same jobs find the same folder again."""
    words = experiment or "-".join(key.split(".")[-1] for key in jobs[0].values) or "one"
    return outputs / SWEEPS / f"{words[:60]}-{digest([job.name for job in jobs])[:10]}"


def begin(folder: Path, jobs: Sequence[Job], *, command: Sequence[str], code: Mapping[str, Any]) -> None:
    """Writes `sweep.json`, before the first job starts.

    Raises:
        ResourceError: the folder does not take files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed = [
        {
            "number": job.number,
            "overrides": [redacted_argument(override) for override in job.overrides],
            "name": job.name,
            "folder": relpath(job.folder, folder),
            "values": redacted(job.values),
        }
        for job in jobs
    ]
    shown = [redacted_argument(argument) for argument in command]
    write_json(folder / MANIFEST, {"version": VERSION, "command": shown, "started": now(), "code": code, "jobs": listed})


def begin_sweep(jobs: Sequence[Job], config: DictConfig, identity: Mapping[str, Any]) -> Path:
    """The sweep's folder, its jobs and code noted there."""
    sweep = sweep_folder(Path(str(config.outputs)), jobs, config.hydra.runtime.choices.get("experiment"))
    begin(sweep, jobs, command=["run.py", *sys.argv[1:]], code=identity)
    return sweep


def not_done(jobs: Sequence[Job], *, rerun: bool) -> list[Job]:
    """The jobs whose results are not there, or are asked for anew."""
    return [job for job in jobs if rerun or not run_folder.is_done(job.folder)]
