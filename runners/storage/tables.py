"""Tables as CSV files, read back as they were written."""

from pathlib import Path

import pandas as pd

# Text that may look like a number (a layer named 0) or be empty in every row.
TEXT_COLUMNS = ("layer", "criterion", "criterion_a", "criterion_b", "note", "obstacle", "removed", "masked")


def read_table(path: Path) -> pd.DataFrame:
    """A table as it was written: the same numbers to the last bit, and empty text where text was empty."""
    header = list(pd.read_csv(path, nrows=0).columns)
    text = [column for column in TEXT_COLUMNS if column in header]
    empty_is_nan = {column: [""] for column in header if column not in text}
    return pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=empty_is_nan)
