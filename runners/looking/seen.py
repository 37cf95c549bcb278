"""Answers of runners that only look."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Verdict = Literal["ok", "warning", "failed"]


class Seen(NamedTuple):
    """The text to print, and the exit code: not 0 if the user has to do something."""

    text: str
    exit_code: int = 0


@dataclass(frozen=True)
class Finding:
    """The thing that was checked, how it is, and one line about it."""

    what: str
    verdict: Verdict
    line: str
