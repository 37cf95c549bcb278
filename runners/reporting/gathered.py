"""Tables of many runs as one: all of their rows, and mean, standard deviation and n over seeds.

An example: a sweep of ratio=0.1,0.5 and seed=0,1 whose runs have accuracy.csv with `by = (stage,)`, `values = (top1_pct,)`:

    accuracy.csv             ratio, seed, run, numerics_mixed, stage, top1_pct    a row a run and stage
    accuracy_over_seeds.csv  ratio, stage, n_jobs, top1_pct_mean, _sd, _n         a row a ratio and stage
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.repeats import repeats
from runners.looking.escapes import csv_cell, shown
from runners.looking.state import Declared
from runners.reporting.groups import SEED, Groups
from runners.sweeping.job import Job

GROUP = "place of the group"  # no option has such a name
NOTE = "note"
Cells = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Finished:
    """A job that is done: its `run.json`, and its tables as text, column by column."""

    job: Job
    facts: Mapping[str, Any]
    tables: Mapping[str, Cells]


@dataclass(frozen=True)
class Sheet:
    """The columns of one CSV file, all of the same length."""

    columns: Mapping[str, Sequence[Any]]

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return _length(self.columns)

    def csv(self) -> bytes:
        """The same bytes for the same rows; no cell is a formula."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(map(csv_cell, self.columns))
        # Columns repeat their values, so each value is escaped once.
        escaped = [{value: csv_cell(value) for value in set(cells)} for cells in self.columns.values()]
        lines.writerows(
            zip(*(map(cell.get, cells) for cell, cells in zip(escaped, self.columns.values(), strict=True)), strict=True)
        )
        return text.getvalue().encode()


@dataclass(frozen=True)
class OverSeeds:
    """One row a group and combination of `by`, in the order of the groups.

    Args:
        group: the place of each row's group.
        by: column -> cells; what tells the rows of a group apart.
        values: column -> `_mean`, `_sd`, `_n` of each row.
        notes: of each row, how often each note stands in its runs; empty if the table has none.
    """

    group: Sequence[int]
    by: Cells
    values: Mapping[str, Sequence[tuple[float, float, int]]]
    notes: Sequence[str]

    def sheet(self, groups: Groups) -> Sheet:
        """The rows with what the sweep varies in front, and with the number of jobs that each group should have."""
        front = {key: [shown(groups.values[place][key]) for place in self.group] for key in groups.keys}
        found: dict[str, Sequence[Any]] = {_beside(key, self.by): cells for key, cells in front.items()}
        found |= self.by
        found["n_jobs"] = [groups.planned[place] for place in self.group]
        for name, cells in self.values.items():
            for number, what in enumerate(("mean", "sd", "n")):
                found[f"{name}_{what}"] = [None if math.isnan(cell[number]) else cell[number] for cell in cells]
        return Sheet(found | ({NOTE: self.notes} if self.notes else {}))


def read_cells(path: Path, declared: Declared | None) -> Cells:
    """A run's table as text, column by column.

    Args:
        declared: what run.json says of it; None for a table that it does not list.

    Raises:
        OSError: the file is not there.
        ValueError: it is not what run.json says: a column is missing, a value no number, or `by` names two rows.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        return _columns(header, rows, declared)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path.name} cannot be read ({error})") from error


def _columns(header: list[str], rows: list[list[str]], declared: Declared | None) -> Cells:
    if len(set(header)) < len(header) or any(len(row) != len(header) for row in rows):
        raise ValueError("no table")
    found = {name: tuple(row[place] for row in rows) for place, name in enumerate(header)}
    if declared:
        if missing := [name for name in (*declared.by, *declared.values) if name not in found]:
            raise ValueError(f"no column {missing[0]!r}")
        for name in declared.values:
            if not all(math.isfinite(float(cell)) for cell in found[name] if cell):
                raise ValueError(f"{name} has values that are not finite")
        keys = list(zip(*(found[name] for name in declared.by), strict=True)) if declared.by else [()] * len(rows)
        if len(set(keys)) < len(keys):
            raise ValueError(f"two rows for one {' and '.join(declared.by) or 'run'}")
    return found


def gather(name: str, done: Sequence[Finished], groups: Groups) -> Sheet:
    """All rows of a table of all runs that have it: in front of them what is varied, the seed and the run.

    A column that the table has itself and in which it says the same stands only once. If it says something else (the sweep
    varies `criterion`, the criterion to prune by, and the table is of all criteria) the option becomes `sweep.<option>`.
    `numerics_mixed` is true for runs in which machines or versions of several kinds had a part, so that no one of them would
    repeat it bit for bit.
    """
    runs = [each for each in done if name in each.tables]
    tables = [each.tables[name] for each in runs]
    lengths = [_length(table) for table in tables]
    own = {column: _joined(tables, lengths, column) for column in dict.fromkeys(chain(*tables))}
    about = {key: [shown(each.job.values.get(key)) for each in runs] for key in groups.keys}
    about |= {SEED: [shown(each.facts.get(SEED)) for each in runs], "run": [shown(each.job.name) for each in runs]}
    about |= {"numerics_mixed": [shown(each.facts.get("numerics_mixed")) for each in runs]}
    front: dict[str, list[str]] = {}
    for key, values in about.items():
        cells = list(chain(*([value] * rows for value, rows in zip(values, lengths, strict=True))))
        if key in own and all(cell == "" or _same(cell, value) for cell, value in zip(own[key], cells, strict=True)):
            del own[key]
        front[_beside(key, own)] = cells
    return Sheet(front | own)


def over_seeds(name: str, declared: Declared, done: Sequence[Finished], groups: Groups) -> OverSeeds:
    """Mean, standard deviation and n of a table's values over the runs of each group.

    n counts the runs that have the row and a number in it. A value that no run has is left out, except for the first.
    """
    runs = sorted((each for each in done if name in each.tables), key=lambda each: groups.of[each.job.name])
    tables = [each.tables[name] for each in runs]
    rows = [_length(table) for table in tables]
    places = list(chain(*([groups.of[each.job.name]] * number for each, number in zip(runs, rows, strict=True))))
    cells = {column: _joined(tables, rows, column) for column in (*declared.by, *declared.values)}
    numbers = {column: [float(cell) if cell else math.nan for cell in cells[column]] for column in declared.values}
    kept = [each for each in declared.values if each == declared.values[0] or not all(map(math.isnan, numbers[each]))]
    by = {column: cells[column] for column in declared.by}
    frame = pd.DataFrame({GROUP: places, **by, **{f"value {each}": numbers[each] for each in kept}})
    found = repeats(frame, [GROUP, *by], [f"value {each}" for each in kept])
    what = [[found[f"value {each}_{part}"].tolist() for part in ("mean", "sd", "n")] for each in kept]
    notes: list[str] = []
    if any(NOTE in table for table in tables):
        notes = _notes(list(zip(places, *by.values(), strict=True)), _joined(tables, rows, NOTE))
    return OverSeeds(
        group=found[GROUP].tolist(),
        by={column: found[column].tolist() for column in by},
        values={each: list(zip(*columns, strict=True)) for each, columns in zip(kept, what, strict=True)},
        notes=notes,
    )


def _length(columns: Mapping[str, Sequence[Any]]) -> int:
    return len(next(iter(columns.values()), ()))


def _joined(tables: Sequence[Cells], rows: Sequence[int], column: str) -> list[str]:
    """A column of all tables, one after the other; empty cells for a table that lacks it."""
    return list(chain(*(table.get(column, [""] * number) for table, number in zip(tables, rows, strict=True))))


def _notes(keys: Sequence[tuple[Any, ...]], notes: Sequence[str]) -> list[str]:
    """`constant scores: 2; fewer than 3 filters: 1` of every key, in order of appearance."""
    found: dict[tuple[Any, ...], Counter[str]] = {}
    for key, note in zip(keys, notes, strict=True):
        found.setdefault(key, Counter()).update([note] if note else [])
    return ["; ".join(f"{note}: {number}" for note, number in sorted(counted.items())) for counted in found.values()]


def _beside(key: str, columns: Collection[str]) -> str:
    return f"sweep.{key}" if key in columns else key


def _same(a: str, b: str) -> bool:
    if a == b:
        return True
    try:
        return float(a) == float(b)
    except ValueError:
        return False
