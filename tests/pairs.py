"""Choices of options, one of each column a row, such that every two options of different columns are in some row together."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

Row = dict[str, str]
Pair = frozenset[tuple[str, str]]


def covering(columns: Mapping[str, Sequence[str]]) -> list[Row]:
    """Rows, few but not the fewest, that together hold every pair.

    Each row begins with a pair that is still missing; every other column takes the option that brings most missing pairs.
    """
    missing = dict.fromkeys(_pairs(columns))  # in order
    found: list[Row] = []
    while missing:
        row: Row = dict(next(iter(missing)))
        for column, options in columns.items():
            if column not in row:
                row[column] = max(
                    options, key=lambda option: sum(_pair(column, option, *other) in missing for other in row.items())
                )
        for pair in combinations(row.items(), 2):
            missing.pop(frozenset(pair), None)
        found.append({column: row[column] for column in columns})
    return found


def covering_each(columns: Mapping[str, Sequence[str]]) -> list[Row]:
    """As few rows as the longest column has options, such that every option is in some row; columns run at different steps."""
    n_rows = max(map(len, columns.values()))
    return [{column: options[row % len(options)] for column, options in columns.items()} for row in range(n_rows)]


def _pairs(columns: Mapping[str, Sequence[str]]) -> Iterator[Pair]:
    for (a, options_a), (b, options_b) in combinations(columns.items(), 2):
        yield from (_pair(a, x, b, y) for x in options_a for y in options_b)


def _pair(a: str, x: str, b: str, y: str) -> Pair:
    return frozenset([(a, x), (b, y)])
