"""Tables and figures on top of a runner's: each a function of the tables that its arguments name."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from runners.process.errors import ConfigError
from runners.results import Results

Report = Callable[..., pd.DataFrame | Figure]


def check_reports(reports: Mapping[str, Any]) -> None:
    """Finds a keyword that a report's function does not take before anything is trained.

    Raises:
        ConfigError: such a keyword, or no `_partial_: true`.
    """
    for name, report in reports.items():
        if not isinstance(report, partial):
            raise ConfigError(f"reports.{name} is no function of tables; its YAML needs _partial_: true; add it")
        allowed = list(inspect.signature(report.func).parameters)
        if unknown := sorted(set(report.keywords) - set(allowed)):
            raise ConfigError(f"reports.{name}.{unknown[0]} is no option; it takes {', '.join(allowed)}; leave it out")


def with_reports(results: Results, reports: Mapping[str, Report]) -> Results:
    """The results and every report, in order; a later report may read an earlier one's table.

    Raises:
        ConfigError: a report asks for a table that there is not, or bears the name of one.
    """
    tables, figures = dict(results.tables), dict(results.figures)
    for name, report in reports.items():
        parameters = inspect.signature(report).parameters.values()
        wanted = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
        if missing := [table for table in wanted if table not in tables]:
            raise ConfigError(
                f"reports.{name} needs the table {missing[0]!r}; this runner has {', '.join(tables)}; choose another runner, "
                "or put the report that makes it first"
            )
        if name in tables or name in figures:
            raise ConfigError(f"reports.{name} bears the name of a table or figure of the runner; choose another name")
        made = report(**{table: tables[table] for table in wanted})
        if isinstance(made, Figure):
            figures[name] = made
        else:
            tables[name] = made
    return replace(results, tables=tables, figures=figures)
