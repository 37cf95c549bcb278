"""Printed numbers of papers, and ours beside them with a verdict.

`analysis/published/*.csv` hold one number a line: `paper, table, row, column, value, sd, n, remark`. `value` and `sd` have the
digits that were printed, `n` is the number of runs that the value is of, and all three may be empty. `row` joins what names a
row of the table by ` / `, for example `cifar10 / vgg16 / l1 / 1`. `remark` names a misprint, where one is known.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from analysis.repeats import mean_sd_n

Verdict = Literal["equal", "within 2 standard errors", "differs", "not run", "not printed"]
PUBLISHED = Path(__file__).parent / "published"
COLUMNS = ["paper", "table", "row", "column", "value", "sd", "n", "remark"]
BESIDE = (
    ["paper", "table", "row", "column", "printed", "printed_sd", "printed_n"]
    + ["ours_mean", "ours_sd", "ours_n", "difference", "verdict", "remark"]
)  # fmt: skip
N_IMAGES, SEED = "n_images", "seed"


@cache
def all_printed() -> pd.DataFrame:
    """The rows of all files, as text: `93.50` stays `93.50`."""
    files = sorted(PUBLISHED.glob("*.csv"))
    return pd.concat([pd.read_csv(path, dtype=str, keep_default_na=False) for path in files], ignore_index=True)


def printed(paper: str, table: str) -> pd.DataFrame:
    """The numbers of one table (`COLUMNS`, all text), in the order in which they are printed.

    Raises:
        ValueError: no file has that table.
    """
    everything = all_printed()
    found = everything[(everything["paper"] == paper) & (everything["table"] == table)]
    if found.empty:
        there = everything.loc[everything["paper"] == paper, "table"].unique().tolist()
        allowed = f"tables {', '.join(there)}" if there else f"papers {', '.join(everything['paper'].unique())}"
        raise ValueError(f"there is no table {table!r} of paper {paper!r} in analysis/published; there are {allowed}")
    return found.reset_index(drop=True)


def against(
    ours: pd.DataFrame,
    printed: pd.DataFrame,
    *,
    by: Mapping[str, str] | Sequence[str],
    values: Mapping[str, str] | Sequence[str],
    spelling: Mapping[str, str] | None = None,
    rows: str = "*",
    of_images: Sequence[str] = (),
) -> pd.DataFrame:
    """Ours beside the printed numbers (`BESIDE`), one row a printed number, then those of ours that are not printed.

    The mean, sd and n of ours are over its rows with the same name; of rows with one `seed` and the same numbers (a trained
    network that several runs share) one counts. See `verdict` for the rule.

    Args:
        ours: one row a run, or several.
        printed: one table, as `printed` returns it.
        by: the columns of ours that make `row`, in order; of a mapping, each with a pattern for its part, as `Conv{}`.
        values: the columns of ours to compare; of a mapping, each with its printed name. Other printed columns are left out.
        spelling: parts of `row` that the paper spells differently, ours -> printed.
        rows: a pattern of the printed rows to show, as `cifar10 / *`.
        of_images: the printed columns that are percentages of the `n_images` images that ours has in a column.

    Raises:
        KeyError: ours lacks a column.
        ValueError: `printed` has no such rows, or not of one table; an infinite number of ours.
    """
    names = dict(values) if isinstance(values, Mapping) else {name: name for name in values}
    patterns = dict(by) if isinstance(by, Mapping) else dict.fromkeys(by, "{}")
    if len(printed[["paper", "table"]].drop_duplicates()) != 1:
        raise ValueError("the printed numbers must be of one table")
    shown = [
        name in names.values() and fnmatchcase(row, rows) for row, name in zip(printed["row"], printed["column"], strict=True)
    ]
    if not any(shown):
        raise ValueError(f"nothing is printed in rows {rows!r} and columns {', '.join(names.values())}; correct them")
    decimals = {str(name): max(map(_decimals, part)) for name, part in printed.groupby("column")["value"]}
    found = _numbers(ours, patterns, names, spelling or {})
    images = _images(ours, patterns, spelling or {}) if of_images else {}

    def line(facts: Mapping[str, str]) -> dict[str, Any]:
        row, column = facts["row"], facts["column"]
        runs = found.get((row, column), [])
        n_images = images.get(row) if column in of_images else None
        return _line(facts, runs, decimals=decimals.get(column, 0), n_images=n_images)

    of_table = dict.fromkeys(COLUMNS, "") | {name: printed[name].iloc[0] for name in ("paper", "table")}
    there = set(zip(printed["row"], printed["column"], strict=True))
    lines = [line(facts) for facts in _records(printed[shown])]
    lines += [line({**of_table, "row": row, "column": column}) for row, column in found if (row, column) not in there]
    return pd.DataFrame(lines, columns=BESIDE).astype({"printed_n": "Int64", "ours_n": "Int64"})


def beside(
    ours: pd.DataFrame,
    *,
    of: str,
    paper: str,
    table: str,
    by: Mapping[str, str] | Sequence[str],
    values: Mapping[str, str] | Sequence[str],
    where: Mapping[str, Any] | None = None,
    spelling: Mapping[str, str] | None = None,
    rows: str = "*",
    of_images: Sequence[str] = (),
) -> pd.DataFrame:
    """Ours beside a printed table; a report of one run, or of a sweep over its runs.

    Args:
        of: the name of the table that `ours` is.
        where: only rows of ours in which these columns have these values.

    Raises:
        ValueError: as `printed` and `against`; the table lacks a column.
    """
    asked = [*by, *values, *(where or {}), *([N_IMAGES] if of_images else [])]
    if lacking := [column for column in asked if column not in ours]:
        raise ValueError(f"table {of} has no column {lacking[0]}; it has {', '.join(map(str, ours))}")
    for column, value in (where or {}).items():
        ours = ours[ours[column].map(_spelled) == _spelled(value)]
    return against(ours, printed(paper, table), by=by, values=values, spelling=spelling, rows=rows, of_images=of_images)


def verdict(printed: str, ours: float, *, decimals: int, printed_error: float = 0.0, ours_error: float = 0.0) -> Verdict:
    """The first of these that is true.

    - `not printed`: there is no printed number.
    - `not run`: there is none of ours (nan).
    - `equal`: rounded to the printed digits they are the same; half a unit of the last digit rounds either way.
    - `within 2 standard errors`: of the difference, whose standard error is the root of the sum of both squares.
    - `differs`.

    Args:
        decimals: printed digits behind the point. Those of the column's most precise number, as 100 beside 93.75 is 100.00.
        printed_error: `standard_error` of the printed number, 0 where it is not known; then only the other counts.
        ours_error: likewise of ours.
    """
    if not printed:
        return "not printed"
    if math.isnan(ours):
        return "not run"
    difference = abs(Decimal(repr(ours)) - Decimal(printed))
    if difference <= Decimal(5).scaleb(-decimals - 1):
        return "equal"
    error = math.hypot(printed_error, ours_error)
    return "within 2 standard errors" if difference <= Decimal(2 * error) else "differs"


def standard_error(value: float, sd: float, n: int, n_images: int | None = None) -> float:
    """Standard error of a mean of n runs; of a single run, the binomial one of its images; 0 where neither is known.  [value's]

    Args:
        value: in percent, if `n_images` is given.
        sd: of a sample, or nan.
        n_images: the number of images of which `value` is a percentage.

    Raises:
        ValueError: a percentage below 0 or above 100.
    """
    if n >= 2 and not math.isnan(sd):
        return sd / math.sqrt(n)
    if n_images is None or math.isnan(value):
        return 0.0
    if not 0 <= value <= 100:
        raise ValueError(f"{value:g} is no percentage of images; of_images names a wrong column")
    return math.sqrt(value * (100 - value) / n_images)


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `against` as text for a page: each side's mean, +- its sd (and n) in one cell, where these are known."""
    rows = [
        {
            "row": facts["row"],
            "column": facts["column"],
            "printed": _told(facts["printed"], facts["printed_sd"], facts["printed_n"]),
            "ours": _told(facts["ours_mean"], facts["ours_sd"], facts["ours_n"]),
            "difference": "" if math.isnan(facts["difference"]) else f"{facts['difference']:+.4g}",
            "verdict": facts["verdict"],
            "remark": facts["remark"],
        }
        for facts in _records(table)
    ]
    return pd.DataFrame(rows, columns=["row", "column", "printed", "ours", "difference", "verdict", "remark"])


def verdict_counts(table: pd.DataFrame) -> str:
    """The number of rows of each verdict, as `2 equal, 1 differs`."""
    counts = table["verdict"].value_counts()
    return ", ".join(f"{counts[each]} {each}" for each in get_args(Verdict) if each in counts)


def _line(facts: Mapping[str, str], runs: Sequence[float], *, decimals: int, n_images: int | None) -> dict[str, Any]:
    """One row of `BESIDE`."""
    mean, sd, n = mean_sd_n(runs)
    value, value_sd = (float(facts[name]) if facts[name] else math.nan for name in ("value", "sd"))
    value_n = int(facts["n"]) if facts["n"] else None
    without = f"{len(runs) - n} of {len(runs)} runs of ours without a number" if n < len(runs) else ""
    return {
        **{name: facts[name] for name in ("paper", "table", "row", "column")},
        "printed": value,
        "printed_sd": value_sd,
        "printed_n": value_n,
        "ours_mean": mean,
        "ours_sd": sd,
        "ours_n": n,
        "difference": mean - value,
        "verdict": verdict(
            facts["value"],
            mean,
            decimals=decimals,
            printed_error=standard_error(value, value_sd, value_n or 0, n_images),
            ours_error=standard_error(mean, sd, n, n_images),
        ),
        "remark": "; ".join(filter(None, (facts["remark"], without))),
    }


def _numbers(
    ours: pd.DataFrame, patterns: Mapping[str, str], names: Mapping[str, str], spelling: Mapping[str, str]
) -> dict[tuple[str, str], list[float]]:
    """The numbers of ours by (row, printed column), in order of appearance."""
    found: dict[tuple[str, str], list[float]] = {}
    seen: set[tuple[Any, ...]] = set()
    for facts in _records(ours):
        row = _row(facts, patterns, spelling)
        numbers = [float(facts[name]) for name in names]
        same = (row, facts.get(SEED), *map(repr, numbers))
        if SEED in facts and same in seen:
            continue
        seen.add(same)
        for column, number in zip(names.values(), numbers, strict=True):
            found.setdefault((row, column), []).append(number)
    return found


def _images(ours: pd.DataFrame, patterns: Mapping[str, str], spelling: Mapping[str, str]) -> dict[str, int]:
    """The number of images of each row; the largest, which gives the smallest error."""
    found: dict[str, int] = {}
    for facts in _records(ours):
        row = _row(facts, patterns, spelling)
        found[row] = max(found.get(row, 0), int(facts[N_IMAGES]))
    return found


def _row(facts: Mapping[str, Any], patterns: Mapping[str, str], spelling: Mapping[str, str]) -> str:
    parts = [pattern.format(_spelled(facts[column])) for column, pattern in patterns.items()]
    return " / ".join(spelling.get(part, part) for part in parts)


def _spelled(value: Any) -> str:
    """A value as it stands in a row's name: 0.10 is `0.1`, 1.0 is `1`."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(float(value))
    return str(value)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in facts.items()} for facts in table.to_dict("records")]


def _decimals(value: str) -> int:
    """Digits behind the point; none of an empty value."""
    exponent = Decimal(value or "0").as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _told(mean: float, sd: float, n: Any) -> str:
    if math.isnan(mean):
        return ""
    spread = "" if math.isnan(sd) else f" +- {sd:.3g}"
    return f"{mean:.10g}{spread}" + (f" ({n})" if not pd.isna(n) else "")
