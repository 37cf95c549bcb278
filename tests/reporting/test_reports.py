"""Reports: tables and figures that an experiment's YAML asks for by the names of their arguments."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sweep_folders import accuracy, facts, finish_with, of_earlier_version

from analysis.matrices import criteria_matrices, matrix
from analysis.printed import COLUMNS, against
from runners.process.errors import ConfigError
from runners.reporting.reports import Report, Stored, apply_reports, asked_for, build_reports, report_on_run
from runners.storage.folder import is_done
from support import Command, check_line, raises_line

SCORES = pd.DataFrame({"score": [1.0, 2.0]})


def double(scores: pd.DataFrame, *, times: int = 2) -> pd.DataFrame:
    return scores * times


def drawn(double: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    figure = Figure()
    figure.add_subplot().plot(scores["score"], double["score"])
    return figure


def undrawable() -> Figure:
    figure = Figure()
    figure.suptitle(r"$\no_such$")
    return figure


def test_reports_read_tables_by_name_and_each_other_in_order() -> None:
    tables = {"scores": SCORES}
    made, refused = apply_reports({"double": partial(double, times=3), "drawn": partial(drawn)}, tables)
    assert list(made) == ["double", "drawn"] and isinstance(made["drawn"], Figure) and not refused
    assert isinstance(made["double"], pd.DataFrame) and made["double"]["score"].tolist() == [3.0, 6.0]
    assert set(tables) == {"scores"}


def test_what_the_yaml_sets_is_no_table() -> None:
    assert asked_for({"double": partial(double, times=3), "drawn": partial(drawn)}) == {"scores", "double"}
    made, _ = apply_reports({"double": partial(double, times=3)}, {"scores": SCORES, "times": SCORES})
    assert isinstance(made["double"], pd.DataFrame) and made["double"]["score"].tolist() == [3.0, 6.0]


def named(ours: pd.DataFrame, *, of: str) -> pd.DataFrame:
    return ours.assign(of=of)


def test_the_option_of_names_a_table_or_an_earlier_report() -> None:
    assert "scores" in asked_for({"named": partial(named, of="scores")})
    reports = {"double": partial(double), "first": partial(named, of="scores"), "second": partial(named, of="double")}
    made, _ = apply_reports(reports, {"scores": SCORES})
    assert isinstance(made["first"], pd.DataFrame) and isinstance(made["second"], pd.DataFrame)
    assert made["first"]["score"].tolist() == [1.0, 2.0] and made["second"]["score"].tolist() == [2.0, 4.0]
    _, refused = apply_reports({"first": partial(named, of="gone")}, {"scores": SCORES})
    check_line(str(refused[0]), "reports.first", "'gone'", "scores")


def verdicts(scores: pd.DataFrame, *, n: int) -> pd.DataFrame:
    table = pd.DataFrame({"row": [f"row{number}" for number in range(n)], "value": "1"})
    empty = dict.fromkeys(COLUMNS, "")
    facts = pd.DataFrame([empty | {"column": "score"} | row for row in table.to_dict("records")])
    return against(scores.assign(row="row0")[:1], facts, by=["row"], values=["score"])


def test_verdicts_of_a_run_are_for_the_terminal(tmp_path: Path) -> None:
    folder = finish_with(tmp_path, {}, facts() | {"tables": {"scores": {"by": [], "values": []}}}, {"scores": "score\n1\n2\n"})
    assert report_on_run(folder, {"double": partial(double)}) == ""
    lines = report_on_run(folder, {"double": partial(double), "few": partial(verdicts, n=2)}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[-2:]]
    assert lines[0] == "few:" and len(lines) == 6
    assert cells == [["row0", "score", "1", "1 (1)", "+0", "equal", ""], ["row1", "score", "1", "", "", "not run", ""]]
    check_line(report_on_run(folder, {"many": partial(verdicts, n=61)}), 61, "1 equal, 60 not run", "many.csv")


@pytest.mark.parametrize(
    ("reports", "told"),
    [
        ({"drawn": partial(drawn), "double": partial(double)}, ["reports.drawn", "'double'", "scores"]),
        ({"scores": partial(double)}, ["reports.scores"]),
        ({"double": partial(lambda scores: scores["layer"])}, ["reports.double", "'layer'", "reports.double=null"]),
        ({"double": partial(lambda scores: scores.set_axis([1, 2], axis=1))}, ["reports.double=null"]),
        ({"double": partial(lambda scores: scores + None)}, ["TypeError", "reports.double=null"]),
        ({"drawn": partial(undrawable)}, ["ValueError", "reports.drawn=null"]),
    ],
)
def test_a_report_that_cannot_be_made_is_one_line_and_stops_no_other(
    reports: dict[str, Report], told: list[str], tmp_path: Path
) -> None:
    tables = {"scores": "score\n1\n2\n"}
    folder = finish_with(tmp_path, {}, facts() | {"tables": {"scores": {"by": [], "values": []}}}, tables)
    with raises_line(ConfigError, *told):
        report_on_run(folder, reports | {"made": lambda: SCORES})
    assert (folder / "made.csv").is_file() and is_done(folder)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"_target_": "analysis.spread.random_spread", "_partial_": True, "tims": 3}, ["reports.double.tims"]),
        ({"_target_": "builtins.dict"}, ["reports.double", "_partial_: true"]),
        ({"_target_": "analysis.spread.no_such", "_partial_": True}, ["reports.double", "no_such"]),
    ],
)
def test_a_wrong_report_is_found_before_anything_runs(spec: dict[str, Any], told: list[str]) -> None:
    right = {"_target_": "analysis.spread.random_spread", "_partial_": True}
    assert list(build_reports({"double": right, "left_out": None})) == ["double"]
    with raises_line(ConfigError, *told):
        build_reports({"double": spec})


def test_the_tables_of_a_folder_are_read_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("layer,score\n1,0.5\n")
    (tmp_path / "of_a_report.csv").write_text("score\n1\n")
    found = Stored(tmp_path, ["scores", "gone"])
    assert list(found) == ["gone", "scores"] and "of_a_report" not in found and "gone" in found
    assert found["scores"].to_dict("records") == [{"layer": "1", "score": 0.5}]


def test_a_finished_run_gets_its_reports_anew_and_stays_finished(tmp_path: Path) -> None:
    tables = {"scores": "score\n1\n2\n"}
    folder = finish_with(tmp_path, {}, facts() | {"tables": {"scores": {"by": [], "values": []}}}, tables)
    for times in (3, 5):
        report_on_run(folder, {"double": partial(double, times=times), "drawn": partial(drawn)})
        assert (folder / "double.csv").read_text() == f"score\n{times}\n{2 * times}\n"
        assert (folder / "drawn.png").is_file() and is_done(folder)
    with raises_line(ConfigError, "reports.scores"):
        report_on_run(folder, {"scores": partial(double)})
    assert (folder / "scores.csv").read_text() == tables["scores"]


def test_reports_among_the_results_of_an_earlier_version_stay(tmp_path: Path) -> None:
    found = of_earlier_version(facts(), accuracy())
    folder = finish_with(tmp_path, {}, found, {"scores": "score\n1\n", "double": "score\n7\n"})
    report_on_run(folder, {"double": partial(double), "drawn": partial(drawn)})
    assert (folder / "double.csv").read_text() == "score\n7\n" and (folder / "drawn.png").is_file() and is_done(folder)


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
    assert next(shown for title, shown in texts.items() if "pooled" in title) == ["1.00", "0.80", "0.80", "1.00"]
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
