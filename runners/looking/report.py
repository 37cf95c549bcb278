"""The tables of a sweep from the runs that are there, at any time: CSV, Markdown, LaTeX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runners.looking.escapes import markdown, plain
from runners.looking.origin import Finished, check_baselines, origins
from runners.looking.pivot import pivot
from runners.looking.seen import Seen
from runners.looking.state import DAMAGED, DONE, State, counts, state_of
from runners.looking.status import varies
from runners.looking.sweep import Job, Sweep, find_sweep, read_sweep
from runners.looking.tables import (
    SPEARMAN,
    Correlations,
    Groups,
    Table,
    groups_of,
    missing_table,
    read_correlations,
    rows_table,
    spearman_table,
    summary_table,
)
from runners.storage.files import write_atomic

METRIC = "top1_pct"
MOST_LISTED = 20
NOT_REPRODUCIBLE = (
    "`latency_ms` in `rows.csv` is measured: it is the one column that no second run repeats. All others can be expected to "
    "repeat bit for bit within a numerics class only."
)


@dataclass(frozen=True)
class Collected:
    """What a sweep's folders held when they were read, once each."""

    states: Sequence[tuple[Job, State]]
    correlations: Mapping[str, Correlations]

    @property
    def done(self) -> list[Finished]:
        """The jobs that are in the tables, by name."""
        found = [Finished(job, state.facts) for job, state in self.states if state.name == DONE]
        return sorted(found, key=lambda each: each.job.name)

    @property
    def missing(self) -> list[tuple[Job, State]]:
        """The jobs that are not."""
        return [(job, state) for job, state in self.states if state.name != DONE]


def run(sweep: str | None, outputs: str) -> Seen:
    """The report of the sweep that is meant; see `find_sweep`.

    Raises:
        UserError: as `report`.
    """
    return Seen(report(find_sweep(sweep, outputs)))


def report(sweep: Path) -> str:
    """Merges the runs of a sweep that are done into tables in its folder; returns the Markdown, and what was written.

    `rows.csv`, `summary.csv`, `spearman.csv`, `missing.csv`, `report.md` and `report.tex` are the same bytes for the same
    runs. Jobs that are not done are listed, with the reason.

    Raises:
        ConfigError: the manifest is missing, damaged or of a newer version.
        StoreError: jobs that should share a trained network do not; nothing is written.
        ResourceError: the sweep's folder takes no files.
    """
    found = read_sweep(sweep)
    collected = _collect(found)
    check_baselines(collected.done)
    groups = groups_of(found.jobs)
    summary = summary_table(collected.done, groups)
    tables = {
        "rows.csv": rows_table(collected.done, groups),
        "summary.csv": summary,
        "spearman.csv": spearman_table(collected.correlations, groups),
        "missing.csv": missing_table(collected.missing, groups),
    }
    text = _markdown(found, collected, summary, groups)
    files = {name: table.csv() for name, table in tables.items()}
    files |= {"report.md": text.encode(), "report.tex": _latex(found, collected, summary, groups).encode()}
    for name, content in files.items():
        write_atomic(sweep / name, content)
    sizes = ", ".join(f"{name} ({len(table.rows):,} rows)" for name, table in tables.items())
    return f"{text}\nWritten to {plain(str(sweep))}: {sizes}, report.md, report.tex."


def _collect(sweep: Sweep) -> Collected:
    states: list[tuple[Job, State]] = []
    correlations: dict[str, Correlations] = {}
    for job in sweep.jobs:
        state = state_of(job)
        if state.name == DONE:
            try:
                correlations[job.name] = read_correlations(job.folder)
            except (OSError, ValueError) as error:
                state = State(DAMAGED, f"{SPEARMAN} cannot be read ({error}); rerun=true makes it again")
        states.append((job, replace(state, reason=" ".join(state.reason.split()))))
    return Collected(states, correlations)


def _markdown(sweep: Sweep, collected: Collected, summary: Table, groups: Groups) -> str:
    how = "mean +- standard deviation over seeds (n - 1), and how many seeds; (n of planned) where jobs are missing"
    lines = [
        f"# {markdown(sweep.folder.resolve().name)}",
        "",
        markdown(_completeness(collected)),
        *(["", *_reasons(collected)] if collected.missing else []),
        "",
        f"Top-1 accuracy on the test split in %: {how}.",
        "",
        pivot(summary, groups, METRIC).markdown(),
        "",
        "Where the numbers come from:",
        "",
        f"- Sweep: {markdown(' '.join(['python', *sweep.command]))}, started {markdown(sweep.started)}",
        *(f"- {name}: {markdown(text)}" for name, text in origins(collected.done)),
        f"- {NOT_REPRODUCIBLE}",
        "",
    ]
    return "\n".join(lines)


def _latex(sweep: Sweep, collected: Collected, summary: Table, groups: Groups) -> str:
    """A `tabular`, under comments that say what is not in it."""
    name = ascii(plain(sweep.folder.resolve().name)).strip("'\"")
    about = [
        f"% Top-1 accuracy in % of {name}: mean +- standard deviation over seeds (number of seeds)",
        f"% {_short(collected)}",
    ]
    return "\n".join([*about, pivot(summary, groups, METRIC).latex()])


def _short(collected: Collected) -> str:
    """`12 of 18 jobs`, and how many of each state are missing."""
    found = f"{len(collected.done)} of {len(collected.states)} jobs"
    return f"{found}; not in it: {counts(state for _, state in collected.missing)}" if collected.missing else found


def _completeness(collected: Collected) -> str:
    """How many jobs are in the tables, and the numbers of those that are not."""
    if not collected.missing:
        return f"{len(collected.done)} of {len(collected.states)} jobs."
    numbers = ", ".join(str(job.number) for job, _ in collected.missing[:MOST_LISTED])
    left = len(collected.missing) - MOST_LISTED
    more = f" and {left} more" if left > 0 else ""
    found = counts(state for _, state in collected.missing)
    return f"{len(collected.done)} of {len(collected.states)} jobs; missing: {numbers}{more} ({found})."


def _reasons(collected: Collected) -> list[str]:
    """A line a job that is missing; all of them are in missing.csv."""
    lines = [
        f"- {job.number} {markdown(varies(job))}: {state.name}"
        + (f", exit code {state.exit_code}" if state.exit_code is not None else "")
        + (f": {markdown(state.reason)}" if state.reason else "")
        for job, state in collected.missing[:MOST_LISTED]
    ]
    return [*lines, "- (the others are in missing.csv)"] if len(collected.missing) > MOST_LISTED else lines
