"""Checkpoints of an unfinished training: two generations of its state, of which a kill at any moment leaves one whole."""

import hashlib
import io
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from runners.process.errors import ResourceError, StoreError
from runners.storage.files import read_again, replace_file, why

GENERATIONS = ("a", "b")
VERSION = 2  # raised when older code could no longer read a state; 1 held one network and one optimizer
TRIES = 3  # of reading
CLEARERS = 1000  # processes that may finish one training at once


@dataclass(frozen=True)
class Generation:
    """One saved state, by its number, and who had a part in it."""

    count: int
    content: bytes
    numerics: list[str]


@dataclass(frozen=True)
class Checkpoints:
    """A folder of `a.state` and `b.state`, each a line of JSON (its manifest) and the state's bytes.

    Manifest and state are one file, which one rename replaces: two processes that train the same may write here at once,
    and one that has finished may clear the folder meanwhile. Whatever they leave is a whole state of the same training.

    The state is plain numbers, strings, lists, mappings and tensors, readable with `weights_only`.

    Args:
        numerics: the classes of hardware and versions that had a part in the state; those of a state that is loaded are added.
    """

    folder: Path
    numerics: set[str] = field(default_factory=set)

    def load(self) -> dict[str, Any] | None:
        """The newest whole state; None if nothing was ever saved.

        Raises:
            StoreError: there are states and none is whole, or one is of a newer version.
        """
        found = self._generations()
        whole = {name: generation for name, generation in found.items() if generation}
        if found and not whole:
            raise StoreError(
                f"no saved state of this training is whole ({', '.join(str(self._path(name)) for name in found)}); one must "
                f"be; to train from the start, delete {self.folder}"
            )
        if not whole:
            return None
        name = max(whole, key=lambda name: whole[name].count)
        self.numerics.update(whole[name].numerics)
        try:
            return torch.load(io.BytesIO(whole[name].content), map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load documents no closed list
            raise StoreError(
                f"{self._path(name)} is no saved state of Prunescope; its hash is right; delete {self.folder}"
            ) from error

    def save(self, state: dict[str, Any]) -> Path:
        """Replaces the older generation, and returns its file.

        Raises:
            ResourceError: the disk is full.
        """
        content = io.BytesIO()
        torch.save(state, content)
        counts = {name: generation.count if generation else 0 for name, generation in self._generations().items()}
        path = self._path(min(GENERATIONS, key=lambda name: counts.get(name, -1)))
        packed = self._packed(max(counts.values(), default=0) + 1, content.getvalue())
        try:
            _write(path, packed)
        except OSError as error:
            raise ResourceError(
                f"{path} could not be written ({why(error, path.parent, len(packed))}); checkpoints need it; free some space "
                "or choose another store="
            ) from error
        return path

    def clear(self) -> None:
        """Forgets everything: the training is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.state"

    def _generations(self) -> dict[str, Generation | None]:
        """Those that exist; None for one that is not whole."""
        found: dict[str, Generation | None] = {}
        for name in GENERATIONS:
            path = self._path(name)
            try:
                if path.exists():
                    found[name] = self._unpacked(path, read_again(path.read_bytes))
            except FileNotFoundError:  # cleared by a process that finished the same training
                continue
            except OSError as error:
                raise StoreError(
                    f"{path} cannot be read ({error.strerror}), tried {TRIES} times; checkpoints are needed to go on; check "
                    "the disk of store=, then give the same command"
                ) from error
        return found

    def _packed(self, count: int, content: bytes) -> bytes:
        manifest = {"version": VERSION, "of": self.folder.name, "count": count, "numerics": sorted(self.numerics)}
        return json.dumps(manifest | {"sha256": _digest(manifest, content)}).encode() + b"\n" + content

    def _unpacked(self, path: Path, packed: bytes) -> Generation | None:
        line, _, content = packed.partition(b"\n")
        try:
            manifest = json.loads(line)
            told = manifest.pop("sha256")
            if told != _digest(manifest, content) or manifest["of"] != self.folder.name:
                return None
            version, count = int(manifest["version"]), int(manifest["count"])
            numerics = [str(each) for each in manifest.get("numerics", [])]
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        if version > VERSION:
            raise StoreError(
                f"{path} was written by version {version} of checkpoints; this is version {VERSION}; use the newer "
                f"Prunescope, or delete {self.folder} to train from the start"
            )
        return Generation(count, content, numerics)


def _digest(manifest: dict[str, Any], content: bytes) -> str:
    found = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode())
    found.update(content)
    return found.hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Writes into a folder that other processes may clear at any moment, each of them once."""
    for attempt in range(CLEARERS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, content)
            return
        except (FileNotFoundError, FileExistsError):
            if attempt == CLEARERS - 1:
                raise
