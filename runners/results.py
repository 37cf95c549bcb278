"""Results of a runner: tidy tables, figures, networks, and the text that the terminal shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from analysis.columns import qualities
from analysis.repeats import PAIR, layer_means
from runners.pruning.saved import Pruned


@dataclass(frozen=True)
class Table:
    """A table that reports gather over the runs of a sweep.

    Args:
        rows: tidy.
        by: the columns that together name a row within one run; none for a table of one row.
        values: the columns of numbers of which reports show mean, standard deviation and n over seeds.
    """

    rows: pd.DataFrame
    by: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """Each table becomes `<name>.csv` in the run folder, each figure `<name>.png`, each network a folder `<name>/`.

    Args:
        tables: those that are plain data frames are written, and not gathered by reports.
        text: what the terminal shows of the run, in any number of lines.
        headline: the same in a few words, for the line of a job in `runner=status`.
    """

    tables: Mapping[str, pd.DataFrame | Table]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    networks: Mapping[str, Pruned] = field(default_factory=dict)
    text: str = ""
    headline: str = ""


def accuracy_table(accuracy: pd.DataFrame) -> Table:
    """The table of accuracies, one row a stage."""
    return Table(accuracy, by=("stage",), values=(*qualities(accuracy), "params", "macs"))


def score_tables(scores: pd.DataFrame, spearman: pd.DataFrame) -> dict[str, pd.DataFrame | Table]:
    """The scores, and how far their criteria agree: layer by layer, and a pair of criteria in the mean over layers."""
    means = Table(layer_means(spearman), by=tuple(PAIR), values=("rho",))
    return {"agreement": means, "spearman": spearman, "scores": scores}


def histories_table(histories: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The histories of several stages, one below the other."""
    return pd.concat([part.assign(stage=stage) for stage, part in histories.items()], ignore_index=True)
