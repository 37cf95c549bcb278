"""Folders of sweeps and of finished runs, made without running anything."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from runners.storage import folder as run_folder
from runners.storage.files import write_json
from runners.storage.keys import file_digest

NAME = "l1-ratio-seed-0123456789"
COMMAND = ["run.py", "--multirun", "criterion=l1,l2", "ratio=0.1,0.5", "seed=0,1"]
RHO = "layer,index,criterion_a,criterion_b,rho,n_filters,note\nconv1,1,l1,l2,0.75,16,\nconv2,2,l1,l2,0.25,16,\n"
GRID = [{"criterion": "l1", "ratio": ratio, "seed": seed} for ratio in (0.1, 0.5) for seed in (0, 1)]
SEVEN = [{"criterion": "l1", "ratio": ratio} for ratio in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75)]
TABLES = {
    "accuracy": {"by": ["stage"], "values": ["top1_pct", "top5_pct", "loss_nats", "params", "macs"]},
    "spearman": {"by": ["layer", "index", "criterion_a", "criterion_b"], "values": ["rho"]},
}


def facts(
    seed: int = 0,
    *,
    trained: str = "t",
    dataset: str = "d",
    precision: str = "fp32",
    threads: int = 1,
    commit: str = "c0ffee",
) -> dict[str, Any]:
    """The facts of a run with the tables of one-shot pruning."""
    return {
        "headline": "top-1 93.25 % (tuned)",
        "tables": TABLES,
        "seed": seed,
        "precision": precision,
        "code": {"commit": commit, "dirty": False, "diff_sha256": None},
        "versions": {"torch": "2.15.0"},
        "hardware": {"device": "AMD EPYC", "machine": "x86_64", "threads": threads, "cuda": None},
        "keys": {"dataset": dataset, "trained": f"{trained}{seed}", "tuned": f"u{seed}"},
        "reused": ["trained"],
        "seconds": {"tuned": 2.0, "total": 27.04},
    }


def accuracy(tuned: float | None = 93.25) -> list[dict[str, Any]]:
    """The rows of two stages."""
    row = {"top5_pct": None, "loss_nats": 0.5, "params": 1000, "macs": 4000, "latency_ms": 1.5}
    about = {"model": "resnet20", "dataset": "digits"}
    return [{"stage": name, "top1_pct": top1} | row | about for name, top1 in [("trained", 95.5), ("tuned", tuned)]]


def of_earlier_version(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same facts as run.json had them before it listed tables."""
    return {key: value for key, value in found.items() if key not in ("headline", "tables")} | {"accuracy": list(rows)}


def name_of(values: Mapping[str, Any]) -> str:
    """The name of a job's folder."""
    return "-".join(re.sub("[^A-Za-z0-9.]", "_", str(value)) for value in values.values()) or "only"


def make_sweep(outputs: Path, grid: Sequence[Mapping[str, Any]], name: str = NAME) -> Path:
    """A sweep of which no job has begun."""
    sweep = outputs / "sweeps" / name
    sweep.mkdir(parents=True)
    jobs = [
        {
            "number": number,
            "overrides": [f"{key}={value}" for key, value in values.items()],
            "name": name_of(values),
            "folder": f"../../{name_of(values)}",
            "values": values,
        }
        for number, values in enumerate(grid)
    ]
    code = {"commit": "c0ffee", "dirty": False, "diff_sha256": None, "sources": "5a"}
    manifest = {"version": 1, "command": COMMAND, "started": "2026-11-21T15:00:00Z", "code": code, "jobs": jobs}
    (sweep / "sweep.json").write_text(json.dumps(manifest))
    return sweep


def begin(outputs: Path, values: Mapping[str, Any]) -> Path:
    """The folder of a job that runs."""
    folder = outputs / name_of(values)
    folder.mkdir(exist_ok=True)
    run_folder.start(folder, {"ratio": 0.1})
    return folder


def finish(
    outputs: Path,
    values: Mapping[str, Any],
    found: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]] | None = None,
    rho: str = RHO,
) -> Path:
    """The folder of a job that is done, with accuracy.csv and spearman.csv."""
    accuracy_csv = pd.DataFrame(accuracy() if rows is None else rows).to_csv(index=False)
    return finish_with(outputs, values, found, {"accuracy": accuracy_csv, "spearman": rho})


def finish_with(outputs: Path, values: Mapping[str, Any], found: Mapping[str, Any], tables: Mapping[str, str]) -> Path:
    """The folder of a job that is done, with tables given as the text of their CSV."""
    folder = begin(outputs, values)
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text)
    write_json(folder / "run.json", found)
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    """Writes the status that `run_folder.finish` would write of the files as they are now."""
    files = {path.name: file_digest(path) for path in sorted([folder / "run.json", *folder.glob("*.csv")])}
    write_json(folder / "status.json", {"state": "done", "ended": "2026-11-21T15:30:00Z", "sha256": files})


def change(path: Path, **values: Any) -> None:
    """Sets keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    return list(csv.DictReader(io.StringIO(path.read_text())))


def column(path: Path, *names: str) -> list[tuple[str, ...]]:
    """Some columns of a CSV, row by row."""
    return [tuple(row[name] for name in names) for row in rows(path)]


def make_done(outputs: Path) -> Path:
    """A sweep of two ratios and two seeds, all done."""
    sweep = make_sweep(outputs, GRID)
    for values, tuned in zip(GRID, (93.0, 94.0, 80.0, 83.0), strict=True):
        finish(outputs, values, facts(values["seed"]), accuracy(tuned))
    return sweep


def make_seven(outputs: Path) -> Path:
    """A sweep with one job in every state."""
    sweep = make_sweep(outputs, SEVEN)
    finish(outputs, SEVEN[0], facts())
    log = begin(outputs, SEVEN[1]) / "run.log"
    line = "2026-11-21 14:00:42,554 INFO runners.training.progress: {}: epoch {}/40, loss 2.5, 394 images/s, {} left\n"
    log.write_text(line.format("train", 40, "0:00") + line.format("finetune", 3, "1:12:05") + "a last line\n")
    # Later than this process began, whenever the test runs: else its number would have come round again.
    change(log.parent / "status.json", started="2999-01-01T00:00:00Z")
    run_folder.fail(begin(outputs, SEVEN[2]), "loss is nan", 5, "")
    run_folder.fail(begin(outputs, SEVEN[3]), "SIGTERM came", 75, "")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    change(begin(outputs, SEVEN[4]) / "status.json", pid=child.pid)
    (begin(outputs, SEVEN[5]) / "status.json").write_text("{}")
    return sweep
