"""Jobs of a sweep that differ by their seeds only: the repeats of one combination of options."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runners.sweeping.job import Job

SEED = "seed"


@dataclass(frozen=True)
class Groups:
    """The combinations of the options that a sweep varies besides the seed.

    Args:
        keys: these options.
        values: of each group, in the order of the values: numbers by size, text by the alphabet.
        planned: the number of jobs of each group, done or not.
        of: job name -> its group's place.
    """

    keys: Sequence[str]
    values: Sequence[Mapping[str, Any]]
    planned: Sequence[int]
    of: Mapping[str, int]


def groups_of(jobs: Iterable[Job]) -> Groups:
    """The groups of all jobs of a sweep."""
    jobs = list(jobs)
    keys = sorted({key for job in jobs for key in job.values} - {SEED})
    combination = {job.name: tuple(json.dumps(job.values.get(key)) for key in keys) for job in jobs}
    values = {combination[job.name]: {key: job.values.get(key) for key in keys} for job in jobs}
    ordered = sorted(values, key=lambda each: [_order(json.loads(text)) for text in each])
    place = {each: number for number, each in enumerate(ordered)}
    planned = Counter(combination.values())
    return Groups(
        keys=keys,
        values=[values[each] for each in ordered],
        planned=[planned[each] for each in ordered],
        of={name: place[each] for name, each in combination.items()},
    )


def _order(value: Any) -> tuple[int, float, str]:
    """Sorts nothing before numbers before text before all else."""
    if value is None:
        return 0, 0, ""
    if isinstance(value, int | float):
        return 1, value, ""
    return (2, 0, value) if isinstance(value, str) else (3, 0, json.dumps(value))
