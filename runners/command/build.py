"""One run: builds what its runner's signature names, runs it, and writes what comes of it."""

import inspect
import time
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.utils import get_method
from omegaconf import DictConfig

from runners.command.built import Built
from runners.command.reports import check_reports, with_reports
from runners.process.redaction import redacted, redacted_argument
from runners.pruning.saved import save_pruned
from runners.results import Results
from runners.storage import facts, keys
from runners.storage import folder as run_folder


def execute(config: DictConfig, values: Mapping[str, Any], folder: Path, root: Path) -> None:
    """Runs the config's runner and fills `folder`.

    Raises:
        UserError: anything that the user can put right, before the first training step where it can be known.
    """
    started = time.monotonic()
    parts = Built(config, values, folder)
    runner = get_method(config.runner._target_)
    arguments = {name: getattr(parts, name) for name in inspect.signature(runner).parameters}
    # Only what made the numbers counts: the code as it is now, and nothing of an earlier run in this folder.
    provenance = facts.facts(root, parts.device)
    check_reports(parts.reports)
    run = keys.run_name(values)
    if not values["rerun"]:
        run_folder.check_data(folder, run, parts.data)
    run_folder.start(folder, redacted(values), run, parts.data)
    if parts.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(parts.device)
    results = with_reports(runner(**arguments), parts.reports)
    accuracy = _write(results, parts, values, folder)
    run_folder.finish(
        folder,
        provenance
        | {
            "command": [redacted_argument(argument) for argument in provenance["command"]],
            "seed": values["seed"],
            "precision": parts.engine.arithmetic,
            "keys": parts.stages.keys,
            "contents": parts.stages.contents,
            "reused": parts.stages.reused,
            "made_on": parts.stages.made_on,
            "numerics_mixed": len({parts.stages.numerics, *chain.from_iterable(parts.stages.made_on.values())}) > 1,
            "seconds": parts.stages.seconds | {"total": round(time.monotonic() - started, 3)},
            "peak_memory_mb": facts.peak_memory_mb(parts.device),
        },
        accuracy,
    )


def _write(results: Results, parts: Built, values: Mapping[str, Any], folder: Path) -> pd.DataFrame:
    """Tables with the run's own columns, figures, networks and the curves of what was reused; the table of accuracy."""
    own = {"run": folder.name} | {key: values["names"][key] for key in ("model", "dataset")} | {"seed": values["seed"]}
    chosen = {"pruned_by": parts.chosen} | _rule_columns(values)
    tables: dict[str, pd.DataFrame] = {}
    for name, table in results.tables.items():
        about_all = {"criterion", "criterion_a"} & set(table)
        columns = own if about_all else own | chosen
        tables[name] = table.assign(**{column: value for column, value in columns.items() if column not in table})
        run_folder.write_table(folder, name, tables[name])
    for name, figure in results.figures.items():
        run_folder.write_figure(folder, name, figure)
    for name, pruned in results.networks.items():
        save_pruned(folder / name, pruned, redacted(values["model"]))
    for stage in parts.stages.reused:  # it was trained where nobody watched
        watch = parts.watch(stage)
        for row in results.tables["history"].query("stage == @stage").to_dict("records"):
            watch(row)
    return tables["accuracy"]


def _rule_columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """The rule as columns of tables; shares layer by layer are in selection.csv, and leave `ratio` empty."""
    found = {"preset": keys.preset(values)} | {key: keys.canonical(values[key]) for key in keys.RULE if key != "skip"}
    return found | ({"ratio": None} if isinstance(found["ratio"], dict) else {})
