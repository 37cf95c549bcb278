"""Answers of runners that only look."""

from typing import NamedTuple


class Seen(NamedTuple):
    """The text to print, and the exit code: not 0 if the user has to do something."""

    text: str
    exit_code: int = 0
