"""Functions of one run's table, applied to a table of many runs."""

from collections.abc import Callable
from functools import wraps

import pandas as pd

RUN = "run"


def run_by_run(of_one_run: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The same function, also of a table with the rows of many runs: its results for each `run`, one below the other.

    Columns that are constant within every run (`seed`, `ratio`, ...) are kept. Without it, filters of several networks would
    be taken for those of one.
    """

    @wraps(of_one_run)
    def of_all_runs(scores: pd.DataFrame) -> pd.DataFrame:
        if RUN not in scores or scores[RUN].nunique() < 2:
            return of_one_run(scores)
        runs = scores.groupby(RUN, sort=False)
        constant = [column for column in scores if (runs[column].nunique(dropna=False) == 1).all()]
        found: list[pd.DataFrame] = []
        for _, part in runs:
            made = of_one_run(part)
            about = {column: part[column].iloc[0] for column in constant if column not in made}
            found.append(made.assign(**about)[[*about, *made]])
        return pd.concat(found, ignore_index=True)

    return of_all_runs


def check_one_run(*tables: pd.DataFrame) -> None:
    """Refuses tables of several runs where a figure shows one.

    Raises:
        ValueError: a column `run` has two values.
    """
    for table in tables:
        if RUN in table and table[RUN].nunique() > 1:
            raise ValueError(f"they are of {table[RUN].nunique()} runs, and this shows one")
