"""Results that an earlier version stored (commit 3bf7f0d) are found again."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from runners.command.gate import resolved
from runners.iterative import stages_of_round
from runners.sensitivity import SENSITIVITY
from runners.stages import DATASET, GIVEN, SCORES, SELECTION, TRAINED, TUNED
from runners.storage.keys import Keys, Stage, run_name, stage_options
from support import ROOT, Command, names

HERE = Path(__file__).parent
# run folder -> its command and the keys of its stages, as run.json had them.
RUNS: dict[str, dict[str, Any]] = json.loads((HERE / "golden_runs.json").read_text())
PLAIN = {stage.name: stage for stage in (DATASET, GIVEN, TRAINED, SCORES, SELECTION, TUNED, SENSITIVITY)}
# Hash of the pixels and labels of these runs: dataset=fake dataset.image_size=8.
IMAGES = "606cb64265ca490f26a6d22c5d96437f291e661d340952af9a8203109a45bfcf"


def composed(overrides: list[str]) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["outputs=/anywhere", *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        return resolved(config)


def stage(label: str, rounds: int, pace: str) -> Stage:
    """The stage that an earlier version called so."""
    if label in PLAIN:
        return PLAIN[label]
    before, found = TRAINED, dict[str, Stage]()
    for number in range(1, rounds + 1):
        of_round = stages_of_round(before, number, rounds, pace)
        found |= {each.label: each for each in of_round}
        before = of_round[2]
    return found[label]


@pytest.mark.parametrize("name", RUNS)
def test_names_and_keys_of_an_earlier_version_stand(name: str) -> None:
    values = composed(RUNS[name]["command"])
    assert run_name(values) == name
    keys = Keys(stage_options(values), {"data": lambda: IMAGES, "precision": lambda: "fp32"})
    for label, key in RUNS[name]["keys"].items():
        if not label.startswith("repeat/"):  # those name the filters that were drawn
            options = values["runner"]
            assert keys.of(stage(label, options.get("rounds", 0), options.get("pace", ""))) == key, label


def unpacked(folder: Path) -> Path:
    with tarfile.open(HERE / "earlier_outputs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "outputs"


ONE_SHOT = "fake-resnet20-l1-0.5-seed0-baf06afaba"


def test_a_finished_run_of_an_earlier_version_is_shown_and_not_made_again(command: Command, tmp_path: Path) -> None:
    outputs = unpacked(tmp_path)
    before = {path: path.read_bytes() for path in (outputs / ONE_SHOT).iterdir() if path.name != "run.log"}
    ended = command(*RUNS[ONE_SHOT]["command"], outputs=str(outputs))
    assert ended.code == 0 and ended.folder == outputs / ONE_SHOT
    assert names(ended.out, "accuracy.csv")
    assert {path: path.read_bytes() for path in before} == before


def test_every_stage_of_an_earlier_version_is_taken_from_its_store(command: Command, tmp_path: Path) -> None:
    outputs = unpacked(tmp_path)
    then = (outputs / ONE_SHOT / "scores.csv").read_bytes()
    (outputs / ONE_SHOT / "status.json").unlink()
    ended = command(*RUNS[ONE_SHOT]["command"], "device=cpu", outputs=str(outputs))
    assert ended.code == 0, ended.err
    facts = json.loads((ended.folder / "run.json").read_text())
    assert facts["reused"] == ["trained", "scores", "selection", "tuned"]
    assert (ended.folder / "scores.csv").read_bytes() == then
