"""The folder of one run: what is in it, and whether it is finished."""

import io
import json
import os
import shutil
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from runners.process.errors import StoreError
from runners.process.redaction import redacted
from runners.storage.files import now, read_again, write_atomic, write_json
from runners.storage.keys import file_digest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STOPPED = (75, 130)  # by a signal or by hand: the same command goes on
CONFIG, FACTS, STATUS = "config.yaml", "run.json", "status.json"
ERROR_LOG, RUN_LOG = "error.log", "run.log"
TENSORBOARD = "tensorboard"
SUMMARY = "summary.txt"


def read_status(folder: Path) -> dict[str, Any]:
    """The content of `status.json`; empty if it is not there or cannot be read."""
    try:
        found = json.loads((folder / STATUS).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_done(folder: Path) -> bool:
    """True if a run ended well in `folder`, and its tables and facts are there as they were written."""
    status = read_status(folder)
    try:
        files: dict[str, str] = status["sha256"]
        if status["state"] != "done" or FACTS not in files:
            return False
        return all(read_again(partial(file_digest, folder / name)) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def check_data(folder: Path, run: str, data: str) -> None:
    """Refuses to go on with other data than the same run began with.

    Args:
        run: the run's name, which says what was asked for: another one in this folder is nobody's first leg.
        data: hash of the images and labels.

    Raises:
        StoreError: the data differ.
    """
    begun = _begun(folder)
    if begun.get("run") == run and begun.get("data") not in (None, data):
        then = str(begun["data"])
        raise StoreError(
            f"the images or labels of {run} are not those that it began with ({then[:10]} then, {data[:10]} now); a run goes "
            "on with the same data; bring them back, or begin anew with rerun=true"
        )


def begun_threads(folder: Path, run: str) -> int | None:
    """CPU threads of the earlier leg of `run` in this folder, so that sums are rounded as it began; None without one."""
    begun = _begun(folder)
    found = begun.get("threads") if begun.get("run") == run else None
    return found if isinstance(found, int) else None


def start(folder: Path, config: Mapping[str, Any], run: str = "", data: str = "", *, threads: int | None = None) -> None:
    """Notes that a run has begun, what it was asked for and on which data; what an earlier run left goes."""
    for pattern in (ERROR_LOG, FACTS, SUMMARY, "*.csv", "*.png", "*/plan.json"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
    process = {"started": now(), "host": socket.gethostname(), "pid": os.getpid()}
    write_json(folder / STATUS, {"state": "running", **process, "begun": {"run": run, "data": data, "threads": threads}})
    write_atomic(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(dict(config))).encode())


def finish(folder: Path, facts: dict[str, Any]) -> None:
    """Notes that everything is written: the last thing a run does."""
    write_json(folder / FACTS, facts)
    files = {path.name: file_digest(path) for path in sorted([folder / FACTS, folder / SUMMARY, *folder.glob("*.csv")])}
    write_json(folder / STATUS, {"state": "done", "ended": now(), "begun": _begun(folder), "sha256": files})


def mixed(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """Results that came out otherwise in some runs than in others, though they have one key.

    One that was lost or damaged, and made anew on other hardware, may differ in its last bits; rows before and after are
    then not of the same network.

    Returns:
        `stage key` -> hash of the content -> names of runs.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name, facts in runs.items():
        for stage, content in facts.get("contents", {}).items():
            kind = stage.partition("/")[0]
            found.setdefault(f"{kind} {facts['keys'][stage]}", {}).setdefault(content, []).append(name)
    return {key: contents for key, contents in found.items() if len(contents) > 1}


def fail(folder: Path, message: str, exit_code: int, details: str) -> None:
    """Notes why a run ended early; the traceback goes to its own file."""
    write_atomic(folder / ERROR_LOG, redacted(details).encode())
    state = "stopped" if exit_code in STOPPED else "failed"
    ended = {"error": redacted(message), "exit_code": exit_code, "begun": _begun(folder)}
    write_json(folder / STATUS, {"state": state, "ended": now(), **ended})


def _begun(folder: Path) -> dict[str, Any]:
    """The run that last began in a folder, and the hash of its data; empty if there is none."""
    found = read_status(folder).get("begun")
    return found if isinstance(found, dict) else {}


def write_table(folder: Path, name: str, table: "pd.DataFrame") -> None:
    """A table as CSV."""
    write_atomic(folder / f"{name}.csv", table.to_csv(index=False).encode())


def write_text(folder: Path, text: str) -> None:
    """The text that the terminal shows of the run."""
    write_atomic(folder / SUMMARY, f"{redacted(text)}\n".encode())


def write_figure(folder: Path, name: str, figure: "Figure") -> None:
    """A figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_atomic(folder / f"{name}.png", content.getvalue())
