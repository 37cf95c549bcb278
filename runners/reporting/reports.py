"""The `reports:` of an experiment: tables and figures made of the tables of a run, or of a sweep."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import pandas as pd

from runners.looking.sweep import read_object
from runners.process.errors import ConfigError
from runners.process.inject import Missing, call
from runners.reporting.page import VERDICT, made_lines
from runners.storage.folder import FACTS, STATUS, write_figure, write_table
from runners.storage.tables import read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OF, OURS = "of", "ours"  # `of: accuracy` in a report's YAML: its parameter `ours` is that table
Report = Callable[..., Union[pd.DataFrame, "Figure"]]


class Stored(Mapping[str, pd.DataFrame]):
    """The tables of a folder by their names, each read when it is asked for."""

    def __init__(self, folder: Path, names: Collection[str]) -> None:
        self.folder, self.names = folder, names

    def __getitem__(self, name: str) -> pd.DataFrame:
        """One table, as `read_table` has it."""
        if name not in self.names:
            raise KeyError(name)
        return read_table(self.folder / f"{name}.csv")

    def __contains__(self, name: object) -> bool:
        """True if the folder has that table; nothing is read."""
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        """The names, in order."""
        return iter(sorted(self.names))

    def __len__(self) -> int:
        """The number of tables."""
        return len(self.names)


def build_reports(specs: Mapping[str, Any]) -> dict[str, Report]:
    """The functions that the config's section `reports` asks for; an entry that is null is left out.

    Raises:
        ConfigError: an entry is no partial function, or its function does not take a keyword.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    found: dict[str, Report] = {}
    for name, spec in specs.items():
        try:
            made = instantiate(spec, _convert_="object")
        except InstantiationException as error:
            reason = (str(error.__cause__ or error).strip().splitlines() or [""])[0]
            raise ConfigError(
                f"reports.{name} cannot be built ({reason}); _target_ must name a function; correct it"
            ) from error
        if made is not None:
            found[name] = made
    check_reports(found)
    return found


def check_reports(reports: Mapping[str, Any]) -> None:
    """Refuses a keyword that a report's function does not take, before anything is trained.

    Raises:
        ConfigError: such a keyword, or no `_partial_: true`.
    """
    for name, report in reports.items():
        if not isinstance(report, partial):
            raise ConfigError(f"reports.{name} is no function of tables; its YAML needs _partial_: true; add it")
        allowed = list(inspect.signature(report.func).parameters)
        if unknown := sorted(set(report.keywords) - set(allowed)):
            raise ConfigError(f"reports.{name}.{unknown[0]} is no option; it takes {', '.join(allowed)}; leave it out")


def asked_for(reports: Mapping[str, Report]) -> set[str]:
    """The names of all parameters of the reports that their YAML does not set, and what their option `of` names: tables."""
    named = {report.keywords[OF] for report in reports.values() if isinstance(report, partial) and OF in report.keywords}
    return named | {
        parameter.name
        for report in reports.values()
        for parameter in inspect.signature(report).parameters.values()
        if not isinstance(report, partial) or parameter.name not in report.keywords
    }


def apply_reports(
    tables: Mapping[str, pd.DataFrame], reports: Mapping[str, Report], taken: Collection[str] = ()
) -> tuple[dict[str, pd.DataFrame], "dict[str, Figure]"]:
    """The tables and the figures that the reports make, in order; a later report may read an earlier one's table.

    Args:
        tables: what the reports' parameters may name.
        taken: names of figures that there are already.

    Raises:
        ConfigError: as `apply_report`.
    """
    made: dict[str, pd.DataFrame] = {}
    figures: dict[str, Figure] = {}
    for name, report in reports.items():
        result = apply_report(name, report, made, tables, taken)
        if isinstance(result, pd.DataFrame):
            made[name] = result
        else:
            figures[name] = result
    return made, figures


def apply_report(
    name: str,
    report: Report,
    made: Mapping[str, pd.DataFrame],
    tables: Mapping[str, pd.DataFrame],
    taken: Collection[str] = (),
) -> "pd.DataFrame | Figure":
    """The table or the figure that one report makes.

    Args:
        made: tables of earlier reports.

    Raises:
        ConfigError: it asks for a table that there is not, bears the name of one, or refuses these tables.
    """
    if name in tables or name in taken:
        raise ConfigError(f"reports.{name} bears the name of a table or figure that there is; choose another name")
    try:
        return call(report, _ours(report, made, tables), made, tables)
    except (LookupError, ValueError) as error:
        if isinstance(error, Missing):
            raise ConfigError(
                f"reports.{name} asks for a table that this runner does not make ({error}); choose another runner, or put the "
                "report that makes it first"
            ) from error
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(
            f"reports.{name} cannot be made of these tables ({type(error).__name__}: {reason}); everything else is written; "
            f"leave it out with reports.{name}=null"
        ) from error


def _ours(report: Report, *supplies: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The table that the report's option `of` names, as `ours`; nothing without that option.

    Raises:
        Missing: there is no such table.
    """
    if not isinstance(report, partial) or OF not in report.keywords:
        return {}
    name = report.keywords[OF]
    for supply in supplies:
        if name in supply:
            return {OURS: supply[name]}
    raise Missing(name, [each for supply in supplies for each in supply])


def report_on_run(folder: Path, reports: Mapping[str, Report]) -> str:
    """Makes the reports of a finished run from the tables in its folder, and writes them there, over those of an earlier time.

    Returns the tables that have a verdict, for the terminal.

    The run's tables are those whose hashes `status.json` has. A report that a run of an earlier version holds among them stays
    as it was made.

    Raises:
        ConfigError: as `apply_report`.
        ResourceError: the folder takes no files.
    """
    if not reports:
        return ""
    own = {Path(name).stem for name in read_object(folder / STATUS)["sha256"] if name.endswith(".csv")}
    kept = own if "tables" not in read_object(folder / FACTS) else set()
    made, figures = apply_reports(Stored(folder, own), {name: report for name, report in reports.items() if name not in kept})
    for name, table in made.items():
        write_table(folder, name, table)
    for name, figure in figures.items():
        write_figure(folder, name, figure)
    return "\n".join(made_lines({name: table for name, table in made.items() if VERDICT in table})).strip()
