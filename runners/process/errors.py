"""Errors that a user can put right, each kind with its exit code; imported by every room, imports nothing of ours.

Every message is one line: what was given; what is allowed; the likely fix.
"""

from collections.abc import Sequence


class UserError(Exception):
    """Something the user can put right; shown as one line, never as a traceback."""

    exit_code = 1


class ConfigError(UserError):
    """An option with a value that cannot be used."""

    exit_code = 2


class DataError(UserError):
    """A data set that is not there, or not what it should be."""

    exit_code = 3


class StoreError(UserError):
    """Weights or stored results that cannot be trusted."""

    exit_code = 4


class NumericalError(UserError):
    """Numbers that stopped being numbers."""

    exit_code = 5


class ResourceError(UserError):
    """A disk, folder or device that does not give what is needed."""

    exit_code = 6


class RemovalError(UserError):
    """A network that computes something else without the filters than with them at zero."""

    exit_code = 8


SOME_JOBS_FAILED = 7
INTERRUPTED = 130


def first_line(error: BaseException) -> str:
    """First line of an error's message; its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def some(names: Sequence[str], most: int) -> str:
    """The first `most` names, and the number of the others: `a, b and 4 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def error_line(message: str) -> str:
    """An error as one line, in which nothing steers the terminal, whatever names from files hold."""
    return f"error: {plain(' '.join(message.split()))}\n"


def plain(text: str) -> str:
    """Text on one line, without characters that steer a terminal; they show as Python writes them."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def is_out_of_memory(error: BaseException) -> bool:
    """True for every kind of out-of-memory error; torch's kinds go by their names, since torch may not be imported here."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def lost_worker(error: BaseException, num_workers: int) -> str:
    """The line on a killed process that decoded images, of which torch tells wherever the run is; empty for other errors."""
    if not (isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error)):
        return ""
    return (
        f"the images could not be read ({first_line(error).rstrip('.')}); each worker needs memory, some of it in /dev/shm; "
        f"try dataset.num_workers={num_workers // 2}"
    )


def user_error_behind(error: BaseException) -> UserError | None:
    """The error of ours that another package turned into one of its own."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, UserError):
        behind = behind.__cause__ or behind.__context__
    return behind
