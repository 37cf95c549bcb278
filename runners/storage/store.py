"""Results under their keys: published whole by a rename, hashed, never replaced."""

import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runners.process.errors import ResourceError, StoreError
from runners.storage.files import read_again, sync_folder, why, write_json
from runners.storage.keys import KEY_LENGTH, digest, file_digest

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
VERSION = 1  # of manifests; raised when older code could no longer check an entry
LEFT_BEHIND_SECONDS = 24 * 3600
DAMAGE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


@dataclass(frozen=True)
class Store:
    """A folder `root/<stage>/<two letters>/<key>/`, each entry with a manifest of its files' SHA-256."""

    root: Path

    def has(self, stage: str, key: str) -> bool:
        """True if there is a result, whole or not."""
        try:
            return self._entry(stage, key).is_dir()
        except OSError:  # a stale handle; `find` will say more
            return False

    def find(self, stage: str, key: str) -> Path | None:
        """The folder of a finished result, its hashes checked; None if there is none.

        An entry that does not match its manifest is set aside as `<key>.corrupt-...` and reported.

        Raises:
            StoreError: the entry cannot be read, or is of a newer version.
        """
        entry = self._entry(stage, key)
        try:
            whole = read_again(lambda: is_whole(entry) if entry.is_dir() else None)
        except DAMAGE:
            whole = False
        except OSError as error:
            raise StoreError(
                f"stored {entry} cannot be read ({error.strerror}); its hashes must be checked; check the disk and the rights "
                "of store=, then give the same command"
            ) from error
        if whole is None:
            return None
        if whole:
            return entry
        aside = entry.with_name(f"{key}.corrupt-{uuid.uuid4().hex[:8]}")
        with suppress(FileNotFoundError):  # another process was first
            entry.rename(aside)
        log.warning(f"stored {stage} {key[:10]} does not match its hashes; set aside as {aside.name} and made anew")
        return None

    def publish(self, stage: str, key: str, write: Callable[[Path], None], numerics: Collection[str] = ()) -> Path:
        """Lets `write` fill a new folder, and makes it the result; if another process was first, its result stands.

        Args:
            numerics: the classes of hardware and versions that made it; noted, but no part of the content.

        Raises:
            ResourceError: the disk is full or the store cannot be written.
        """
        entry = self._entry(stage, key)
        temporary = entry.with_name(f"tmp.{key}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
        try:
            temporary.mkdir(parents=True)
            _forget_left_behind(temporary)
            write(temporary)
            files = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
            for path in temporary.iterdir():
                _sync_file(path)
            about = {"version": VERSION, "stage": stage, "key": key, "numerics": sorted(numerics)}
            write_json(temporary / MANIFEST, about | {"sha256": files})
            if self.find(stage, key) is None:
                try:
                    temporary.rename(entry)
                except OSError:
                    if not entry.is_dir():
                        raise
            _compare(entry, files)
            for folder in (entry.parent, entry.parent.parent, self.root):  # each may be new
                sync_folder(folder)
        except OSError as error:
            raise ResourceError(
                f"store={self.root} could not be written ({why(error, self.root)}); it must take files and the disk have room; "
                "free some space or choose another store="
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return entry

    def entries(self) -> Iterator[Path]:
        """Every result, whole or not."""
        return self.root.glob(f"*/??/{'[0-9a-f]' * KEY_LENGTH}")

    def _entry(self, stage: str, key: str) -> Path:
        return self.root / stage / key[:2] / key


def is_whole(entry: Path) -> bool:
    """True if an entry is of the stage and key that its path says, and has the files that its manifest says, bit for bit.

    Raises:
        OSError: it cannot be read.
        StoreError: it is of a newer version.
    """
    manifest = _manifest(entry)
    if (manifest.get("stage"), manifest.get("key")) != (entry.parent.parent.name, entry.name):
        return False
    return manifest.get("sha256") == {path.name: file_digest(path) for path in entry.iterdir() if path.name != MANIFEST}


def content(manifest: Path) -> str:
    """SHA-256 of everything that an entry's manifest names."""
    return digest(_manifest(manifest.parent).get("sha256"))


def numerics(manifest: Path) -> list[str]:
    """The classes of hardware and versions that made an entry; none if it is of an earlier version."""
    return [str(each) for each in _manifest(manifest.parent).get("numerics", [])]


def _manifest(entry: Path) -> dict[str, Any]:
    """The manifest of an entry; empty if the file is none."""
    try:
        found = json.loads((entry / MANIFEST).read_bytes())
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    if isinstance(version := found.get("version", VERSION), int) and version > VERSION:
        raise StoreError(
            f"stored {entry} is of version {version}; {VERSION} can be read; use a newer Prunescope, or another store="
        )
    return found


def _compare(entry: Path, files: dict[str, str]) -> None:
    """Says so if a result made twice is not the same twice."""
    if read_again(lambda: _manifest(entry)).get("sha256") != files:
        log.warning(f"made again, {entry.parent.parent.name} differs from the stored {entry.name[:10]}, which stands")


def _forget_left_behind(temporary: Path) -> None:
    """Removes what killed processes left beside a folder made just now, whose time is the file server's own."""
    now = temporary.stat().st_mtime
    for left in temporary.parent.glob("tmp.*"):
        with suppress(FileNotFoundError):
            if now - left.stat().st_mtime > LEFT_BEHIND_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
