"""docs/faults.md names tests that there are."""

import re

from support import ROOT


def named() -> list[tuple[str, str]]:
    return re.findall(r"`(test_\w+)::(test_\w+)`", (ROOT / "docs" / "faults.md").read_text())


def test_every_test_that_is_named_exists() -> None:
    assert len(named()) > 30
    texts = {path.stem: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    missing = [f"{file}::{name}" for file, name in named() if f"def {name}(" not in texts.get(file, "")]
    assert missing == []


def test_every_row_names_a_test() -> None:
    rows = [line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if re.match(r"\| [A-G]\d* \|", line)]
    assert len(rows) > 20
    assert [row for row in rows if "::test_" not in row] == []
