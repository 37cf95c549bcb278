"""Every runner of `conf/runner` that makes runs: two seeds on fake data, and each `Table` of theirs in the sweep's report."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from support import ROOT, Command

FEW = {"iterative": ["runner.rounds=2"], "random_pruning": ["runner.repeats=2"], "sensitivity": ["runner.ratios=[0.5]"]}
SEEDS = ("--multirun", "seed=0,1", "hydra.launcher.per_device=2")
TINY = ("dataset=fake", "model=resnet20", "recipe.epochs=0", "finetune.epochs=0")


def runners() -> list[str]:
    """The names of those that make runs, not of those that look at some."""
    every = sorted((ROOT / "conf" / "runner").glob("*.yaml"))
    return [path.stem for path in every if not yaml.safe_load(path.read_text()).get("looks")]


@pytest.mark.parametrize("runner", runners())
def test_all_tables_of_a_runner_reach_the_report_of_a_sweep(command: Command, tmp_path: Path, runner: str) -> None:
    ended = command(*SEEDS, *TINY, f"runner={runner}", *FEW.get(runner, []))
    assert ended.code == 0, ended
    folders = [path.parent for path in (tmp_path / "outputs").glob("*/run.json")]
    declared = json.loads((folders[0] / "run.json").read_text())["tables"]
    made = {f"{name}.csv": 2 * len(pd.read_csv(folders[0] / f"{name}.csv")) for name in declared}
    assert len(folders) == 2 and made
    reported = command("runner=report")
    assert reported.code == 0, reported
    [sweep] = (path.parent for path in (tmp_path / "outputs" / "sweeps").glob("*/sweep.json"))
    gathered = {name: pd.read_csv(sweep / name) for name in made}
    assert {name: len(table) for name, table in gathered.items()} == made
    assert all(set(table["seed"]) == {0, 1} for table in gathered.values())
