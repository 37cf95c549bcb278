"""Standard streams that end no run: closed from the start, or with a reader that has gone.

Without it `python run.py ... | head -1` ends with exit code 1 and "a fault of Prunescope" after all its work is done.
"""

import os
import sys
from typing import Any, TextIO


class Unread:
    """A text stream that falls silent when it can no longer be written; results are files in any case."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        """Any other attribute of the stream."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, or lets go."""
        try:
            return self._stream.write(text)
        except OSError:
            self._let_go()
            return len(text)

    def flush(self) -> None:
        """Flushes, or lets go."""
        try:
            self._stream.flush()
        except OSError:
            self._let_go()

    def _let_go(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def settle() -> None:
    """Opens streams that are closed, so that no file of ours gets their numbers, and lets stdout and stderr fall silent."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = Unread(sys.stdout or open(1, "w"))  # pyright: ignore[reportAttributeAccessIssue]
    sys.stderr = Unread(sys.stderr or open(2, "w"))  # pyright: ignore[reportAttributeAccessIssue]
