"""The text that the terminal shows of a finished run, read back from its folder."""

import json
from pathlib import Path

from runners.storage.folder import FACTS, SUMMARY


def summary(folder: Path) -> str:
    """The runner's own text, and where the time went; of a run of an earlier version, the names of its tables."""
    text = folder / SUMMARY
    tables = f"Tables: {', '.join(sorted(path.name for path in folder.glob('*.csv')))}"
    facts = json.loads((folder / FACTS).read_text())
    seconds = ", ".join(f"{what} {value:.1f}" for what, value in facts["seconds"].items())
    kinds = dict.fromkeys(label.partition("/")[0] for label in facts["reused"])
    reused = f"; from the store: {', '.join(kinds)}" if kinds else ""
    return f"\n{text.read_text().rstrip() if text.is_file() else tables}\nSeconds: {seconds}{reused}."
