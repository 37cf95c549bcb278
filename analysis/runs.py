"""Functions of one run's table, applied to a table of many runs."""

from collections.abc import Callable

import pandas as pd

RUN = "run"


def run_by_run(of_one_run: Callable[[pd.DataFrame], pd.DataFrame], table: pd.DataFrame) -> pd.DataFrame:
    """The result of `of_one_run` for the rows of each `run`, one below the other; of a table of one run, simply its result.

    Columns that are constant within every run (`seed`, `ratio`, ...) are kept in front. Without it, filters of several
    networks would be taken for those of one.
    """
    if RUN not in table or table[RUN].nunique() < 2:
        return of_one_run(table)
    runs = table.groupby(RUN, sort=False)
    constant = [str(column) for column in table if (runs[[column]].nunique(dropna=False) == 1).all(axis=None)]
    found: list[pd.DataFrame] = []
    for _, part in runs:
        made = of_one_run(part)
        about = {column: part[column].iloc[0] for column in constant if column not in made}
        found.append(made.assign(**about)[[*about, *made]])
    return pd.concat(found, ignore_index=True)


def check_one_run(*tables: pd.DataFrame) -> None:
    """Refuses tables of several runs where a figure shows one.

    Raises:
        ValueError: a column `run` has two values.
    """
    for table in tables:
        if RUN in table and table[RUN].nunique() > 1:
            raise ValueError(f"they are of {table[RUN].nunique()} runs, and this shows one")
