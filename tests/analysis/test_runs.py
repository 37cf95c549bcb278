"""Functions of one run's table, of many runs."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from analysis.applicability import applicability
from analysis.runs import check_one_run
from analysis.similarity import pooled_spearman, spearman

NAMES = ["layer", "index", "criterion", "filter", "score"]


def scores(seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    rows = [(f"conv{layer}", layer, name, number, random.random()) for layer in (1, 2) for name in "ab" for number in range(4)]
    return pd.DataFrame(rows, columns=NAMES)


@pytest.mark.parametrize("function", [applicability, pooled_spearman, spearman])
def test_each_run_gets_the_rows_that_it_would_get_alone(function: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    many = pd.concat([scores(seed).assign(run=f"run{seed}", seed=seed, ratio=0.5) for seed in (3, 1, 2)])
    found = function(many)
    alone = [function(scores(seed)) for seed in (3, 1, 2)]
    assert list(found)[:3] == ["run", "seed", "ratio"] and list(found)[3:] == list(alone[0])
    assert found["seed"].tolist() == [seed for seed, part in zip((3, 1, 2), alone, strict=True) for _ in range(len(part))]
    assert_frame_equal(found[list(alone[0])], pd.concat(alone, ignore_index=True))


def test_a_table_of_one_run_is_as_it_was() -> None:
    assert_frame_equal(applicability(scores(0).assign(run="only")), applicability(scores(0)))


def test_a_figure_of_one_run_refuses_several() -> None:
    check_one_run(scores(0), scores(0).assign(run="only"))
    with pytest.raises(ValueError, match="of 2 runs"):
        check_one_run(scores(0), pd.DataFrame({"run": ["a", "b"]}))
