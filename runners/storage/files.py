"""Files that are there whole or not at all, and reading that a network file system's hiccups do not end."""

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from runners.process.errors import ResourceError

Read = TypeVar("Read")
# What NFS and its like say of a file that is there a moment later: its handle went stale, its name is not known yet.
HICCUPS = (errno.ESTALE, errno.ENOENT, errno.EIO)
SECONDS_BEFORE_NEXT_TRY = (0.05, 0.2)


def write_atomic(path: Path, content: bytes) -> None:
    """Writes beside `path`, to the disk, and then renames: a reader sees the old file or the new one.

    Raises:
        ResourceError: the disk is full or the folder does not take files.
    """
    try:
        replace_file(path, content)
    except OSError as error:
        raise ResourceError(
            f"{path} could not be written ({why(error, path.parent, len(content))}); the folder must take files and the "
            "disk have room; free some space or choose another folder"
        ) from error


def replace_file(path: Path, content: bytes) -> None:
    """Writes beside `path`, to the disk, and renames, as `write_atomic` does, but leaves the error to the caller.

    Raises:
        OSError: as the system gives it; the old file stands.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Strict JSON (no nan), atomically."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def now() -> str:
    """The time as files hold it: `2026-03-01T09:30:00Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power cut, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_again(read: Callable[[], Read]) -> Read:
    """Result of `read` at the first, second or third try; it opens what it reads anew each time.

    Raises:
        OSError: the third try failed too, or the first in a way that does not pass by itself.
    """
    for seconds in SECONDS_BEFORE_NEXT_TRY:
        try:
            return read()
        except OSError as error:
            if error.errno not in HICCUPS:
                raise
            time.sleep(seconds)
    return read()


def why(error: OSError, folder: Path, needed_bytes: int = 0) -> str:
    """The system's words, and for a full disk how much was needed and how much is free."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error.strerror or type(error).__name__
    need = f", {needed_bytes / 1e6:.1f} MB needed" if needed_bytes else ""
    try:
        return f"{error.strerror}{need}, {shutil.disk_usage(folder).free / 1e6:.1f} MB free"
    except OSError:
        return f"{error.strerror}{need}"
