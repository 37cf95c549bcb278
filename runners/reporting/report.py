"""The tables of a sweep from the runs that are there, at any time: CSV, Markdown, LaTeX, and the experiment's reports."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from runners.looking.escapes import shown
from runners.looking.seen import Seen
from runners.looking.state import State
from runners.looking.sweep import find_sweep, read_sweep
from runners.process.errors import plain
from runners.reporting.collected import collect
from runners.reporting.gathered import Sheet, gather, over_seeds
from runners.reporting.groups import SEED, Groups, groups_of
from runners.reporting.origin import check_baselines
from runners.reporting.page import OVER_SEEDS, latex_page, made_lines, markdown_page, plain_columns
from runners.reporting.pivot import pivot
from runners.reporting.reports import Made, Report, Stored, apply_reports, asked_for
from runners.storage.files import write_atomic
from runners.storage.folder import write_figure
from runners.sweeping.job import Job

MISSING = "missing"


def run(sweep: str | None, outputs: str, reports: Mapping[str, Report]) -> Seen:
    """The report of the sweep that is meant; see `find_sweep`.

    Raises:
        UserError: as `report`.
    """
    return Seen(report(find_sweep(sweep, outputs), reports))


def report(sweep: Path, reports: Mapping[str, Report] | None = None) -> str:
    """Merges the runs of a sweep that are done into tables in its folder; returns the Markdown, and what was written.

    `<table>.csv` and `<table>_over_seeds.csv` of every table of the runs, `missing.csv`, `report.md` and `report.tex` are the
    same bytes for the same runs. Jobs that are not done are listed, with the reason.

    Args:
        reports: functions of these tables by name (`accuracy`, `accuracy_over_seeds`), or of any other table that the runs
            have; their tables and figures are written beside them.

    Raises:
        ConfigError: the manifest is missing, damaged or of a newer version; a report cannot be made.
        StoreError: jobs that should share a trained network do not; nothing is written.
        ResourceError: the sweep's folder takes no files.
    """
    reports = reports or {}
    found = read_sweep(sweep)
    collected = collect(found, asked_for(reports) - reports.keys())
    check_baselines(collected.done)
    groups = groups_of(found.jobs)
    repeated = {name: over_seeds(name, columns, collected.done, groups) for name, columns in collected.tables.items()}
    names = dict.fromkeys(name for each in collected.done for name in each.tables)
    sheets = {name: gather(name, collected.done, groups) for name in names}
    sheets |= {f"{name}{OVER_SEEDS}": each.sheet(groups) for name, each in repeated.items()}
    sheets[MISSING] = missing_sheet(collected.missing, groups)
    for name, sheet in sheets.items():
        write_atomic(sweep / f"{name}.csv", sheet.csv())
    pivots = {name: pivot(each, groups) for name, each in repeated.items()}
    write_atomic(sweep / "report.tex", latex_page(found, collected, repeated, pivots).encode())
    text = markdown_page(found, collected, repeated, pivots, [])
    write_atomic(sweep / "report.md", text.encode())
    written = [f"{name}.csv ({sheet.n_rows:,} rows)" for name, sheet in sheets.items()]
    made, refused = apply_reports(reports, Stored(sweep, sheets), partial(_write, sweep)) if collected.done else ({}, [])
    if made:
        text = markdown_page(found, collected, repeated, pivots, made_lines(made))
        write_atomic(sweep / "report.md", text.encode())
        written += [f"{name}.csv" if isinstance(each, pd.DataFrame) else f"{name}.png" for name, each in made.items()]
    if refused:
        raise refused[0]
    return f"{text}\nWritten to {plain(str(sweep))}: {plain(', '.join([*written, 'report.md', 'report.tex']))}."


def _write(sweep: Path, name: str, made: Made) -> None:
    if isinstance(made, pd.DataFrame):
        write_atomic(sweep / f"{name}.csv", Sheet(plain_columns(made)).csv())
    else:
        write_figure(sweep, name, made)


def missing_sheet(missing: Sequence[tuple[Job, State]], groups: Groups) -> Sheet:
    """The jobs that are not done, with their state and the reason; by their names."""
    rows = sorted(missing, key=lambda each: each[0].name)
    seed = [SEED] if any(SEED in job.values for job, _ in rows) else []
    values = {key: [shown(job.values.get(key)) for job, _ in rows] for key in (*groups.keys, *seed)}
    return Sheet(
        {
            "run": [job.name for job, _ in rows],
            **values,
            "state": [state.name for _, state in rows],
            "exit_code": [state.exit_code for _, state in rows],
            "reason": [state.reason for _, state in rows],
        }
    )
