"""Hostile names: no output holds what a terminal, a spreadsheet, Markdown or LaTeX would obey."""

import csv
import io
import re
from pathlib import Path

import pandas as pd
import pytest
from sweep_folders import TABLES, begin, column, facts, finish, finish_with, make_sweep, rows

from runners.looking import status
from runners.looking.escapes import csv_cell, latex, markdown
from runners.process.errors import plain
from runners.reporting import report
from runners.reporting.pivot import PAGE_ROWS, Pivot
from runners.storage import folder as run_folder

TABLE_FILES = ("accuracy.csv", "accuracy_over_seeds.csv", "missing.csv")
FILES = (*TABLE_FILES, "report.md", "report.tex")

HOSTILE = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2",
    "@SUM(A1)",
    " =1",
    "\t=1",
    "\x1b[31mred\x07",
    "<script>alert(1)</script>",
    "a|b`c*d_e[f](g)",
    "_emphasis_ bn_gamma ~~no~~ \\",
    r"\input{/etc/passwd} $x^2$ 100% #1 & {~}",
    "[0,1]",
    "*",
    "two\nlines\r\u2028",
    "\u202eright to left",
    "\u4e2d",
    "\ud800",
]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    grid = [{"criterion": name, "number": number} for number, name in enumerate(HOSTILE)]
    sweep = make_sweep(tmp_path, grid)
    for values in grid[::2]:
        finish(tmp_path, values, facts() | {"tables": {"accuracy": TABLES["accuracy"]}})
    for values in grid[1::2]:
        run_folder.fail(begin(tmp_path, values), values["criterion"].encode(errors="replace").decode(), 1, "")
    return sweep


def test_no_output_holds_what_steers_a_terminal(hostile: Path) -> None:
    texts = [status.status(hostile), report.report(hostile), *((hostile / name).read_text() for name in FILES)]
    for text in texts:
        assert all(each == "\n" or each.isprintable() for each in text)
    assert len(texts[0].splitlines()) == len(HOSTILE) + 3


def test_no_csv_cell_is_a_formula(hostile: Path) -> None:
    report.report(hostile)
    for name in TABLE_FILES:
        cells = [cell for line in csv.reader(io.StringIO((hostile / name).read_text())) for cell in line]
        assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "@", "-")) and cell != "-2"]
    assert "'=cmd|' /C calc'!A0" in [row["criterion"] for row in rows(hostile / "accuracy.csv")]


def test_no_cell_of_a_table_of_a_run_is_a_formula(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{}])
    names = [name for name in HOSTILE if name.encode(errors="replace").decode() == name]
    text = pd.DataFrame({"name": names, "slope": -0.5}).to_csv(index=False)
    finish_with(tmp_path, {}, facts() | {"tables": {"odd": {"by": ["name"], "values": ["slope"]}}}, {"odd": text})
    shown = report.report(sweep)
    for name in ("odd.csv", "odd_over_seeds.csv"):
        cells = [cell for (cell,) in column(sweep / name, "name")]
        assert len(cells) == len(names) and "'=cmd|' /C calc'!A0" in cells
        assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "@", "-")) and cell != "-2"]
    assert column(sweep / "odd.csv", "slope") == [("-0.5",)] * len(names)
    assert "<script>" not in shown and all(each == "\n" or each.isprintable() for each in shown)


def test_a_negative_number_is_no_formula() -> None:
    assert (csv_cell(-2), csv_cell("-2"), csv_cell("-2e-05"), csv_cell(None), csv_cell(0.1)) == (
        "-2",
        "-2",
        "-2e-05",
        "",
        "0.1",
    )
    assert (csv_cell("-2-1"), csv_cell("+1 1"), csv_cell("-"), csv_cell("-e1")) == ("'-2-1", "'+1 1", "'-", "'-e1")


def test_markdown_has_no_tags_and_no_other_cells(hostile: Path) -> None:
    text = report.report(hostile)
    assert "<script>" not in text and "&lt;script&gt;" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}
    assert markdown("bn_gamma _x_") == r"bn_gamma \_x\_"


def test_latex_has_no_commands_but_ours(hostile: Path) -> None:
    report.report(hostile)
    lines = (hostile / "report.tex").read_text().splitlines()
    ours = r"\\(?:textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}|\\[_%&#${}]|\$\\pm\$"
    body = [line for line in lines if line.endswith(r" \\")]
    assert len(body) == len(HOSTILE) + 1
    for line in body:
        left = re.sub(ours, "", line.removesuffix(r" \\"))
        assert left.count("&") == 3, "columns"
        assert not re.search(r"[\\_%#$^~<>|\"]", left)
        assert left.isascii() and left.replace("{[}", "").replace("{*}", "").replace("{''}", "").count("{") == 0
        assert not line.startswith(("[", "*")), "would be an argument of the row before"
    rest = [line for line in lines if line not in body]
    assert all(line.startswith("% ") for line in rest[:3])
    assert rest[3:] == [r"\begin{tabular}{llrr}", r"\hline", r"\hline", r"\hline", r"\end{tabular}"]


def test_a_long_latex_table_begins_anew_on_every_page() -> None:
    rows = [([str(number)], ["1.00 +- 0.10 (3)"]) for number in range(2 * PAGE_ROWS + 1)]
    pages = Pivot(["ratio"], ["tuned"], rows).latex().split("\n\n")
    assert [page.count("pm") for page in pages] == [PAGE_ROWS, PAGE_ROWS, 1]
    for page in pages:
        lines = page.strip().splitlines()
        assert lines[:4] == [r"\begin{tabular}{lr}", r"\hline", r"ratio & tuned \\", r"\hline"]
        assert lines[-2:] == [r"\hline", r"\end{tabular}"]
    numbers = [line.split(" & ")[0] for page in pages for line in page.splitlines() if "pm" in line]
    assert numbers == [str(number) for number in range(2 * PAGE_ROWS + 1)]


def test_escapes_by_hand() -> None:
    assert plain("a\x1b[0m\n\u202e") == r"a\x1b[0m\n\u202e"
    assert latex("50 % of_a\\b {x} \u4e2d") == r"50 \% of\_a\textbackslash{}b \{x\} \textbackslash{}u4e2d"
