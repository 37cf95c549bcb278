"""The manifest of a sweep: its jobs, and the run folder of each."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from runners.process.errors import ConfigError, some
from runners.storage.keys import canonical
from runners.sweeping.job import Job
from runners.sweeping.manifest import MANIFEST, SWEEPS, VERSION

MOST_LISTED = 10


@dataclass(frozen=True)
class Sweep:
    """The content of `sweep.json`: the command, when it began, with which code, and its jobs."""

    folder: Path
    command: tuple[str, ...]
    started: str
    code: Mapping[str, Any]
    jobs: tuple[Job, ...]


def find_sweep(given: str | None, outputs: str) -> Path:
    """The folder of the sweep that is meant.

    Args:
        given: the folder of a sweep, or its name among those of `outputs`, or the words this begins with (of an experiment);
            or a folder of sweeps, of which the newest is meant. None means the newest of `outputs`.

    Raises:
        ConfigError: there is no such sweep.
    """
    known = Path(outputs) / SWEEPS
    for place in [known] if given is None else [Path(given), known / given]:
        if os.path.isfile(place / MANIFEST):
            return place
        if found := sweeps_below(place):
            return found[0]
    for place in sweeps_below(known):
        if given and place.name.startswith(f"{given}-"):
            return place
    raise _no_sweep(known if given is None else Path(given), sweeps_below(known))


def sweeps_below(folder: Path) -> list[Path]:
    """The sweeps in a folder and in its `sweeps/`, newest first."""
    # os.path has an answer for names that are too long, too.
    manifests = [path for place in (folder, folder / SWEEPS) if os.path.isdir(place) for path in place.glob(f"*/{MANIFEST}")]
    return [path.parent for path in sorted(manifests, key=lambda path: (-_modified(path), path.parent.name))]


def read_sweep(folder: Path) -> Sweep:
    """The sweep that the manifest in `folder` describes.

    Raises:
        ConfigError: there is none, it is damaged, or a newer version wrote it.
    """
    path = folder / MANIFEST
    if not os.path.isfile(path):
        raise _no_sweep(folder, sweeps_below(folder) or sweeps_below(folder.parent))
    try:
        found = read_object(path)
        version = found.get("version")
        if number(version) and version > VERSION:
            raise ConfigError(f"{path} is of version {version}; {VERSION} can be read; use a newer Prunescope")
        return _sweep(folder, found)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}); a sweep writes it whole before its first job; move it away and give the "
            "sweep's command again, which keeps finished runs"
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """The object in a file of strict JSON.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else.
    """
    try:
        found = json.loads(path.read_bytes(), parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def number(value: Any) -> TypeGuard[float]:
    """True of a JSON value that is a finite number (1e999 is read as infinity)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _sweep(folder: Path, found: Mapping[str, Any]) -> Sweep:
    _check(number(found.get("version")) and found["version"] == VERSION, "version")
    _check(texts(found.get("command")), "command")
    _check(isinstance(found.get("started"), str), "started")
    _check(isinstance(found.get("code"), dict), "code")
    _check(isinstance(found.get("jobs"), list) and found["jobs"], "jobs")
    jobs = tuple(_job(folder, job) for job in found["jobs"])
    _check(len({job.name for job in jobs}) == len({job.number for job in jobs}) == len(jobs), "jobs")
    return Sweep(folder, tuple(found["command"]), found["started"], found["code"], jobs)


def _job(folder: Path, job: Any) -> Job:
    _check(isinstance(job, dict), "jobs")
    _check(isinstance(job.get("number"), int) and number(job["number"]) and job["number"] >= 0, "number")
    _check(texts(job.get("overrides")), "overrides")
    _check(isinstance(job.get("name"), str) and job["name"] not in ("", ".", ".."), "name")
    _check(isinstance(job.get("values"), dict), "values")
    place = job.get("folder")
    # The hash in a run's name says what it is a result of, so the folder must bear that name.
    _check(isinstance(place, str) and not Path(place).is_absolute() and Path(place).name == job["name"], "folder")
    values = {key: canonical(value) for key, value in job["values"].items()}
    return Job(job["number"], tuple(job["overrides"]), values, job["name"], (folder / place).resolve())


def texts(value: Any) -> bool:
    """True of a list of strings."""
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _check(holds: object, key: str) -> None:
    if not holds:
        raise ValueError(f"{key!r} is missing or not what it should be")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _no_sweep(folder: Path, others: list[Path]) -> ConfigError:
    there = f"newest first, there are {some([str(path) for path in others], MOST_LISTED)}"
    advice = there if others else "start one with --multirun"
    return ConfigError(f"no sweep is in {folder}; the folder of a sweep holds {MANIFEST}; {advice}; give one as sweep=DIR")


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # gone since it was listed
        return 0
