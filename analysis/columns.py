"""Columns of numbers in words: what a network is measured by, and in which unit."""

import re
from collections.abc import Callable
from itertools import takewhile

import pandas as pd

UNITS = {"pct": "%", "nats": "nats"}
FORMATS = {"pct": "{:.2f}", "nats": "{:.4f}", "ms": "{:.2f}"}


def qualities(accuracy: pd.DataFrame) -> list[str]:
    """The task's numbers, which stand between `stage` and `params`; the first is the one that networks are compared by."""
    columns = list(map(str, accuracy))
    return list(takewhile(lambda name: name != "params", columns[columns.index("stage") + 1 :]))


def measured(table: pd.DataFrame, split: str) -> list[str]:
    """The columns whose names begin with that word (`tuned` finds `tuned_top1_pct`)."""
    return [name for name in map(str, table) if name.startswith(f"{split}_")]


def words(column: str) -> str:
    """The name without its unit: `train_top1_pct` is `train top-1`."""
    return re.sub(r"([a-z])(\d)", r"\1-\2", column.rpartition("_")[0].replace("_", " "))


def label(column: str) -> str:
    """A figure's axis: `top1_pct` is `top-1 [%]`."""
    unit = column.rpartition("_")[2]
    return f"{words(column)} [{UNITS.get(unit, unit)}]"


def number_text(column: str) -> Callable[..., str]:
    """The form of a column's numbers, without the unit: `top1_pct` 93.1 is `93.10`, `macs` 1000 is `1,000`."""
    return FORMATS.get(column.rpartition("_")[2], "{:,}").format


def shown(column: str, value: float) -> str:
    """A value with its name and unit: `train_top1_pct` is `train top-1 93.10 %`."""
    unit = column.rpartition("_")[2]
    if unit == "pct":
        return f"{words(column)} {value:.2f} %"
    return f"{words(column)} {value:.4f}" if unit == "nats" else f"{column.replace('_', ' ')} {value:.4g}"
