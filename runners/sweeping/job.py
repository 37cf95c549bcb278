"""One run of a sweep, as the sweep's command composes it and as its manifest says it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
        return " ".join(f"{key}={_text(value)}" for key, value in self.values.items()) or self.name


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
