"""Why nothing goes, on networks worked by hand, and that the options which a line names do what it says."""

import logging
import re
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from models.cifar_resnet import cifar_resnet
from runners.process.errors import ConfigError
from runners.selection.plan import plan
from runners.selection.reasons import remarks
from runners.selection.rule import Rule
from runners.selection.select import choose
from runners.selection.units import units_of
from runners.tracing.channels import Channels, trace_channels
from support import check_line, raises_line


@pytest.fixture(scope="module")
def resnet20() -> Channels:
    """Nine of its 19 convolutions are free: three of 16, 32 and 64 filters each, 336 in all."""
    return trace_channels(cifar_resnet(depth=20, num_classes=10), torch.zeros(1, 3, 16, 16))


def scored(channels: Channels, rule: Rule) -> tuple[list[str], pd.DataFrame]:
    """The remarks on a selection by the filters' numbers, and the selection."""
    rows = [
        (layer, index, "any", number, float(number))
        for index, layer in enumerate(channels.convolutions, 1)
        for number in range(len(channels.writes[layer]))
    ]
    planned = plan(channels, rule)
    selection = choose(planned, pd.DataFrame(rows, columns=["layer", "index", "criterion", "filter", "score"]), "any")
    return remarks(planned, selection), selection


def n_gone(selection: pd.DataFrame) -> int:
    return sum(len(numbers.split()) for column in ("removed", "masked") for numbers in selection[column])


def given(line: str, option: str) -> str:
    """The value that a line tells to try."""
    [found] = re.findall(rf"{option}=([\w.]+?)(?:,|;|\.?$)", line)
    return found


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        # 9 convolutions of the blocks and 10 in their sums.
        (Rule(0.5, skip=["*"]), ("19", "19 like conv1", "skipped", "skip=[]", "ranks 9")),
        (Rule(0.5, start_layer=40), ("19 like conv1", "among the first 40", "start_layer=0", "ranks 9")),
        (
            Rule(0.5, skip=["layer*.conv1"]),
            ("10 like conv1", "tied to", "9 like layer1.0.conv1", "coupled=group, which ranks 10", "skip=[], which ranks 9"),
        ),
        (Rule(0.5, skip=["*"], coupled="group"), ("19 like conv1", "skip=[], which ranks 19")),
        (Rule(0.5, skip=[2, "*.conv1"], start_layer=3, coupled="group"), ("skip=[] start_layer=0, which ranks 19",)),
    ],
    ids=["all skipped", "all among the first", "the free ones skipped", "group", "skip and start_layer"],
)
def test_a_network_that_can_lose_nothing_is_refused_with_the_commonest_reason_and_a_way_out(
    resnet20: Channels, rule: Rule, told: tuple[str, ...]
) -> None:
    with raises_line(ConfigError, *told):
        plan(resnet20, rule)


def test_reasons_that_differ_in_a_name_alone_are_one() -> None:
    class Odd(nn.Conv2d):
        """Its own computation with its weights, which may be anything."""

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * 2

    network = nn.Sequential(Odd(3, 4, 1), Odd(4, 4, 1), Odd(4, 4, 1), nn.Flatten(), nn.Linear(16, 2))
    with raises_line(ConfigError, "3 like 0", "coupled=mask, which ranks 3"):
        plan(trace_channels(network, torch.zeros(1, 3, 2, 2)), Rule(0.5))


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), ("no convolution",)),
        (nn.Conv2d(3, 2, 1), ("1 like", "network output")),
    ],
    ids=["no convolution", "all is output"],
)
def test_where_no_option_helps_another_model_or_scores_alone_are_the_way_out(network: nn.Module, told: tuple[str, ...]) -> None:
    channels = trace_channels(nn.Sequential(network), torch.zeros(1, 3, 2, 2))
    with raises_line(ConfigError, *told, "runner=score_only"):
        plan(channels, Rule(0.5))


# 0.01 of 64 filters is 0.64; 1/64 = 0.015625 and 1/128 = 0.0078125, up to three digits. 0.001 of 336 filters is 0.336; one of
# them is 0.002976 of all. A filter of layer3.1.conv1 has 576 weights and as many that read it, and two numbers of BatchNorm:
# 1,154 of 269,722 parameters, 0.00428 of all.
ROUNDED = [
    (Rule(0.01), ("0.01", "64 filters", "layer3.0.conv1"), "0.0157"),
    (Rule(0.007, rounding="nearest"), ("0.007", "64 filters", "layer3.0.conv1"), "0.00782"),
    (Rule(0.01, coupled="group", skip=["layer*.conv1"]), ("16 filters", "conv1 and 9 layers"), "0.0625"),
    (Rule(0.001, scope="global"), ("0.001", "336 filters", "0.336"), "0.00298"),
    (Rule(0.0001, ratio_of="params"), ("269,722 parameters", "26.9722", "layer3.1.conv1", "1,154"), "0.00428"),
]


@pytest.mark.parametrize(("rule", "told", "enough"), ROUNDED, ids=["down", "nearest", "tied", "global", "params"])
def test_a_ratio_of_less_than_a_filter_is_told_with_one_that_removes_some(
    resnet20: Channels, rule: Rule, told: tuple[str, ...], enough: str
) -> None:
    lines, selection = scored(resnet20, rule)
    assert n_gone(selection) == 0
    check_line(lines[-1], *told)
    assert given(lines[-1], "ratio") == enough and given(lines[-1], "rounding") == "floor_kept"
    for better in (replace(rule, ratio=float(enough)), replace(rule, rounding="floor_kept")):
        lines, selection = scored(resnet20, better)
        assert n_gone(selection) > 0 and not any("No filter goes" in line for line in lines)


def test_a_share_of_a_layer_of_less_than_a_filter_is_told(resnet20: Channels) -> None:
    # 0.05 of 16 is 0.8, 0.01 of 64 is 0.64.
    lines, selection = scored(resnet20, Rule({"layer1.*": 0.05, "*": 0.01}))
    assert n_gone(selection) == 0
    check_line(lines[-1], "0.05", "16 filters", "layer1.0.conv1", "0.0625")


def test_sets_of_filters_that_go_together_are_told() -> None:
    # Filters of each half of the grouped convolution's inputs go in equal counts: 4 pairs.
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1, groups=2), nn.Flatten(), nn.Linear(6, 2))
    lines, _ = scored(trace_channels(network, torch.zeros(1, 3, 1, 1)), Rule(0.2))
    check_line(lines[-1], "4 sets of 2 filters", "ratio=0.25")


@pytest.mark.parametrize("rule", [Rule(0.5, min_keep=64), Rule(0.5, min_keep=0.999), Rule(0.5, "global", min_keep=64)])
def test_a_floor_that_keeps_everything_is_told(resnet20: Channels, rule: Rule) -> None:
    lines, selection = scored(resnet20, rule)
    assert n_gone(selection) == 0
    check_line(lines[-1], f"min_keep={rule.min_keep:g}", "layer3.0.conv1", 64, "min_keep=1")
    assert n_gone(scored(resnet20, replace(rule, min_keep=1))[1]) == 168


def test_a_ratio_of_zero_is_a_reason(resnet20: Channels) -> None:
    lines, _ = scored(resnet20, Rule(0))
    check_line(lines[-1], "ratio", 0)


def test_a_few_ranked_layers_are_a_remark_where_group_ranks_more(resnet20: Channels) -> None:
    [line], selection = scored(resnet20, Rule(0.5))
    assert n_gone(selection) == 168
    check_line(line, "9 of 19 layers", "coupled=group", 19)
    assert len(units_of(resnet20, Rule(0.5, coupled="group")).ranked) == 19
    assert scored(resnet20, Rule(0.5, coupled="group"))[0] == []


@pytest.mark.parametrize(
    ("rule", "told"),
    [(Rule(0.01), "0.0157"), (Rule(0.5, min_keep=64), "min_keep=64"), (Rule(0), ""), (Rule(0.02), ""), (Rule(0.5), "")],
)
def test_what_is_certain_is_told_before_anything_is_trained(
    resnet20: Channels, rule: Any, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        plan(resnet20, rule)
    found = [record.message for record in caplog.records if "No filter goes" in record.message]
    assert len(found) == bool(told) and all(told in line for line in found)
