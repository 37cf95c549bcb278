"""Networks of conf/model without weights; and all whose files need no value, from the smallest to the largest."""

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from support import ROOT

# The ten smallest run in `make test`, the others in `make test-all`; written down, since finding out takes seconds.
SMALLEST = (
    *("resnet20", "resnet32", "resnet44", "densenet_bc_100_12", "resnet56", "hp_small", "preresnet164", "resnet164"),
    *("resnet110", "preresnet110"),
)
# Names of the options whose files leave no value (???) to the user, and which are networks.
COMPLETE = sorted(
    path.stem for path in (ROOT / "conf" / "model").glob("*.yaml") if "???" not in path.read_text() and path.stem != "none"
)


def without_weights(model: str, *overrides: str, num_classes: int = 10) -> nn.Module:
    """The network of an option for images of 3x32x32, on the meta device: it has shapes and no numbers."""
    images = {"dataset": {"channels": 3, "image_size": 32, "num_classes": num_classes}}
    GlobalHydra.instance().clear()
    # The model alone is composed: with all of config.yaml it takes five times as long.
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = OmegaConf.merge(images, OmegaConf.to_container(compose(overrides=[f"+model={model}", *overrides])))
    with torch.device("meta"):
        return instantiate(composed.model)


def num_params(network: nn.Module) -> int:
    """All numbers that training changes."""
    return sum(parameter.numel() for parameter in network.parameters())


def models_by_size() -> dict[str, int]:
    """Option -> parameters of its network for ten classes, ascending."""
    sizes = {name: num_params(without_weights(name)) for name in COMPLETE}
    return dict(sorted(sizes.items(), key=lambda item: (item[1], item[0])))


def every_model() -> list[Any]:
    """All of them as parameters of a test, those that are not among the smallest marked slow."""
    return [pytest.param(name, marks=[] if name in SMALLEST else [pytest.mark.slow]) for name in COMPLETE]
