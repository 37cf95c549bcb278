"""The tables of a sweep, from the facts of the jobs that are done."""

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.repeats import PAIR, empty_layers, layer_means, repeats
from runners.looking.escapes import csv_cell
from runners.looking.origin import Finished
from runners.looking.state import METRICS, STAGE, State
from runners.looking.sweep import Job

SEED = "seed"
GROUP = "place of the group"  # no option has such a name
SPEARMAN = "spearman.csv"


@dataclass(frozen=True)
class Table:
    """Rows of plain values under named columns; what a row lacks is empty."""

    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]

    def csv(self) -> bytes:
        """The same bytes for the same rows."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow([csv_cell(column) for column in self.columns])
        lines.writerows([csv_cell(row.get(column)) for column in self.columns] for row in self.rows)
        return text.getvalue().encode()


@dataclass(frozen=True)
class Groups:
    """The combinations of what a sweep varies besides the seed; the jobs of one differ by their seeds.

    Args:
        keys: what is varied besides the seed.
        values: of each group, in the order of the values: numbers by size, text by the alphabet.
        planned: how many jobs each group has, done or not.
        of: job name -> its group's place.
    """

    keys: Sequence[str]
    values: Sequence[Mapping[str, Any]]
    planned: Sequence[int]
    of: Mapping[str, int]


@dataclass(frozen=True)
class Correlations:
    """What one run says of its criteria: `analysis.repeats.layer_means`, and its `empty_layers`."""

    means: pd.DataFrame
    empty: pd.DataFrame


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


def rows_table(done: Sequence[Finished], groups: Groups) -> Table:
    """One row a job and stage, in the order of `done`: what is varied, the seed, and all columns of `accuracy.csv`.

    `numerics_mixed` says whether machines or versions of several kinds had a part in the run, so that no one of them would
    repeat it bit for bit.
    """
    rows = [
        {
            **each.job.values,
            **_given(row, each.job.values),
            "run": each.job.name,
            SEED: each.facts[SEED],
            "numerics_mixed": each.facts.get("numerics_mixed"),
        }
        for each in done
        for row in each.facts["accuracy"]
    ]
    columns = dict.fromkeys(["run", *groups.keys, SEED, STAGE, *(column for row in rows for column in row)])
    return Table(list(columns), rows)


def summary_table(done: Sequence[Finished], groups: Groups) -> Table:
    """Mean, standard deviation and n over seeds of what was measured, one row a group and stage.

    `n_jobs` is how many jobs the group has, done or not. A stage's standard deviation is empty for one seed.
    """
    measured = [
        {GROUP: groups.of[each.job.name], **row}
        for each in sorted(done, key=lambda each: groups.of[each.job.name])
        for row in each.facts["accuracy"]
    ]
    metrics = [name for name in METRICS if any(row.get(name) is not None for row in measured)]
    table = pd.DataFrame(measured, columns=[GROUP, STAGE, *metrics])
    found = repeats(table, [GROUP, STAGE], metrics)
    columns = [*groups.keys, STAGE, "n_jobs", *found.columns.drop([GROUP, STAGE])]
    return Table(columns, [_of_group(row, groups) for row in _records(found)])


def spearman_table(correlations: Mapping[str, Correlations], groups: Groups) -> Table:
    """Mean, standard deviation and n over seeds of the mean rho over layers, one row a group and pair of criteria.

    `n_layers` and `n_empty` count the layers of all these runs, and those among them without a rho, for which `note`
    says why, and how often.

    Args:
        correlations: of the jobs that are done, by name.
    """
    columns = [*groups.keys, *PAIR, "n_jobs", "rho_mean", "rho_sd", "rho_n", "n_layers", "n_empty", "note"]
    names = sorted(correlations, key=lambda name: (groups.of[name], name))
    if not names:
        return Table(columns, [])
    by = [GROUP, *PAIR]
    means = pd.concat([correlations[name].means.assign(**{GROUP: groups.of[name]}) for name in names])
    empty = pd.concat([correlations[name].empty.assign(**{GROUP: groups.of[name]}) for name in names])
    counted = means.groupby(by, sort=False)[["n_layers", "n_empty"]].sum().reset_index()
    found = _records(repeats(means, by, ["rho"]).merge(counted, on=by))
    why: defaultdict[tuple[object, ...], list[str]] = defaultdict(list)
    for row in _records(empty.groupby([*by, "note"])["n_layers"].sum().reset_index()):
        why[tuple(row[column] for column in by)].append(f"{row['note'] or 'no reason given'}: {row['n_layers']}")
    rows = [{**row, "note": "; ".join(why[tuple(row[column] for column in by)])} for row in found]
    return Table(columns, [_of_group(row, groups) for row in rows])


def missing_table(states: Iterable[tuple[Job, State]], groups: Groups) -> Table:
    """The jobs that are not done, with their state and the reason; by their names."""
    rows = [
        {**job.values, "run": job.name, "state": state.name, "exit_code": state.exit_code, "reason": state.reason}
        for job, state in sorted(states, key=lambda each: each[0].name)
    ]
    seed = [SEED] if any(SEED in row for row in rows) else []
    return Table(["run", *groups.keys, *seed, "state", "exit_code", "reason"], rows)


def read_correlations(folder: Path) -> Correlations:
    """The rank correlations of a finished run.

    Raises:
        OSError: the table is not there.
        ValueError: it is not a table of rank correlations.
    """
    text = {**dict.fromkeys((*PAIR, "note"), str), "rho": float}
    table = pd.read_csv(folder / SPEARMAN, dtype=text, usecols=list(text), keep_default_na=False, na_values={"rho": [""]})
    if not table["rho"].dropna().between(-1, 1).all():
        raise ValueError("a rho beyond -1 and 1")
    return Correlations(layer_means(table), empty_layers(table))


def _given(row: Mapping[str, Any], varied: Mapping[str, Any]) -> dict[str, Any]:
    """A row of accuracy, less the empty cells for which the sweep has a value: shares layer by layer leave `ratio` empty."""
    return {key: value for key, value in row.items() if value is not None or key not in varied}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(column): value for column, value in row.items()} for row in table.to_dict("records")]


def _of_group(row: Mapping[str, Any], groups: Groups) -> dict[str, Any]:
    place = row[GROUP]
    plain = {key: None if isinstance(value, float) and value != value else value for key, value in row.items()}
    return {**groups.values[place], **plain, "n_jobs": groups.planned[place]}


def _order(value: Any) -> tuple[int, float, str]:
    """Sorts nothing before numbers before text before all else."""
    if value is None:
        return 0, 0, ""
    if isinstance(value, int | float):
        return 1, value, ""
    return (2, 0, value) if isinstance(value, str) else (3, 0, json.dumps(value))
