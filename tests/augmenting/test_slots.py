"""Places for policy, erase and mix in every recipe, from the command line to the trained network."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.optim import SGD

from runners.augmenting.changes import Changes
from runners.augmenting.draws import Draws, Mixture
from runners.data.fake import fake
from runners.data.splits import load
from runners.storage.resume import Checkpoints
from runners.training import schedule
from runners.training.engine import Engine
from runners.training.fit import fit
from runners.training.recipe import Recipe
from support import ROOT, Command, check_refused

RECIPES = sorted(path.stem for path in (ROOT / "conf" / "recipe").glob("*.yaml"))
CHOICES = {"policy": ("autoaugment",), "erase": ("cutout",), "mix": ("mixup", "cutmix")}


@cache
def composed(*overrides: str) -> dict[str, Any]:
    """Both recipes of a config, as plain values."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", list(overrides))
    found = OmegaConf.to_container(OmegaConf.masked_copy(config, ["recipe", "finetune"]))
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_inherits_from_the_base(name: str) -> None:
    parents = [name]
    while parents[-1] != "base":
        own = yaml.safe_load((ROOT / "conf" / "recipe" / f"{parents[-1]}.yaml").read_text())
        [parent] = [str(each) for each in own["defaults"] if isinstance(each, str) and each != "_self_"]
        parents.append(parent)


@pytest.mark.parametrize("name", ["base", "finetune", "imagenet"])
def test_a_recipe_has_the_places_and_leaves_them_empty(name: str) -> None:
    plain = composed(f"recipe={name}", f"recipe@finetune={name}", "dataset=cifar10")
    filled = [f"{place}@{section}.{place}={choices[0]}" for place, choices in CHOICES.items() for section in plain]
    found = composed(f"recipe={name}", f"recipe@finetune={name}", "dataset=cifar10", *filled)
    for section, values in plain.items():
        assert not CHOICES.keys() & values.keys(), "without them no key of a stored result changes"
        for place, choices in CHOICES.items():
            assert found[section][place]["_target_"].rpartition(".")[2] == choices[0]
        assert {key: value for key, value in found[section].items() if key not in CHOICES} == values


def test_every_file_is_one_that_can_be_chosen_and_called() -> None:
    x, labels, draws = torch.rand(4, 3, 32, 32), torch.arange(4), Draws(torch.arange(4), torch.tensor(1))
    for place, choices in CHOICES.items():
        assert {path.stem for path in (ROOT / "conf" / place).glob("*.yaml")} == set(choices)
        for choice in choices:
            change = instantiate(composed(f"{place}@recipe.{place}={choice}")["recipe"][place])
            if place == "mix":
                found, mixture = change(x, labels, draws)
                assert isinstance(mixture, Mixture) and found.shape == x.shape
            else:
                given = x if place == "erase" else (x * 255).to(torch.uint8)
                found = change(given, draws)
                assert found.dtype == given.dtype and found.shape == x.shape and not torch.equal(found, given)


class Interrupted(Exception):
    """The end of a run between two epochs."""


def trained(changes: Changes, folder: Path, *, ends_after: int | None = None) -> tuple[nn.Module, pd.DataFrame]:
    """A small network after three epochs of images of 3x16x16."""
    shape = {"num_images": 50, "channels": 3, "image_size": 16, "num_classes": 4, "crop_padding": 1, "flip": True}
    splits = load(fake, shape | {"score_share": 0.5, "mean": (0.5,) * 3, "std": (0.25,) * 3, "seed": 0})
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    recipe = Recipe(3, 16, 0.05, 1e-3, schedule.constant, changes.augment, 0, changes.policy, changes.erase, changes.mix)

    def watch(row: Any) -> None:
        if row["epoch"] == ends_after:
            raise Interrupted

    update, engine = partial(SGD, momentum=0.9), Engine("fp32")
    return fit(
        network, splits, Checkpoints(folder), recipe=recipe, optimizer=update, engine=engine, seed=0, label="train", watch=watch
    )


@pytest.mark.parametrize(("place", "choice"), [(place, choice) for place, choices in CHOICES.items() for choice in choices])
def test_each_reaches_training_and_goes_on_after_an_interruption(place: str, choice: str, tmp_path: Path) -> None:
    change = instantiate(composed(f"{place}@recipe.{place}={choice}")["recipe"][place])
    changes = Changes(augment=True, **{place: change})
    network, history = trained(changes, tmp_path / "whole")
    _, plain = trained(Changes(augment=True), tmp_path / "plain")
    assert not history.equals(plain) and history["train_loss_nats"].notna().all()
    with pytest.raises(Interrupted):
        trained(changes, tmp_path / "begun", ends_after=2)
    again, resumed = trained(changes, tmp_path / "begun")
    pd.testing.assert_frame_equal(resumed, history, check_exact=True)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_the_command_line_refuses_what_fits_no_image(command: Command) -> None:
    ended = command("dataset=fake", "erase@finetune.erase=cutout", "finetune.erase.length=40")
    check_refused(ended, ended.code, "finetune.erase", "length=40", "length=8", "3x16x16")
