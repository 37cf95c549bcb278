"""The report of a sweep as one page of Markdown, and as LaTeX."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.printed import compact, verdict_counts
from runners.looking.escapes import markdown, shown
from runners.looking.state import counts
from runners.looking.sweep import Sweep
from runners.process.errors import plain, some
from runners.reporting.collected import Collected
from runners.reporting.gathered import OverSeeds
from runners.reporting.origin import origins
from runners.reporting.pivot import Pivot, aligned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LISTED = 20
VERDICT = "verdict"  # the column of a table that sets ours beside printed numbers
MOST_ROWS = 60  # of a table on the page
OVER_SEEDS = "_over_seeds"
HOW = "mean +- standard deviation over seeds (n - 1), and how many seeds; (n of planned) where jobs are missing"
NOT_REPRODUCIBLE = (
    "Times, as `latency_ms`, are measured: no second run repeats them. All other columns can be expected to repeat bit for bit "
    "within a numerics class only."
)


def markdown_page(
    sweep: Sweep,
    collected: Collected,
    repeated: Mapping[str, OverSeeds],
    pivots: Mapping[str, Pivot],
    made: Sequence[str],
) -> str:
    """The tables of few rows, what is missing, and where the numbers come from.

    Args:
        made: lines of the experiment's reports.
    """
    lines = [
        f"# {markdown(sweep.folder.resolve().name)}",
        "",
        markdown(_completeness(collected)),
        *(["", *_reasons(collected)] if collected.missing else []),
        *(["", f"Cells: {HOW}."] if pivots else []),
    ]
    for name, table in pivots.items():
        lines += ["", f"{markdown(name)}: {markdown(next(iter(repeated[name].values)))}"]
        few = len(table.rows) <= MOST_ROWS
        lines += ["", table.markdown()] if few else [f"({len(table.rows)} rows, in {markdown(name)}{OVER_SEEDS}.csv)"]
    lines += [
        *made,
        "",
        "Where the numbers come from:",
        "",
        f"- Sweep: {markdown(' '.join(['python', *sweep.command]))}, started {markdown(sweep.started)}",
        *(f"- {name}: {markdown(text)}" for name, text in origins(collected.done)),
        f"- {NOT_REPRODUCIBLE}",
        "",
    ]
    return "\n".join(lines)


def made_lines(made: "Mapping[str, pd.DataFrame | Figure]") -> list[str]:
    """The experiment's reports: their tables of few rows, and the names of the others and of figures."""
    lines: list[str] = []
    for name, table in made.items():
        if not isinstance(table, pd.DataFrame):
            lines += ["", f"{markdown(name)}: {markdown(name)}.png"]
        elif len(table) > MOST_ROWS:
            verdicts = f" ({verdict_counts(table)})" if VERDICT in table else ""
            lines += ["", f"{markdown(name)}: {len(table)} rows{verdicts}, in {markdown(name)}.csv"]
        else:
            columns = plain_columns(compact(table) if VERDICT in table else table)
            rows = [[markdown(_short_number(value)) for value in row] for row in zip(*columns.values(), strict=True)]
            lines += ["", f"{markdown(name)}:", "", aligned([[markdown(column) for column in columns], *rows])]
    return lines


def plain_columns(table: pd.DataFrame) -> dict[str, list[Any]]:
    """The columns of a table as plain values; None for a number that is none."""
    plain_values = table.astype(object).where(table.notna(), None)
    return {str(column): plain_values[column].tolist() for column in table}


def _short_number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shown(value)


def latex_page(sweep: Sweep, collected: Collected, repeated: Mapping[str, OverSeeds], pivots: Mapping[str, Pivot]) -> str:
    """A `tabular` a table, under comments that say what is not in them."""
    lines = [f"% {_ascii(sweep.folder.resolve().name)}: {_completeness(collected)}", f"% {HOW}"]
    for name, table in pivots.items():
        about = f"% {_ascii(name)}: {_ascii(next(iter(repeated[name].values)))}"
        few = len(table.rows) <= MOST_ROWS
        lines += [about, table.latex()] if few else [f"{about}: {len(table.rows)} rows, in the CSV"]
    return "\n".join(lines).rstrip("\n") + "\n"


def _ascii(text: str) -> str:
    return ascii(plain(text)).strip("'\"")


def _completeness(collected: Collected) -> str:
    """The number of jobs in the tables, and the numbers of those that are not in them."""
    found = f"{len(collected.done)} of {len(collected.states)} jobs"
    if not collected.missing:
        return f"{found}."
    numbers = some([str(job.number) for job, _ in collected.missing], MOST_LISTED)
    return f"{found}; missing: {numbers} ({counts(state for _, state in collected.missing)})."


def _reasons(collected: Collected) -> list[str]:
    """A line a job that is missing; all of them are in missing.csv."""
    lines = [
        f"- {job.number} {markdown(str(job))}: {state.name}"
        + (f", exit code {state.exit_code}" if state.exit_code is not None else "")
        + (f": {markdown(state.reason)}" if state.reason else "")
        for job, state in collected.missing[:MOST_LISTED]
    ]
    return [*lines, "- (the others are in missing.csv)"] if len(collected.missing) > MOST_LISTED else lines
