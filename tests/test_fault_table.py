"""docs/faults.md names tests that there are."""

import re

from support import ROOT

TABLE = (ROOT / "docs" / "faults.md").read_text()


def named() -> list[tuple[str, str]]:
    """File and words of a test's name, of `file::name` and of file `words`, `words`."""
    whole = re.findall(r"`(test_\w+)::(test_\w+)`", TABLE)
    lists = re.findall(r"\b(test_\w+) ((?:`\w+`(?: \([^)]*\))?(?:, )?)+)", TABLE)
    return whole + [
        (file, words) for file, listed in lists for words in re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", listed))
    ]


def test_every_test_that_is_named_exists() -> None:
    assert len(named()) > 100
    texts = {file: (ROOT / "tests" / f"{file}.py").read_text() for file, _ in named()}
    missing = [
        f"{file} {words}"
        for file, words in named()
        if not re.search(rf"def test_\w*{re.escape(words.removeprefix('test_'))}", texts[file])
    ]
    assert missing == []


def test_every_row_names_a_test_or_says_that_it_is_not_met() -> None:
    rows = [line for line in TABLE.splitlines() if re.match(r"\| [A-G]\d* \|", line)]
    assert len(rows) > 60
    assert [row for row in rows if "test_" not in row and "not met" not in row] == []
