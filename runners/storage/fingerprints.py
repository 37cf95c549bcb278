"""Hashes of data by a fingerprint of the files that they were read from, so that no start hashes all pixels again."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runners.storage.files import write_json
from runners.storage.keys import digest, file_digest

# A file that is younger may change once more without a new time: clocks of file systems tick up to two seconds apart.
SETTLED_SECONDS = 10
READERS = Path(__file__).parents[1] / "data"


def remembered(store: Path, files: Sequence[Path], config: Mapping[str, Any], content: Callable[[], str]) -> str:
    """`content()`, computed once for the same files and config and then read from `store`/fingerprints.

    Without files it is always computed: generated and embedded images are few.
    """
    if not files:
        return content()
    place = store / "fingerprints" / f"{fingerprint(files, config)}.json"
    try:
        return json.loads(place.read_bytes())["content"]
    except (OSError, ValueError, KeyError, TypeError):
        found = content()
    if time.time() - max(path.stat().st_mtime for path in files) > SETTLED_SECONDS:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, {"content": found})
    return found


def fingerprint(files: Sequence[Path], config: Mapping[str, Any]) -> str:
    """Hash of the files' names, sizes and times, of the data set's config, and of the code that reads data.

    The time at which a file's entry changed is included: copying tools set the other one back.
    """
    facts = [(path, path.stat()) for path in files]
    entries = [[path.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for path, stat in facts]
    return digest([entries, dict(config), [file_digest(path) for path in sorted(READERS.glob("*.py"))]])
