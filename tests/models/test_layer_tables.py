"""Filters and dimension of every convolution, against the layer-by-layer tables of the ICLR'21 submission.

iclr21_layers.csv holds them: 49 of its tables 8 to 63 are of classification networks, and many have the same layers. Left
out are segmentation (39, 40), detection (41 to 43), matting (44, 45), style transfer (46 to 49) and DCGAN (50 to 52).

Tables count convolutions from 1 in order of execution, 1x1 convolutions on shortcuts only where a case says so. Rows of
tables 17 and 27 are printed in another order, and compared by their numbers.
"""

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from torch import nn
from torchvision.models import get_model

from runners.scoring.sites import filters, paper_numbers
from runners.tracing.channels import trace_channels
from support import ROOT

Rows = list[tuple[int, int]]  # filters, dimension
CLASSIFICATION = {*range(8, 39), *range(53, 64)}


@dataclass(frozen=True)
class Case:
    """A network, and the tables that print its layers.

    Args:
        network: an option of ours, or a name of torchvision's.
        count_shortcuts: 1x1 convolutions on shortcuts have rows.
        missing: numbers of convolutions that have no row.
        why: explains what differs.
    """

    network: str
    tables: tuple[int, ...]
    count_shortcuts: bool = False
    missing: tuple[int, ...] = ()
    why: str = ""


CASES = [
    Case("vgg19", (9, 53), why="headed VGG19; the same layers as with BatchNorm, so that the table cannot tell which it was"),
    Case("vgg19_bn", (54, 61, 62, 63)),
    Case("alexnet", (10,)),
    Case("densenet_bc_100_12", (11,)),
    Case("torchvision vgg11", (55,), why="of pretrained networks all are torchvision's; linear layers have no rows"),
    Case("torchvision vgg16", (56,)),
    Case("torchvision vgg19", (57,)),
    Case("torchvision resnet18", (58,), why="20 convolutions, of which 3 on shortcuts have no row"),
    Case("torchvision resnet34", (59,), why="36, of which 3"),
    Case("torchvision resnet50", (60,), why="53, of which 4"),
]


def printed() -> dict[int, Rows]:
    """Table -> its rows, by their numbers."""
    found: dict[int, Rows] = defaultdict(list)
    with (Path(__file__).parent / "iclr21_layers.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for table in map(int, row["tables"].split()):
                found[table].append((int(row["n_filters"]), int(row["dim"])))
                assert int(row["layer"]) == len(found[table])
    return found


PRINTED = printed()


def network_of(name: str) -> nn.Module:
    """The network, without values, for images of three channels."""
    with torch.device("meta"):
        if name.startswith("torchvision "):
            return get_model(name.split()[1]).eval()
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("config", ["dataset=fake", f"model={name}"])
        return instantiate(config.model).eval()


def layers(network: nn.Module, *, size: int, count_shortcuts: bool) -> Rows:
    channels = trace_channels(network, torch.zeros(1, 3, size, size, device="meta"))
    numbers = paper_numbers(network, channels, count_shortcuts=count_shortcuts)
    assert list(numbers.values()) == list(range(1, len(numbers) + 1))
    rows = [filters(network, layer).flatten(1).shape for layer in numbers]
    return [(row[0], row[1]) for row in rows]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.network)
def test_layers_are_those_printed(case: Case) -> None:
    size = 224 if case.network.startswith("torchvision") else 32
    found = layers(network_of(case.network), size=size, count_shortcuts=case.count_shortcuts)
    without = [row for number, row in enumerate(found, 1) if number not in case.missing]
    for table in case.tables:
        assert without == PRINTED[table], f"table {table}"


def test_every_table_of_a_classification_network_is_compared_once() -> None:
    compared = [table for case in CASES for table in case.tables]
    assert set(PRINTED) == CLASSIFICATION
    assert len(compared) == len(set(compared))


# Sum of filters times dimension, worked out from the papers' tables apart from this file.
@pytest.mark.parametrize(
    ("table", "weights"),
    [
        *((58, 10_994_880), (59, 21_095_616), (60, 20_686_016), (55, 9_217_728), (56, 14_710_464), (57, 20_018_880)),
        *((13, 36_454_832), (15, 1_634_480), (8, 1_634_048), (12, 1_719_216), (11, 741_744), (14, 68_044_480), (10, 2_468_544)),
    ],
)
def test_weights_of_all_rows(table: int, weights: int) -> None:
    assert sum(filters * dim for filters, dim in PRINTED[table]) == weights
