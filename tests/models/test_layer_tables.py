"""Filters and dimension of every convolution, against the layer-by-layer tables of the ICLR'21 submission.

Of its tables 8 to 63, 42 are of classification networks. Left out are segmentation (39, 40), detection (41 to 43), matting
(44, 45), style transfer (46 to 49) and DCGAN (50 to 52).

Tables number convolutions from 1 in order of execution; 1x1 convolutions on shortcuts count only where a case says so. The
tables of pretrained networks have no rows for linear layers.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from analysis.printed import all_printed
from runners.pruning.saved import in_parts
from runners.scoring.sites import filters, paper_numbers
from runners.tracing.channels import trace_channels
from support import ROOT

Rows = list[tuple[int, int]]  # filters, dimension
CLASSIFICATION = {*range(8, 39), *range(53, 64)}


@dataclass(frozen=True)
class Case:
    """A network, and the tables that print its layers.

    Args:
        model: overrides that choose the network, as on the command line without `model=` and `model/`.
        count_shortcuts: 1x1 convolutions on shortcuts have rows.
        missing: numbers of convolutions that have no row.
    """

    model: tuple[str, ...]
    tables: tuple[int, ...]
    size: int = 32
    count_shortcuts: bool = False
    missing: tuple[int, ...] = ()


CASES = [
    # Table 8 has no row for the stem (16 filters of 27): its first row is the stem's successor, 162 rows of 163 convolutions.
    Case(("resnet164",), (8,), missing=(1,)),
    # Other optimizers (15 to 19) and initial weights (32 to 35). Tables 17 and 27 print their rows in another order; we
    # compare them by their numbers.
    Case(("resnet164",), (*range(15, 20), *range(32, 36))),
    # Attention's own layers have no rows, not even CBAM's 7x7 filter: 163 rows with each.
    Case(("resnet164", "attention=se"), (26,)),
    Case(("resnet164", "attention=dia"), (27,)),
    Case(("resnet164", "attention=srm"), (28,)),
    Case(("resnet164", "attention=cbam"), (29,)),
    Case(("resnet164", "attention=iebn"), (30,)),
    Case(("resnet164", "attention=sge"), (31,)),
    Case(("preresnet110",), (12,)),
    # With the three 1x1 convolutions on shortcuts, 28 rows; other regularisers (20 to 25) change no layer. ImageNet's (37) has
    # the same 3x3 stem of 16 filters as CIFAR's: at which resolution is not printed. MNIST's (38) has a stem for three
    # channels: see the test below.
    Case(("wrn_28_10",), (13, *range(20, 26), 36, 37, 38), count_shortcuts=True),
    # 31 rows: 29 - 1 convolutions and three on shortcuts; those of 3x3 have 16 groups.
    Case(("resnext29_16x64d",), (14,), count_shortcuts=True),
    Case(("densenet_bc_100_12",), (11,)),
    # The first convolution is 11x11.
    Case(("alexnet",), (10,)),
    # 9 and 53 say "VGG19", 54 and 61 to 63 "VGG19-bn". BatchNorm changes no row, so that the rows do not tell which it was.
    Case(("vgg19",), (9, 53)),
    Case(("vgg19_bn",), (54, 61, 62, 63)),
    # "Pytorch pre-trained": torchvision's. ResNet-18 has 3 convolutions on shortcuts that have no row, ResNet-34 also 3,
    # ResNet-50 has 4.
    Case(("torchvision", "name=vgg11"), (55,), size=224),
    Case(("torchvision", "name=vgg16"), (56,), size=224),
    Case(("torchvision", "name=vgg19"), (57,), size=224),
    Case(("torchvision", "name=resnet18"), (58,), size=224),
    Case(("torchvision", "name=resnet34"), (59,), size=224),
    Case(("torchvision", "name=resnet50"), (60,), size=224),
]
# Tables whose rows are no 1, 2, 3, ... from top to bottom.
OUT_OF_ORDER = {17, 27}


@cache
def all_tables() -> dict[int, dict[int, tuple[int, int]]]:
    """Table -> number of a convolution -> its row, in the order in which they are printed."""
    printed = all_printed()
    printed = printed[(printed["paper"] == "iclr21") & printed["column"].isin(["n_filters", "dim"])]
    values: dict[int, dict[int, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for table, row, column, value in printed[["table", "row", "column", "value"]].itertuples(index=False):
        number = str(row).rpartition(" / Conv")[2]
        if str(table).isdecimal() and number.isdecimal():
            values[int(table)][int(number)][str(column)] = int(value)
    return {
        table: {number: (row["n_filters"], row["dim"]) for number, row in rows.items()}
        for table, rows in values.items()
        if table in CLASSIFICATION
    }


def network_of(case: Case, channels: int = 3) -> nn.Module:
    """The network, which has shapes and no numbers."""
    name, *others = case.model
    changes = [f"+model/{each}" for each in others if each.startswith("attention=")]
    values = [f"model.{each}" for each in others if not each.startswith("attention=")]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = OmegaConf.to_container(compose(overrides=[f"+model={name}", *changes, *values]))
    images = {"dataset": {"channels": channels, "image_size": case.size, "num_classes": 100}}
    model: Any = OmegaConf.to_object(OmegaConf.merge(images, composed).model)
    factory, functions = in_parts(model)
    with torch.device("meta"):
        network = instantiate(factory)
        for function in functions:
            network = instantiate(function, network)
    return network.eval()


@cache
def convolutions(case: Case, channels: int) -> Rows:
    """The rows of all convolutions that the papers' rule counts."""
    network = network_of(case, channels)
    found = trace_channels(network, torch.zeros(1, channels, case.size, case.size, device="meta"))
    numbers = paper_numbers(network, found, count_shortcuts=case.count_shortcuts)
    rows = [filters(network, layer).flatten(1).shape for layer in numbers]
    return [(row[0], row[1]) for row in rows]


def layers(case: Case, channels: int = 3) -> Rows:
    """The rows that a table of the network has."""
    of_network = replace(case, tables=(), missing=())  # several cases may differ in these alone
    return [row for number, row in enumerate(convolutions(of_network, channels), 1) if number not in case.missing]


# ResNet-164 takes two seconds to follow: of its attentions only CBAM, which has filters, is compared in every test.
SLOW = {"attention=se", "attention=dia", "attention=srm", "attention=iebn", "attention=sge"}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, id=f"{' '.join(case.model)} {case.tables[0]}", marks=[pytest.mark.slow] if SLOW & set(case.model) else []
        )
        for case in CASES
    ],
)
def test_layers_are_those_printed(case: Case) -> None:
    found = dict(enumerate(layers(case), 1))
    for table in case.tables:
        rows = all_tables()[table]
        assert rows == found, f"table {table}"
        assert (list(rows) == list(found)) is (table not in OUT_OF_ORDER), f"order of table {table}"


def test_of_images_of_one_channel_only_the_stem_differs() -> None:
    """Table 38 is headed MNIST, and prints a stem for three channels: its images had three. Ours have one."""
    *_, wide = (case for case in CASES if 38 in case.tables)
    table = all_tables()[38]
    assert layers(wide, channels=1) == [(16, 9), *(table[number] for number in range(2, 29))]
    assert table[1] == (16, 27)


def test_every_table_of_a_classification_network_is_compared_once() -> None:
    compared = [table for case in CASES for table in case.tables]
    assert set(compared) == set(all_tables()) == CLASSIFICATION
    assert len(compared) == len(set(compared))


# Sum of filters times dimension, from the specification, which worked them out from the printed rows.
@pytest.mark.parametrize(
    ("table", "weights"),
    [
        *((58, 10_994_880), (59, 21_095_616), (60, 20_686_016), (55, 9_217_728), (56, 14_710_464), (57, 20_018_880)),
        *((13, 36_454_832), (15, 1_634_480), (8, 1_634_048), (12, 1_719_216), (11, 741_744), (14, 68_044_480), (10, 2_468_544)),
    ],
)
def test_weights_of_all_rows(table: int, weights: int) -> None:
    assert sum(n_filters * dim for n_filters, dim in all_tables()[table].values()) == weights
