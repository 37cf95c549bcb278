"""Every two options that describe a training go together: composed, or refused with the reason; and small networks train."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pairs import Row, covering, covering_each
from torch import nn

from models.host import stages
from network_sizes import COMPLETE, SMALLEST, num_params, without_weights
from runners.command.built import Built
from runners.command.gate import check
from runners.process.errors import ConfigError
from runners.pruning.proof import TOLERANCE, prune_proven
from runners.scoring.score import score
from runners.selection.plan import plan
from runners.selection.select import choose
from runners.storage.resume import Checkpoints
from runners.tracing.channels import trace_channels
from support import ROOT, raises_line

CONF = ROOT / "conf"
CHANGES = ("model/attention", "model/activation", "model/init")
IMAGE_SIZES = {"mnist": 28, "fashion_mnist": 28, "emnist": 28}  # of data sets whose YAML does not say; 32 of the others
LARGEST = 64  # photographs are smaller here: at 224 pixels some networks would take hours
N_IMAGES = 4


def options(group: str) -> list[str]:
    found = sorted(path.stem for path in (CONF / group).glob("*.yaml") if "???" not in path.read_text())
    return [name for name in found if name != "base"]


def columns(models: list[str]) -> dict[str, list[str]]:
    changes = {group: ["null", *options(group)] for group in CHANGES}
    return {"model": models, **changes, **{group: options(group) for group in ("dataset", "recipe", "optimizer")}}


def overrides(row: Row) -> list[str]:
    """A row as the command line has it: `model/attention=null` is left out."""
    return [f"{group}={option}" for group, option in row.items() if option != "null"]


@cache
def takes_attention(model: str) -> bool:
    """True if the network itself has places for attention; the gate knows it from the source."""
    try:
        return bool(stages(without_weights(model)))
    except ValueError:
        return False


@cache
def takes(model: str, attention: str) -> bool:
    """True if that attention can be put into the network: one that changes BatchNorm needs some."""
    change = OmegaConf.load(CONF / "model" / "attention" / f"{attention}.yaml")
    try:
        with torch.device("meta"):
            instantiate(change, without_weights(model))
        return True
    except InstantiationException:
        return False


@contextmanager
def conf() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def assert_composes(row: Row) -> None:
    senseless = row["model/attention"] != "null" and not takes_attention(row["model"])
    with conf():
        config = compose("config", [*overrides(row), "outputs=unused"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
    if senseless:
        with raises_line(ConfigError, "model/attention"):
            check(config)
    else:
        names = check(config)["names"]
        assert {group: names[group] for group in ("model", "dataset")} == {group: row[group] for group in ("model", "dataset")}


def like_its_data(row: Row) -> list[str]:
    """The row with random images, of the channels, classes and size of its data set."""
    written = yaml.safe_load((CONF / "dataset" / f"{row['dataset']}.yaml").read_text())
    with conf():
        dataset = compose("config", overrides(row)).dataset
    shape = {
        "num_images": N_IMAGES,
        "channels": dataset.channels,
        "num_classes": dataset.num_classes,
        "image_size": min(written.get("image_size") or IMAGE_SIZES.get(row["dataset"], 32), LARGEST),
        "score_share": 1,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
    }
    return [*overrides(row | {"dataset": "fake"}), *(f"dataset.{key}={value}" for key, value in shape.items())]


def assert_trains_and_is_pruned(row: Row, folder: Path) -> None:
    """One step by the recipe, filters by l1 at .5, the proof of their removal, one more step, and finite scores."""
    attention = row["model/attention"]
    if attention != "null" and not takes(row["model"], attention):
        row = row | {"model/attention": "null"}
    step = ["recipe.epochs=1", f"recipe.batch_size={N_IMAGES}", "recipe.lr=0.001"]  # small: BatchNorm of 4 images is rough
    given = [*like_its_data(row), f"outputs={folder}", "criteria=norms", *step]
    with conf():
        config = compose("config", given, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
    built = Built(config, check(config), folder)
    for module in built.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1  # of running statistics that begin at 0 and 1 one step is too little for 164 layers
    channels = trace_channels(built.model, built.splits.example)
    planned = plan(channels, built.rule)
    trained, history = built.train(built.model, built.splits, Checkpoints(folder / "first"))
    scores = score(trained, channels, {"l1": built.criteria["l1"]}, built.splits.score)
    smaller, difference = prune_proven(trained, channels, choose(planned, scores, "l1"), built.splits.score)
    again, _ = built.train(smaller, built.splits, Checkpoints(folder / "second"))
    with torch.no_grad():
        assert again(built.splits.example).isfinite().all()
    assert len(history) == 1 and difference < TOLERANCE[torch.float64]
    assert num_params(again) < num_params(trained)


SMALL, LARGE = list(SMALLEST), [name for name in COMPLETE if name not in SMALLEST]
# Each small network once; the rest of the options with the first, which has the fewest layers too.
SHORT = [*SMALL, *SMALL[:1] * (len(options("recipe")) - len(SMALL))]


def several(rows: list[Row]) -> list[Any]:
    return [pytest.param(row, id=" ".join(option for option in row.values() if option != "null")) for row in rows]


@pytest.mark.parametrize("row", several(covering_each(columns(COMPLETE))))
def test_every_option_composes(row: Row) -> None:
    assert_composes(row)


@pytest.mark.slow
@pytest.mark.parametrize("row", several(covering(columns(COMPLETE))))
def test_every_pair_composes(row: Row) -> None:
    assert_composes(row)


@pytest.mark.parametrize("row", several(covering_each(columns(SHORT))))
def test_every_option_trains_a_small_network_which_is_pruned(row: Row, tmp_path: Path) -> None:
    assert_trains_and_is_pruned(row, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("row", several(covering(columns(SMALL))))
def test_every_pair_trains_a_small_network_which_is_pruned(row: Row, tmp_path: Path) -> None:
    assert_trains_and_is_pruned(row, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("row", several(covering_each(columns(LARGE))))
def test_every_option_trains_a_large_network_which_is_pruned(row: Row, tmp_path: Path) -> None:
    assert_trains_and_is_pruned(row, tmp_path)


def test_rows_hold_every_pair() -> None:
    some = {"a": ["1", "2", "3"], "b": ["x", "y"], "c": ["u", "v", "w", "z"]}
    rows = covering(some)
    assert all(
        any(row[a] == x and row[b] == y for row in rows) for a, b in permutations(some, 2) for x in some[a] for y in some[b]
    )
    assert len(rows) < 3 * 2 * 4
    assert all(any(row[column] == option for row in covering_each(some)) for column in some for option in some[column])
