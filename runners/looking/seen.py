"""What a runner that only looks comes back with."""

from typing import NamedTuple


class Seen(NamedTuple):
    """What is printed, and the exit code: not 0 if what was seen wants the user's hand."""

    text: str
    exit_code: int = 0
