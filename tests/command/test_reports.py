"""Reports: tables and figures that an experiment's YAML asks for by the names of their arguments."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.matrices import criteria_matrices, matrix
from runners.command.reports import Report, apply_reports, check_reports
from runners.process.errors import ConfigError
from support import Command

SCORES = pd.DataFrame({"score": [1.0, 2.0]})


def double(scores: pd.DataFrame, *, times: int = 2) -> pd.DataFrame:
    return scores * times


def drawn(double: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    figure = Figure()
    figure.add_subplot().plot(scores["score"], double["score"])
    return figure


def test_reports_read_tables_by_name_and_each_other_in_order() -> None:
    tables, figures = apply_reports({"scores": SCORES}, {"double": partial(double, times=3), "drawn": partial(drawn)})
    assert tables["double"]["score"].tolist() == [3.0, 6.0] and isinstance(figures["drawn"], Figure)
    assert set(tables) == {"double"}, "the runner's own tables are not made again"


@pytest.mark.parametrize(
    ("reports", "told"),
    [
        (
            {"drawn": partial(drawn), "double": partial(double)},
            "reports.drawn needs the table 'double'; this runner has scores;",
        ),
        ({"scores": partial(double)}, "reports.scores bears the name of a table"),
    ],
)
def test_a_report_that_cannot_be_made_is_one_line(reports: dict[str, Report], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_reports({"scores": SCORES}, reports)
    assert str(caught.value).startswith(told) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (partial(double, **{"tims": 3}), "reports.double.tims is no option; it takes scores, times;"),
        (SCORES, "reports.double is no function of tables; its YAML needs _partial_: true;"),
    ],
)
def test_a_wrong_report_is_found_before_anything_runs(report: Any, told: str) -> None:
    check_reports({"double": partial(double, times=3)})
    with pytest.raises(ConfigError) as caught:
        check_reports({"double": report})
    assert str(caught.value).startswith(told)


def pairs(values: dict[tuple[str, str], float], index: int = 1) -> pd.DataFrame:
    rows = [{"index": index, "criterion_a": a, "criterion_b": b, "rho": rho} for (a, b), rho in values.items()]
    return pd.DataFrame(rows)


def test_a_matrix_is_symmetric_and_empty_where_there_is_no_row() -> None:
    found = matrix(pairs({("l2", "l1"): 0.9, ("l1", "gm"): 0.5}), ["l1", "l2", "gm"])
    expected = np.array([[1, 0.9, 0.5], [0.9, 1, np.nan], [0.5, np.nan, 1]])
    np.testing.assert_array_equal(found, expected)


def test_the_figure_shows_only_what_lies_above_and_every_layer_asked_for() -> None:
    layers = {1: 0.95, 4: 0.3}
    spearman = pd.concat([pairs({("l1", "l2"): rho}, index) for index, rho in layers.items()])
    spread = pd.DataFrame(
        {"index": [1, 4] * 2, "criterion": ["l1", "l1", "l2", "l2"], "mean": 1.0, "var_r": [0.1, 3.0, 0.2, 0.3], "cv2": 0.5}
    )
    figure = criteria_matrices(spearman, pairs({("l1", "l2"): 0.8}), spread, criteria=["l1", "l2"], layers=[1, 4], above=0.7)
    texts = {axes.get_title(): [text.get_text() for text in axes.texts] for axes in figure.axes}
    assert texts["convolution 1"] == ["1.00", "0.95", "0.95", "1.00"]
    assert texts["convolution 4"] == ["1.00", "1.00"], "0.3 is not drawn"
    assert texts["all layers pooled"] == ["1.00", "0.80", "0.80", "1.00"]
    clipped = next(axes for axes in figure.axes if axes.get_title().startswith("Var / E (")).lines[0].get_ydata()
    np.testing.assert_array_equal(clipped, [0.1, 1.0])


@pytest.mark.slow
def test_figure_5_is_one_yaml_and_runs_on_any_data(command: Command) -> None:
    some = ("experiment=neurips21_fig5", "dataset=fake", "model=resnet20", "recipe.epochs=1")
    ended = command(*some, "reports.neurips21_fig5.layers=[2,8]")
    assert ended.code == 0, ended.err
    pooled, spread = (pd.read_csv(ended.folder / f"{name}.csv") for name in ("spearman_pooled", "applicability"))
    assert len(pooled) == 28 and len(spread) == 8 * 19
    assert "pruned_by" not in spread and (ended.folder / "neurips21_fig5.png").stat().st_size > 10_000
