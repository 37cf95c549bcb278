"""Hashes of data by a fingerprint of the files that they were read from, so that no start hashes all pixels again."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runners.storage.files import write_json
from runners.storage.keys import digest, file_digest

# A file that is younger may change once more without a new time: some file systems count time in steps of two seconds.
SETTLED_SECONDS = 10
READERS = Path(__file__).parents[1] / "data"


def remembered(store: Path, files: Sequence[Path], config: Mapping[str, Any], content: Callable[[], str]) -> str:
    """`content()`, computed once for the same files and config and then read from `store`/fingerprints.

    Without files it is always computed: generated and embedded images are few, and of streamed files only names, sizes and
    labels are hashed.
    """
    if not files:
        return content()
    note = store / "fingerprints" / f"{fingerprint(files, config)}.json"
    if found := _noted(note):
        return found
    found = content()
    if time.time() - max(path.stat().st_mtime for path in files) > SETTLED_SECONDS:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, {"content": found})
    return found


def fingerprint(files: Sequence[Path], config: Mapping[str, Any]) -> str:
    """Hash of the files' names, sizes and times, of the data set's config, and of the code that reads data.

    It includes the time at which a file's entry changed: tools that copy files set the other time back.
    """
    stats = [(path.name, path.stat()) for path in files]
    facts = [[name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in stats]
    return digest([facts, dict(config), [file_digest(path) for path in sorted(READERS.glob("*.py"))]])


def _noted(note: Path) -> str | None:
    try:
        found = json.loads(note.read_bytes())["content"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None
