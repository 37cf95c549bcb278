"""Where an unfinished training is: two generations of its state, of which a kill at any moment leaves one whole."""

import hashlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runners.errors import ResourceError
from runners.storage.files import write_atomic, write_json

GENERATIONS = ("a", "b")


@dataclass(frozen=True)
class Checkpoints:
    """A folder of `a.pt` and `b.pt`, each with a manifest that is written after it.

    The state is plain numbers, strings, lists, mappings and tensors, readable with `weights_only`.
    """

    folder: Path

    def load(self) -> dict[str, Any] | None:
        """The newest whole state; None if there is none."""
        for _, name in sorted(((manifest["count"], name) for name, manifest in self._manifests().items()), reverse=True):
            content = self._content(name)
            if content is not None:
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return None

    def save(self, state: dict[str, Any]) -> Path:
        """Writes over the older generation, and returns its file.

        Raises:
            ResourceError: the disk is full.
        """
        counts = {name: manifest["count"] for name, manifest in self._manifests().items()}
        name = min(GENERATIONS, key=lambda generation: counts.get(generation, 0))
        content = io.BytesIO()
        torch.save(state, content)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(
                f"{self.folder} cannot be made ({error.strerror}); checkpoints need it; choose another store="
            ) from error
        path = self.folder / f"{name}.pt"
        # Without its manifest the older generation counts for nothing, whatever half of it is there.
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        write_atomic(path, content.getvalue())
        found = hashlib.sha256(content.getvalue()).hexdigest()
        write_json(self.folder / f"{name}.json", {"count": max(counts.values(), default=0) + 1, "sha256": found})
        return path

    def clear(self) -> None:
        """Forgets everything: the training is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _manifests(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for name in GENERATIONS:
            try:
                manifest = json.loads((self.folder / f"{name}.json").read_text())
                found[name] = {"count": int(manifest["count"]), "sha256": str(manifest["sha256"])}
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return found

    def _content(self, name: str) -> bytes | None:
        """The bytes of a generation, if they are the ones its manifest names."""
        try:
            content = (self.folder / f"{name}.pt").read_bytes()
        except OSError:
            return None
        whole = hashlib.sha256(content).hexdigest() == self._manifests()[name]["sha256"]
        return content if whole else None
