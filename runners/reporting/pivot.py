"""A table over seeds as people read it: one row a combination, cells with mean and spread over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from runners.looking.escapes import latex, markdown, shown
from runners.reporting.gathered import OverSeeds
from runners.reporting.groups import Groups

PAGE_ROWS = 40  # of a LaTeX table, in the usual sizes of type and paper
MOST_COLUMNS = 8


@dataclass(frozen=True)
class Pivot:
    """Text, not yet escaped, and cells made of numbers.

    Args:
        keys: headings of the first columns.
        columns: headings of the others.
        rows: the values of `keys`, and the cells.
    """

    keys: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[tuple[Sequence[str], Sequence[str]]]

    def markdown(self) -> str:
        """As a table of GitHub's Markdown, its columns aligned."""
        lines = [[*map(markdown, values), *cells] for values, cells in self.rows]
        return aligned([[markdown(name) for name in (*self.keys, *self.columns)], *lines])

    def latex(self) -> str:
        """As plain `tabular`s, which need no package: one for as many rows as a page takes."""
        lines = [[*map(latex, values), *(cell.replace("+-", r"$\pm$") for cell in cells)] for values, cells in self.rows]
        heading = " & ".join(latex(name) for name in (*self.keys, *self.columns)) + r" \\"
        body = [" & ".join(line) + r" \\" for line in lines]
        begin = f"\\begin{{tabular}}{{{'l' * len(self.keys) + 'r' * len(self.columns)}}}"
        tables = [
            "\n".join([begin, r"\hline", heading, r"\hline", *body[row : row + PAGE_ROWS], r"\hline", r"\end{tabular}", ""])
            for row in range(0, len(body), PAGE_ROWS)
        ]
        return "\n".join(tables)


def pivot(found: OverSeeds, groups: Groups) -> Pivot:
    """The first of a table's values as `mean +- sd (n)`; `(n of planned)` where jobs are missing.

    The last column of `by` makes the columns if it has few distinct values. Groups of which no run is done have a row, too.
    """
    name = next(iter(found.values))
    last = list(found.by)[-1] if found.by else None
    across = list(dict.fromkeys(found.by[last])) if last else []
    if not 0 < len(across) <= MOST_COLUMNS:
        last, across = None, []
    down = [column for column in found.by if column != last]
    places: dict[tuple[int, tuple[str, ...]], dict[str, tuple[float, float, int]]] = {}
    for row, (place, cell) in enumerate(zip(found.group, found.values[name], strict=True)):
        key = (place, tuple(found.by[column][row] for column in down))
        places.setdefault(key, {})[found.by[last][row] if last else name] = cell
    for place in set(range(len(groups.values))) - set(found.group):
        places[place, ("",) * len(down)] = {}
    decimals = _decimals(name, [mean for mean, _, _ in found.values[name]])
    rows = [
        (
            [*(shown(groups.values[place][key]) for key in groups.keys), *values],
            [_cell(cells.get(column), groups.planned[place], decimals) for column in across or [name]],
        )
        for (place, values), cells in sorted(places.items(), key=lambda each: each[0][0])
    ]
    return Pivot([*groups.keys, *down], across or [name], rows)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table; the first line is the heading."""
    width = [max(map(len, column)) for column in zip(*lines, strict=True)]
    heading, *rest = ["| " + " | ".join(map(str.ljust, line, width)) + " |" for line in lines]
    return "\n".join([heading, "|" + "|".join("-" * (each + 2) for each in width) + "|", *rest])


def _cell(found: tuple[float, float, int] | None, planned: int, decimals: int) -> str:
    mean, sd, n = found or (math.nan, math.nan, 0)
    of = f"({n})" if n == planned else f"({n} of {planned})"
    if not n:
        return of
    return f"{mean:.{decimals}f} {of}" if math.isnan(sd) else f"{mean:.{decimals}f} +- {sd:.{decimals}f} {of}"


def _decimals(name: str, means: Sequence[float]) -> int:
    """Two for shares in %; else as many as give the largest mean four digits (0.7512, 93.25, 1000)."""
    largest = max((abs(mean) for mean in means if not math.isnan(mean)), default=0)
    return 2 if name.endswith("_pct") or largest == 0 else min(8, max(0, 3 - math.floor(math.log10(largest))))
