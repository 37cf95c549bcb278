"""The options of conf/model whose files need no value, from the smallest network to the largest."""

from functools import cache
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf

from support import ROOT

PLAIN = 10  # so many of the smallest run in `make test`, the others in `make test-all`


@cache
def models_by_size() -> dict[str, int]:
    """Option -> parameters of its network for the images of `dataset=fake`, ascending; no weights are drawn."""
    names = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml") if "???" not in path.read_text())
    images = {"dataset": OmegaConf.load(ROOT / "conf" / "dataset" / "fake.yaml")}
    GlobalHydra.instance().clear()
    # The model alone is composed: with all of config.yaml it takes five times as long.
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        configs = {
            name: OmegaConf.merge(images, OmegaConf.to_container(compose(overrides=[f"+model={name}"]))) for name in names
        }
    with torch.device("meta"):
        found = {name: instantiate(config.model) for name, config in configs.items()}
    sizes = {name: sum(parameter.numel() for parameter in network.parameters()) for name, network in found.items()}
    return dict(sorted(sizes.items(), key=lambda item: (item[1], item[0])))


def every_model() -> list[Any]:
    """All of them as parameters of a test: the `PLAIN` smallest, and the others marked slow."""
    return [
        pytest.param(name, marks=[] if place < PLAIN else [pytest.mark.slow]) for place, name in enumerate(models_by_size())
    ]
