"""Files that are there whole or not at all."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

from runners.errors import ResourceError


def write_atomic(path: Path, content: bytes) -> None:
    """Writes beside `path`, to the disk, and then renames: a reader sees the old file or the new one.

    Raises:
        ResourceError: the disk is full or the folder does not take files.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise ResourceError(
            f"{path} could not be written ({error.strerror}); the folder must take files and the disk have room; "
            "free some space or choose another folder"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Strict JSON (no nan), atomically."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power cut, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
