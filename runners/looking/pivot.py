"""The table of a sweep as people read it: one row a group, one column a stage, mean and spread over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runners.looking.escapes import latex, markdown, shown
from runners.looking.state import STAGE
from runners.looking.tables import GROUP, Groups, Table

PAGE_ROWS = 40  # of a LaTeX table, in the usual sizes of type and paper


@dataclass(frozen=True)
class Pivot:
    """Text, not yet escaped, and cells made of numbers.

    Args:
        keys: headings of the first columns.
        stages: headings of the others.
        rows: of each group the values of `keys`, and a cell a stage.
    """

    keys: Sequence[str]
    stages: Sequence[str]
    rows: Sequence[tuple[Sequence[str], Sequence[str]]]

    def markdown(self) -> str:
        """As a table of GitHub's Markdown, its columns aligned."""
        lines = [[*map(markdown, values), *cells] for values, cells in self.rows]
        return aligned([[markdown(name) for name in (*self.keys, *self.stages)], *lines])

    def latex(self) -> str:
        """As plain `tabular`s, which need no package: one for as many rows as a page takes."""
        lines = [[*map(latex, values), *(cell.replace("+-", r"$\pm$") for cell in cells)] for values, cells in self.rows]
        heading = " & ".join(latex(name) for name in (*self.keys, *self.stages)) + r" \\"
        body = [" & ".join(line) + r" \\" for line in lines]
        begin = f"\\begin{{tabular}}{{{'l' * len(self.keys) + 'r' * len(self.stages)}}}"
        tables = [
            "\n".join([begin, r"\hline", heading, r"\hline", *body[row : row + PAGE_ROWS], r"\hline", r"\end{tabular}", ""])
            for row in range(0, len(body), PAGE_ROWS)
        ]
        return "\n".join(tables)


def pivot(summary: Table, groups: Groups, metric: str) -> Pivot:
    """`metric` of every group and stage as `mean +- sd (n)`; `(n of planned)` where jobs are missing."""
    stages = list(dict.fromkeys(row[STAGE] for row in summary.rows)) or ["no stage yet"]
    found = {(row[GROUP], row[STAGE]): row for row in summary.rows}
    rows = [
        (
            [shown(values[key]) for key in groups.keys],
            [_cell(found.get((place, stage)), metric, groups.planned[place]) for stage in stages],
        )
        for place, values in enumerate(groups.values)
    ]
    return Pivot(groups.keys, stages, rows)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table; the first line is the heading."""
    width = [max(map(len, column)) for column in zip(*lines, strict=True)]
    heading, *rest = ["| " + " | ".join(map(str.ljust, line, width)) + " |" for line in lines]
    return "\n".join([heading, "|" + "|".join("-" * (each + 2) for each in width) + "|", *rest])


def _cell(row: Mapping[str, Any] | None, metric: str, planned: int) -> str:
    n = row[f"{metric}_n"] if row else 0
    of = f"({n})" if n == planned else f"({n} of {planned})"
    if not row or not n:
        return of
    mean, sd = row[f"{metric}_mean"], row[f"{metric}_sd"]
    return f"{mean:.2f} {of}" if sd is None else f"{mean:.2f} +- {sd:.2f} {of}"
