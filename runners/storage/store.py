"""Results under their keys: published whole by a rename, hashed, never replaced."""

import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runners.errors import ResourceError
from runners.storage.files import sync_folder, write_json
from runners.storage.keys import file_digest

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
LEFT_BEHIND_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Store:
    """A folder `root/<stage>/<two letters>/<key>/`, each entry with a manifest of its files' SHA-256."""

    root: Path

    def find(self, stage: str, key: str) -> Path | None:
        """The folder of a finished result, its hashes checked; None if there is none.

        An entry that does not match its manifest is set aside as `<key>.corrupt-...` and reported.
        """
        entry = self._entry(stage, key)
        for left in entry.parent.glob(f"tmp.{key}.*"):  # by a run that was killed while it wrote
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > LEFT_BEHIND_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
        if not entry.is_dir():
            return None
        if _is_whole(entry, stage, key):
            return entry
        aside = entry.with_name(f"{key}.corrupt-{uuid.uuid4().hex[:8]}")
        with suppress(FileNotFoundError):  # another process was first
            entry.rename(aside)
        log.warning(f"stored {stage} {key[:10]} does not match its hashes; set aside as {aside.name} and made anew")
        return None

    def publish(self, stage: str, key: str, write: Callable[[Path], None]) -> Path:
        """Lets `write` fill a new folder, and makes it the result; if another process was first, its result stands.

        Raises:
            ResourceError: the disk is full or the store cannot be written.
        """
        entry = self._entry(stage, key)
        temporary = entry.with_name(f"tmp.{key}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
        try:
            temporary.mkdir(parents=True)
            write(temporary)
            files = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
            for path in temporary.iterdir():
                _sync_file(path)
            write_json(temporary / MANIFEST, {"stage": stage, "key": key, "sha256": files})
            if self.find(stage, key) is None:
                try:
                    temporary.rename(entry)
                except OSError:
                    if not entry.is_dir():
                        raise
            _compare(entry, files)
            sync_folder(entry.parent)
        except OSError as error:
            raise ResourceError(
                f"store={self.root} could not be written ({error.strerror}); it must take files and the disk have room; "
                "free some space or choose another store="
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return entry

    def _entry(self, stage: str, key: str) -> Path:
        return self.root / stage / key[:2] / key


def _is_whole(entry: Path, stage: str, key: str) -> bool:
    try:
        manifest = json.loads((entry / MANIFEST).read_text())
        if (manifest["stage"], manifest["key"]) != (stage, key):
            return False
        files = {path.name: file_digest(path) for path in entry.iterdir() if path.name != MANIFEST}
        return files == manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _compare(entry: Path, files: dict[str, str]) -> None:
    """Says so if a result made twice is not the same twice."""
    stored = json.loads((entry / MANIFEST).read_text())["sha256"]
    if stored != files:
        log.warning(f"made again, {entry.parent.parent.name} differs from the stored {entry.name[:10]}, which stands")


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
