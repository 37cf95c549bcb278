"""README's table of reproduced numbers, from `analysis/published/reproduced.csv`."""

import re
from pathlib import Path

from analysis.printed import against, printed
from runners.looking.seen import Seen
from runners.process.errors import ConfigError
from runners.storage.files import write_atomic

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- published -->", "<!-- /published -->"

SHOWN = ["row", "printed", "ours_mean", "verdict", "remark"]


def run() -> Seen:
    """The table, after it was written into README.md, where there is one.

    Raises:
        ConfigError: README.md has no place for it.
        ResourceError: README.md cannot be written.
    """
    table = reproduced()
    if README.is_file():
        write_atomic(README, with_table(README.read_text(encoding="utf-8"), table).encode())
    return Seen(table)


def with_table(page: str, table: str) -> str:
    """The page with the table between its two marks, instead of what stands there.

    Raises:
        ConfigError: the page lacks a mark, or has one twice.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ConfigError(f"README.md has no single {BEGIN} and {END}; the table stands between them; put them back")
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n\n{table}\n\n{END}", page, flags=re.DOTALL)


def reproduced() -> str:
    """The reproduced numbers in Markdown: published, ours, the verdict, and the test that checks ours."""
    facts = printed("reproduced", "README")
    ours = facts[facts["column"] == "ours"].rename(columns={"value": "published"})
    table = against(ours, facts, by=["row"], values=["published"])
    lines = ["| what | published | ours | verdict | check |", "| --- | --- | --- | --- | --- |"]
    for row, published, mean, verdict, check in table[SHOWN].itertuples(index=False):
        lines.append(f"| {row} | {published:,.10g} | {mean:,.10g} | {verdict} | {check} |")
    return "\n".join(lines)
