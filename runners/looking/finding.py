"""One thing that was looked at before a sweep, and how it is."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and one line about it."""

    what: str
    verdict: Verdict
    line: str
