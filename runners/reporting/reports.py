"""The `reports:` of an experiment: tables and figures made of the tables of a run, or of a sweep."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import pandas as pd

from runners.looking.sweep import read_object
from runners.process.errors import ConfigError, UserError, first_line
from runners.process.inject import Missing, Supply, call
from runners.reporting.page import VERDICT, made_lines
from runners.storage.folder import FACTS, read_status, write_figure, write_table
from runners.storage.tables import read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OF, OURS = "of", "ours"  # `of: accuracy` in a report's YAML: its parameter `ours` is that table
Made = Union[pd.DataFrame, "Figure"]
Report = Callable[..., Made]


@dataclass(frozen=True)
class Stored:
    """The tables of a folder by their names, each read when it is asked for."""

    folder: Path
    names: Collection[str]

    def __getitem__(self, name: str) -> pd.DataFrame:
        """One table, as `read_table` has it."""
        return read_table(self.folder / f"{name}.csv")

    def __contains__(self, name: object) -> bool:
        """True if the folder has that table; nothing is read."""
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        """The names, in order."""
        return iter(sorted(self.names))


def build_reports(specs: Mapping[str, Any]) -> dict[str, Report]:
    """The functions that the config's section `reports` asks for; an entry that is null is left out.

    Raises:
        ConfigError: an entry is no partial function, or sets a keyword that its function does not take.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    found: dict[str, Report] = {}
    for name, spec in specs.items():
        try:
            report = instantiate(spec, _convert_="object")
        except InstantiationException as error:
            reason = first_line(error.__cause__ or error)
            raise ConfigError(f"reports.{name} cannot be built ({reason}); _target_ must be a function; mend it") from error
        if report is None:
            continue
        if not isinstance(report, partial):
            raise ConfigError(f"reports.{name} is no function of tables; its YAML needs _partial_: true; add it")
        allowed = list(inspect.signature(report.func).parameters)
        if unknown := sorted(set(report.keywords) - set(allowed)):
            raise ConfigError(f"reports.{name}.{unknown[0]} is no option; it takes {', '.join(allowed)}; leave it out")
        found[name] = report
    return found


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
    reports: Mapping[str, Report], tables: Supply, write: Callable[[str, Made], object] = lambda name, made: None
) -> tuple[dict[str, Made], list[UserError]]:
    """The tables and figures of the reports, in order, and the errors of those that cannot be made.

    Args:
        tables: what the reports' parameters may name, besides the tables of earlier reports.
        write: is given each as soon as it is made.
    """
    made: dict[str, Made] = {}
    refused: list[UserError] = []
    for name, report in reports.items():
        earlier = {each: table for each, table in made.items() if isinstance(table, pd.DataFrame)}
        try:
            made[name] = _applied(name, report, earlier, tables, write)
        except UserError as error:
            refused.append(error)
    return made, refused


def _applied(name: str, report: Report, earlier: Supply, tables: Supply, write: Callable[[str, Made], object]) -> Made:
    if name in tables:
        raise ConfigError(f"reports.{name} bears the name of a table that there is; reports need names of their own; rename it")
    try:
        made = call(report, _ours(report, earlier, tables), earlier, tables)
        write(name, made)
    except Missing as error:
        raise ConfigError(
            f"reports.{name} asks for a table that this runner does not make ({error}); choose another runner, or put the "
            "report that makes it first"
        ) from error
    except UserError:
        raise
    except Exception as error:  # a report is anybody's function
        raise ConfigError(
            f"reports.{name} cannot be made of these tables ({type(error).__name__}: {first_line(error)}); everything else is "
            f"written; leave it out with reports.{name}=null"
        ) from error
    return made


def _ours(report: Report, *supplies: Supply) -> dict[str, Any]:
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
        ConfigError: a report cannot be made; the others are written.
        ResourceError: the folder takes no files.
    """
    if not reports:
        return ""
    own = {Path(name).stem for name in read_status(folder)["sha256"] if name.endswith(".csv")}
    kept = own if "tables" not in read_object(folder / FACTS) else set()
    asked = {name: report for name, report in reports.items() if name not in kept}
    made, refused = apply_reports(asked, Stored(folder, own), partial(_write, folder))
    if refused:
        raise refused[0]
    verdicts = {name: table for name, table in made.items() if isinstance(table, pd.DataFrame) and VERDICT in table}
    return "\n".join(made_lines(verdicts)).strip()


def _write(folder: Path, name: str, made: Made) -> None:
    if isinstance(made, pd.DataFrame):
        write_table(folder, name, made)
    else:
        write_figure(folder, name, made)
