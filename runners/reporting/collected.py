"""The content of a sweep's run folders, read once each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runners.looking.state import DAMAGED, DONE, Declared, State, declared, state_of
from runners.looking.sweep import Sweep
from runners.reporting.gathered import Cells, Finished, read_cells
from runners.sweeping.job import Job


@dataclass(frozen=True)
class Collected:
    """The content of a sweep's folders when they were read, once each.

    Args:
        done: the jobs that are in the tables, by name.
        tables: the tables that their `run.json` list, and which columns these have.
    """

    states: Sequence[tuple[Job, State]]
    done: Sequence[Finished]
    tables: Mapping[str, Declared]

    @property
    def missing(self) -> list[tuple[Job, State]]:
        """The jobs that are not in the tables."""
        return [(job, state) for job, state in self.states if state.name != DONE]


def collect(sweep: Sweep, wanted: Collection[str] = ()) -> Collected:
    """The state of every job, and the tables of those that are done.

    Args:
        wanted: tables to read although run.json does not list them.
    """
    states: list[tuple[Job, State]] = []
    done: list[Finished] = []
    for job in sweep.jobs:
        state = state_of(job)
        if state.name == DONE:
            listed = declared(state.facts)
            try:
                done.append(Finished(job, state.facts, _read(job.folder, listed, wanted)))
            except (OSError, ValueError) as error:
                state = State(DAMAGED, f"{error}; rerun=true makes it again")
        states.append((job, replace(state, reason=" ".join(state.reason.split()))))
    done.sort(key=lambda each: each.job.name)
    tables = {name: columns for each in reversed(done) for name, columns in declared(each.facts).items() if columns.values}
    return Collected(states, done, tables)


def _read(folder: Path, listed: Mapping[str, Declared], wanted: Collection[str]) -> dict[str, Cells]:
    """The tables of a run that its run.json lists, and those wanted besides that it has.

    Raises:
        OSError: a table is not there.
        ValueError: a table is not what run.json says.
    """
    unlisted = [name for name in sorted(wanted) if name not in listed and (folder / f"{name}.csv").is_file()]
    return {name: read_cells(folder / f"{name}.csv", listed.get(name)) for name in [*listed, *unlisted]}
