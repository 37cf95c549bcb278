"""Tables and figures on top of a runner's: each a function of the tables that its arguments name."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from runners.process.errors import ConfigError
from runners.process.inject import Missing, arguments

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


def apply_reports(tables: Mapping[str, pd.DataFrame], reports: Mapping[str, Report]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The table or figure that each report makes, in order; a later report may read an earlier one's table.

    Raises:
        ConfigError: a report asks for a table that there is not, or bears the name of one.
    """
    made: dict[str, pd.DataFrame] = {}
    figures: dict[str, Figure] = {}
    for name, report in reports.items():
        if name in tables:
            raise ConfigError(f"reports.{name} bears the name of a table of the runner; choose another name")
        try:
            found = report(**arguments(report, made, tables))
        except Missing as error:
            raise ConfigError(
                f"reports.{name} needs the table {error.parameter!r}; this runner has {', '.join(tables)}; choose another "
                "runner, or put the report that makes it first"
            ) from error
        if isinstance(found, Figure):
            figures[name] = found
        else:
            made[name] = found
    return made, figures
