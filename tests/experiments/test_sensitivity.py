"""Accuracy against the ratio of one layer at a time: the table against networks pruned by hand, the figure, bad input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.figures import sensitivity_curves
from models.cifar_resnet import cifar_resnet
from runners.data.fake import fake
from runners.data.splits import load
from runners.measuring.evaluate import evaluate
from runners.process.errors import ConfigError
from runners.pruning.remove import mask
from runners.selection.plan import alone, plan
from runners.selection.rule import Rule
from runners.selection.select import choose
from runners.storage.weights import load_weights
from runners.tracing.channels import trace_channels
from support import Command, names, raises_line

TINY = ("runner=sensitivity", "dataset=fake", "model=resnet20", "recipe.epochs=1", "runner.ratios=[0.25,0.5]", "precision=fp32")
FIRST = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)]


@pytest.mark.slow
def test_every_row_is_one_layer_pruned_alone(command: Command, tmp_path: Path) -> None:
    ended = command(*TINY, "criterion=l2")
    assert ended.code == 0 and ended.err == ""
    assert names(ended.out, "9 layers")
    found = pd.read_csv(ended.folder / "sensitivity.csv")
    columns = "layer index n_layers ratio before n_removed top1_pct loss_nats n_correct n_images"
    assert list(found)[:10] == columns.split()
    assert (
        found["layer"].tolist() == [layer for layer in FIRST for _ in range(2)] and found["ratio"].tolist() == [0.25, 0.5] * 9
    )
    assert (found["n_removed"] == found["before"] * found["ratio"]).all() and (found["pruned_by"] == "l2").all()
    splits = load(
        fake,
        dict(
            num_images=64, channels=3, image_size=16, num_classes=10, score_share=0.5, mean=(0.5,) * 3, std=(0.25,) * 3, seed=0
        ),
    )
    network = cifar_resnet(depth=20, num_classes=10)
    [stored] = (tmp_path / "outputs" / "store" / "trained").rglob("weights.safetensors")
    load_weights(network, stored)
    channels = trace_channels(network, splits.example)
    for row in found.iloc[[0, 9, 17]].to_dict("records"):
        norms = network.get_parameter(f"{row['layer']}.weight").detach().flatten(1).norm(dim=1)
        lowest = norms.argsort()[: int(row["before"] * row["ratio"])].tolist()
        quality = evaluate(mask(network, channels, {row["layer"]: lowest}), splits.test)
        assert quality["loss_nats"] == pytest.approx(row["loss_nats"], rel=1e-4)
    again = command(*TINY, "criterion=l2", "rerun=false", "start_layer=3")
    assert json.loads((again.folder / "run.json").read_text())["reused"] == ["trained", "scores"], "one trained network"
    assert len(pd.read_csv(again.folder / "sensitivity.csv")) == 16


@pytest.mark.slow
def test_the_same_result_is_taken_from_the_store_and_the_ratio_is_of_no_account(command: Command) -> None:
    first = command(*TINY, "recipe.epochs=0")
    second = command(*TINY, "recipe.epochs=0", "preset=resnet56_b", "skip=[]", "rounding=floor_pruned")
    assert second.code == 0 and first.folder != second.folder
    assert json.loads((second.folder / "run.json").read_text())["reused"] == ["trained", "scores", "sensitivity"]
    other = command(*TINY, "recipe.epochs=0", "runner.ratios=[0.5]")
    assert json.loads((other.folder / "run.json").read_text())["reused"] == ["trained", "scores"]


def test_families_are_pruned_as_one() -> None:
    network = cifar_resnet(depth=8, num_classes=10)
    channels = trace_channels(network, torch.zeros(1, 3, 8, 8))
    plans = alone(plan(channels, Rule(0.5, coupled="group")), [0.5])
    stream = ("conv1", "layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2")
    assert list(plans) == [stream, ("layer1.0.conv1",), ("layer2.0.conv1",), ("layer3.0.conv1",)]
    scores = pd.DataFrame(
        (layer, index, "any", number, number)
        for index, layer in enumerate(channels.convolutions, 1)
        for number in range(len(channels.writes[layer]))
    )
    found = choose(plans[stream][0.5], scores.set_axis(["layer", "index", "criterion", "filter", "score"], axis=1), "any")
    # Half of the 16 channels that run through all stages, and nothing else.
    lost = dict(zip(found["layer"], found["before"] - found["after"], strict=True))
    assert lost == {layer: 8 if layer in stream else 0 for layer in channels.convolutions}
    for pooled in (Rule(0.5, scope="global"), Rule(0.5, ratio_of="macs")):
        with raises_line(ConfigError, f"scope={pooled.scope}", f"ratio_of={pooled.ratio_of}"):
            alone(plan(channels, pooled), [0.5])


def test_the_figure_draws_what_the_table_says() -> None:
    sensitivity = pd.DataFrame(
        {"layer": list("aabb"), "index": [2, 2, 5, 5], "ratio": [0.5, 0.1, 0.1, 0.5], "top1_pct": [60.0, 80, 70, 50]}
    )
    accuracy = pd.DataFrame({"stage": ["trained"], "top1_pct": [90.0]})
    [axes, bar] = sensitivity_curves(sensitivity, accuracy).axes
    curves = [np.asarray(line.get_xydata()).tolist() for line in axes.lines if len(np.asarray(line.get_xdata())) == 3]
    assert curves == [[[0, 90], [0.1, 80], [0.5, 60]], [[0, 90], [0.1, 70], [0.5, 50]]]
    assert axes.get_ylabel() == "test split: top-1 [%]" and "execution" in bar.get_ylabel()
