"""Identity of the code: the commit, what differs from it, and a hash of the sources themselves."""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

SOURCES = ("run.py", "analysis", "conf", "criteria", "hydra_plugins", "models", "runners")


def code(root: Path) -> dict[str, Any]:
    """Commit, uncommitted changes and `sources_digest`; nulls for the first where this is no git checkout."""
    return {**_state(root), "sources": sources_digest(root)}


def sources_digest(root: Path) -> str:
    """SHA-256 over every file of ours that a run reads, whether git knows it or not."""
    files = [path for name in SOURCES for path in [root / name, *(root / name).rglob("*")] if path.suffix in (".py", ".yaml")]
    whole = hashlib.sha256()
    for path in sorted(files):
        whole.update(f"{path.relative_to(root).as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def _state(root: Path) -> dict[str, Any]:
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        changes = _git(root, "status", "--porcelain") + _git(root, "diff", "HEAD")
        untracked = _git(root, "ls-files", "--others", "--exclude-standard", "-z").split("\0")
        changes += "".join(hashlib.sha256((root / name).read_bytes()).hexdigest() for name in untracked if name)
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None, "diff_sha256": None}
    found = hashlib.sha256(changes.encode()).hexdigest() if changes else None
    return {"commit": commit, "dirty": bool(changes), "diff_sha256": found}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
