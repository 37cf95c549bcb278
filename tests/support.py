"""Names that test files share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def folder(self) -> Path:
        """The last line on stdout."""
        return Path(self.out.splitlines()[-1])


Command = Callable[..., Ended]
