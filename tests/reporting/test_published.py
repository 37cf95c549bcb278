"""README's table of reproduced numbers is what its facts say."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from analysis.printed import printed
from runners.process.errors import ConfigError
from runners.reporting import published
from support import ROOT


def test_the_table_in_readme_is_up_to_date() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert published.with_table(page, published.reproduced()) == page, "python run.py runner=published writes it"


def test_every_number_is_equal_and_stands_in_the_test_that_checks_it() -> None:
    lines = published.reproduced().splitlines()[2:]
    assert len(lines) == 14
    for line in lines:
        _, number, ours, verdict, check = (cell.strip() for cell in line.strip("|").split(" | "))
        assert number == ours and verdict == "equal"
        text = (ROOT / check.split(",")[0]).read_text()
        assert re.search(rf"\b{number.replace(',', '_?')}\b", text), line


def test_a_number_of_ours_that_differs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = printed("reproduced", "README")
    facts.loc[facts["column"].eq("ours") & facts["value"].eq("9339"), "value"] = "9338"
    monkeypatch.setattr(published, "printed", lambda *_: facts)
    assert published.reproduced().count("| differs |") == 1 and "| 9,339 | 9,338 |" in published.reproduced()


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before \\1\n{published.BEGIN}\nold\n{published.END}\nafter\n")
    monkeypatch.setattr(published, "README", readme)
    table = published.run().text
    assert readme.read_text() == f"before \\1\n{published.BEGIN}\n\n{table}\n\n{published.END}\nafter\n"
    readme.write_text("no marks\n")
    with pytest.raises(ConfigError):
        published.run()
    assert readme.read_text() == "no marks\n"
    readme.unlink()
    assert published.run().text == table and not readme.exists()


def test_every_experiment_names_printed_rows_that_there_are() -> None:
    specs = {
        f"{path.stem}.{name}": spec
        for path in (ROOT / "conf" / "experiment").glob("*.yaml")
        for name, spec in yaml.safe_load(path.read_text()).get("reports", {}).items()
        if spec["_target_"] == "analysis.printed.beside"
    }
    assert len(specs) >= 3
    for name, spec in specs.items():
        facts = printed(spec["paper"], spec["table"])
        shown = facts[[fnmatchcase(row, spec.get("rows", "*")) for row in facts["row"]]]
        values = spec["values"]
        assert set(values.values() if isinstance(values, dict) else values) <= set(shown["column"]), name
