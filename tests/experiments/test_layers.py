"""The list of layers, against numbers worked by hand and published ones, and what the command writes and prints."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
import torch
import torchvision
from torch import nn

from models.cifar_resnet import cifar_resnet
from models.cifar_vgg import cifar_vgg_bn
from runners.layers import kind, run
from runners.results import Table
from runners.selection.rule import Rule
from runners.storage.tables import read_table
from support import Command, check_line, check_refused

COLUMNS = "layer index paper_number n_filters dim kind batchnorm tied_to ranked obstacle params macs".split()


def listed(network: nn.Module, rule: Rule | None = None, size: int = 32) -> tuple[pd.DataFrame, str]:
    """The table, a row a layer by its name, and the text."""
    results = run(model=network, example=torch.zeros(1, 3, size, size), rule=rule or Rule(0.5))
    table = results.tables["layers"]
    assert isinstance(table, Table) and list(table.rows) == COLUMNS
    return table.rows.set_index("layer"), results.text


def cells(rows: pd.DataFrame, layer: str, columns: str) -> list[Any]:
    """The cells of one layer."""
    return [rows.at[layer, column] for column in columns.split()]


def check_totals(text: str, convolutions: Sequence[object], network: Sequence[object]) -> None:
    """Fail unless the two lines under the table have these numbers: of the convolutions, and of the network."""
    start = next(place for place, line in enumerate(text.splitlines()) if "convolutions:" in line)
    for line, told in zip(text.splitlines()[start:], (convolutions, network), strict=False):
        check_line(line, *(f"{number:,}" for number in told))


def test_resnet20_by_hand() -> None:
    rows, text = listed(cifar_resnet(depth=20, num_classes=10))
    assert rows["index"].tolist() == rows["paper_number"].tolist() == list(range(1, 20))
    # 3x3 filters of 3 channels; on 32x32 outputs.
    assert cells(rows, "conv1", "n_filters dim params macs") == [16, 27, 16 * 27, 16 * 27 * 32 * 32]
    # 64 filters of 32 channels, with stride on 8x8 outputs.
    assert cells(rows, "layer3.0.conv1", "n_filters dim params macs") == [64, 288, 64 * 288, 64 * 288 * 8 * 8]
    assert cells(rows, "layer3.0.conv1", "kind batchnorm tied_to obstacle") == ["conv", "layer3.0.bn1", "", ""]
    sums = [f"layer{stage}.{block}.conv2" for stage in (1, 2, 3) for block in range(3)]
    tied, obstacle = cells(rows, "conv1", "tied_to obstacle")
    assert tied.split() == sums and "tied to layer1.0.conv2" in obstacle
    assert rows.loc["layer3.2.conv2", "tied_to"] == " ".join(["conv1", *sums[:-1]])
    assert rows.index[rows["ranked"]].tolist() == [name.replace("conv2", "conv1") for name in sums]
    # 269,722 parameters of ResNet-20 on ten classes: these, 2 * 688 of BatchNorms, and 65 * 10 of the classifier.
    params = 269_722 - 2 * 688 - 650
    assert rows["params"].sum() == params and rows["macs"].sum() == 40_551_040 - 640
    check_totals(text, [19, 688, params, 40_551_040 - 640, 9, 336], [269_722, 40_551_040])
    check_line(text.splitlines()[-1], "coupled=group", 19)


def test_resnet56_has_the_published_totals() -> None:
    rows, text = listed(cifar_resnet(depth=56, num_classes=10))
    check_totals(text, [55, 2032, rows["params"].sum(), 27], [853_018, 125_485_696])


def test_vgg16_by_hand() -> None:
    # The third convolution of VGG-16 is 128 x 576 (Huang et al. 2021, table 1); its sum of N * d is 14,710,464.
    rows, text = listed(cifar_vgg_bn(depth=16, num_classes=10))
    assert len(rows) == 13 and rows["ranked"].all() and (rows["obstacle"] == "").all() and (rows["tied_to"] == "").all()
    [third] = rows.index[rows["paper_number"] == 3]
    assert cells(rows, third, "n_filters dim macs") == [128, 576, 128 * 576 * 16 * 16]
    assert (rows["n_filters"] * rows["dim"]).sum() == 14_710_464
    assert "coupled=group" not in text


def test_a_bias_counts_and_a_batchnorm_does_not() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False), nn.Flatten(), nn.Linear(2, 2)
    )
    rows, text = listed(network, size=3)
    assert rows["params"].tolist() == [4 * 27 + 4, 2 * 4] and rows["batchnorm"].tolist() == ["1", ""]
    check_totals(text, [2, 6, 120, 4 * 27 + 8], [120 + 8 + 6, 4 * 27 + 8 + 4])


def test_mobilenet_v2_has_depthwise_convolutions_of_nine_weights_a_filter() -> None:
    rows, text = listed(torchvision.models.mobilenet_v2(num_classes=10))
    depthwise = rows[rows["kind"] == "depthwise"]
    assert Counter(rows["kind"]) == {"conv": 35, "depthwise": 17} and (depthwise["dim"] == 9).all()
    assert (depthwise["params"] == 9 * depthwise["n_filters"]).all()
    assert cells(rows, "features.1.conv.0.0", "n_filters tied_to macs") == [32, "features.0.0", 32 * 9 * 16 * 16]
    assert rows["ranked"].sum() == 3
    # Of 1,000 classes 3,504,872 parameters (torchvision); ten classes leave 990 rows of 1,281 out.
    check_totals(text, [52, 17_056, 3], [3_504_872 - 990 * 1281])


def test_shortcuts_have_no_number_in_the_papers() -> None:
    rows, _ = listed(torchvision.models.resnet18(num_classes=10))
    assert rows.index[rows["paper_number"].isna()].tolist() == [f"layer{stage}.0.downsample.0" for stage in (2, 3, 4)]
    assert rows.loc["layer3.1.conv1", "paper_number"] == 12 and rows.loc["layer3.1.conv1", "dim"] == 2304
    assert rows["index"].tolist() == list(range(1, 21))


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.Conv2d(1, 4, 3), "conv"),
        (nn.Conv2d(4, 8, 3, groups=4), "depthwise"),
        (nn.Conv2d(4, 8, 3, groups=2), "grouped"),
        (nn.ConvTranspose2d(4, 8, 3), "transposed"),
        (nn.ConvTranspose2d(4, 8, 3, groups=2), "transposed grouped"),
    ],
)
def test_kinds(layer: nn.Module, name: str) -> None:
    assert kind(layer) == name


def test_ranked_and_obstacle_are_those_of_the_rule() -> None:
    network = cifar_resnet(depth=8, num_classes=10)
    rows, text = listed(network, Rule(0.5, coupled="group", skip=["layer2.*.conv1"], start_layer=1))
    assert rows.index[rows["ranked"]].tolist() == ["layer1.0.conv1", "layer3.0.conv1"]
    assert rows.loc["layer2.0.conv1", "obstacle"] == "skipped" and rows.loc["conv1", "obstacle"] == "among the first 1"
    assert "tied to conv1" in cells(rows, "layer3.0.conv2", "obstacle")[0]
    # A share for one layer alone is no rule for the others, and changes no list.
    assert listed(network, Rule({"conv1": 0.5}))[0]["ranked"].sum() == 3
    rows, text = listed(network, Rule(0.5, skip=["*"]))
    assert not rows["ranked"].any()
    check_line(text.splitlines()[-1], "7 like conv1", "skip=[]")


def test_the_command_lists_layers_without_images_or_training(command: Command) -> None:
    # The folder of images is not there.
    ended = command("runner=layers", "model=resnet20", "dataset=imagenet", "data_root=nowhere", "dataset.image_size=32")
    assert ended.code == 0 and ended.err == ""
    assert ended.folder.name.startswith("imagenet-resnet20-layers-seed0-")
    table = read_table(ended.folder / "layers.csv")
    assert list(table)[: len(COLUMNS)] == COLUMNS and len(table) == 19
    assert set(table["model"]) == {"resnet20"} and set(table["dataset"]) == {"imagenet"} and set(table["coupled"]) == {"skip"}
    assert (ended.folder / "summary.txt").read_text().rstrip() in ended.out
    shown = [line.split()[1] for line in ended.out.splitlines() if line.strip()[:1].isdigit()][:19]
    assert shown == table["layer"].tolist()
    assert ended.facts["headline"] == "9 of 19 layers ranked" and ended.facts["keys"] == {}


def test_a_data_set_that_does_not_say_the_size_of_its_images_is_loaded(command: Command) -> None:
    check_refused(command("runner=layers", "model=resnet20", "dataset=mnist", "data_root=nowhere"), 3, "nowhere")


def test_zeros_are_traced_as_images_are(command: Command) -> None:
    # digits has images of 16x16; a convolution of 432 weights on one channel has 144.
    ended = command("runner=layers", "model=resnet20")
    assert read_table(ended.folder / "layers.csv")["macs"].tolist()[:2] == [144 * 256, 2304 * 256]
