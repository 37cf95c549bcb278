"""Tables come back from their CSV as they were written."""

from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from runners.storage.tables import read_table

TEXT = ["layer", "criterion", "criterion_a", "criterion_b", "note", "obstacle", "removed", "masked"]


@pytest.mark.parametrize("column", TEXT)
@pytest.mark.parametrize("cells", [["1", "02"], ["", ""], ["nan", "NA"], ["1 2 3", ""]])
def test_text_that_looks_like_a_number_or_like_nothing_stays_text(column: str, cells: list[str], tmp_path: Path) -> None:
    pd.DataFrame({column: cells, "score": [0.1, float("nan")]}).to_csv(tmp_path / "table.csv", index=False)
    found = read_table(tmp_path / "table.csv")
    assert found[column].tolist() == cells
    assert found["score"].iloc[0] == 0.1 and found["score"].isna().tolist() == [False, True]


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    table = pd.DataFrame({"layer": ["0"] * 4, "score": [0.1 + 0.2, 1e-300 / 3, float("inf"), float("nan")], "filter": range(4)})
    table.to_csv(tmp_path / "table.csv", index=False)
    assert_frame_equal(read_table(tmp_path / "table.csv"), table, check_exact=True)
