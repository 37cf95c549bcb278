"""One run: builds what its runner's signature names, runs it, and writes what comes of it."""

import time
from collections.abc import Callable, Mapping
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_method
from omegaconf import DictConfig

from runners.command.built import Built
from runners.command.networkless import runner_of
from runners.process.errors import ConfigError, plain
from runners.process.inject import Missing, arguments
from runners.process.redaction import redacted, redacted_argument
from runners.pruning.saved import save_pruned
from runners.reporting.reports import build_reports
from runners.results import Results, Table
from runners.storage import facts, keys
from runners.storage import folder as run_folder


def execute(config: DictConfig, values: Mapping[str, Any], folder: Path, root: Path) -> None:
    """Runs the config's runner and fills `folder`.

    Raises:
        UserError: anything that the user can put right, before the first training step where it can be known.
    """
    started = time.monotonic()
    built = Built(config, values, folder)
    runner = get_method(runner_of(values))
    given = _arguments(runner, values, built)
    # Only what made the numbers counts: the code as it is now, and nothing of an earlier run in this folder.
    provenance = facts.facts(root, built.device)
    build_reports(values["reports"])  # wrong ones are refused before anything is trained
    run, data = keys.run_name(values), built.data if built.has("splits") else ""
    if not values["rerun"]:
        run_folder.check_data(folder, run, data)
    run_folder.start(folder, redacted(values), run, data, threads=torch.get_num_threads())
    if built.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(built.device)
    results: Results = runner(**given)
    declared = _write(results, built, values, folder)
    command = [redacted_argument(argument) for argument in provenance["command"]]
    about = {"headline": redacted(results.headline), "tables": declared} | _facts(built)
    ended = {"peak_memory_mb": facts.peak_memory_mb(built.device)}
    about["seconds"] |= {"total": round(time.monotonic() - started, 3)}
    run_folder.finish(folder, provenance | {"command": command} | about | ended)


def _arguments(runner: Callable[..., Results], values: Mapping[str, Any], built: Built) -> dict[str, Any]:
    """Arguments of the runner by name: options of its own YAML, and parts of the experiment."""
    name = values["names"]["runner"]
    own = {key: keys.canonical(value) for key, value in values["runner"].items() if key != "_target_"}
    if values["after"] != "finetune" and "fresh" not in signature(runner).parameters:
        raise ConfigError(
            f"after={values['after']} cannot be used with runner={name}, which trains nothing from new weights; finetune is "
            "allowed; try runner=one_shot, or after=finetune"
        )
    try:
        return arguments(runner, own, built)
    except Missing as error:
        raise ConfigError(
            f"runner={name} asks for {error.parameter!r}; conf/runner/{name}.yaml has no such option, and no part of an "
            "experiment is called so (runners/command/built.py lists them); mend its signature or its YAML"
        ) from error


def _facts(built: Built) -> dict[str, Any]:
    """Facts about the parts that were built; a run that stored nothing has no keys."""
    found: dict[str, Any] = {"seed": built.values["seed"], "keys": {}, "reused": [], "seconds": {}}
    if built.taken:
        found["weights_set"] = plain(built.taken.name) or None
    if built.has("engine"):
        found["precision"] = built.engine.arithmetic
    if built.has("stages"):
        made, here = built.stages.made, built.stages.numerics
        mixed = len({here, *chain.from_iterable(made.made_on.values())}) > 1
        found |= vars(made) | {"seconds": dict(made.seconds), "numerics_mixed": mixed}
    return found


def _write(results: Results, built: Built, values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Tables with the run's own columns, figures, networks and the text; what reports may gather of the tables."""
    own, pruning = {"run": folder.name} | built.columns, built.pruning_columns
    declared: dict[str, Any] = {}
    for name, table in results.tables.items():
        if isinstance(table, Table):
            declared[name] = {"by": list(table.by), "values": list(table.values)}
        rows = table.rows if isinstance(table, Table) else table
        about_all_criteria = {"criterion", "criterion_a"} & set(rows)
        columns = own if about_all_criteria else own | pruning
        added = {column: value for column, value in columns.items() if column not in rows}
        run_folder.write_table(folder, name, rows.assign(**added))
    for name, figure in results.figures.items():
        run_folder.write_figure(folder, name, figure)
    for name, pruned in results.networks.items():
        save_pruned(folder / name, pruned, redacted(values["model"]))
    run_folder.write_text(folder, results.text)
    return declared
