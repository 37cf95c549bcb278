"""A plan and a choice on whole arrays: against the slow choice on random networks, and examples worked by hand."""

import logging
from math import fsum
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_choice import slow_choice
from torch import Tensor, nn

from models.cifar_resnet import cifar_resnet
from runners.process.errors import ConfigError
from runners.selection.going import exact_sums
from runners.selection.plan import plan
from runners.selection.rule import ROUNDINGS, Rule
from runners.selection.select import choose, select
from runners.selection.units import units_of
from runners.tracing.channels import Channels, trace_channels
from support import check_line


class Random(nn.Module):
    """Convolutions drawn by a seed, some grouped, summed or joined with earlier ones of their width; a hidden linear layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.steps: list[tuple[str, int]] = []
        self.layers, widths = nn.ModuleList(), [3]
        for _ in range(rng.integers(2, 6)):
            width = int(rng.choice([4, 4, 6, 8]))
            inputs, outputs = widths[-1], width
            groups = int(rng.choice([1, 1, 2, inputs])) if inputs % 2 == 0 else 1
            outputs = inputs * int(rng.integers(1, 3)) if groups == inputs else outputs
            self.layers.append(nn.Conv2d(inputs, outputs, int(rng.choice([1, 3])), padding="same", groups=groups))
            alike = [place for place, earlier in enumerate(widths) if earlier == outputs and place]
            way = str(rng.choice(["plain", "sum", "sum", "join"]))
            earlier = int(rng.choice(alike)) if alike else 0
            self.steps.append((way if earlier else "plain", earlier))
            widths.append(outputs * (2 if self.steps[-1][0] == "join" else 1))
        self.hidden, self.head = nn.Linear(widths[-1], 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer, (way, earlier) in zip(self.layers, self.steps, strict=True):
            x = layer(x).relu()
            x = x + seen[earlier] if way == "sum" else torch.cat([x, seen[earlier]], 1) if way == "join" else x
            seen.append(x)
        return self.head(self.hidden(x.mean((2, 3))).relu())


def table(channels: Channels, scores: dict[str, list[float]]) -> pd.DataFrame:
    rows = [
        (layer, index, "any", number, score)
        for index, layer in enumerate(channels.convolutions, 1)
        for number, score in enumerate(scores[layer])
    ]
    return pd.DataFrame(rows, columns=["layer", "index", "criterion", "filter", "score"])


@settings(deadline=None, max_examples=120)
@given(
    st.integers(0, 400),
    st.integers(0, 95),
    st.sampled_from(["layer", "global"]),
    st.sampled_from(["filters", "params", "macs"]),
    st.sampled_from(sorted(ROUNDINGS)),
    st.sampled_from(["skip", "group", "mask"]),
    st.sampled_from([1, 2, 0.4]),
    st.integers(0, 2),
)
def test_the_choice_on_arrays_is_the_slow_one(
    seed: int, percent: int, scope: Any, ratio_of: Any, rounding: Any, coupled: Any, min_keep: float, start_layer: int
) -> None:
    channels = trace_channels(Random(seed), torch.zeros(1, 3, 4, 4))
    # Few different scores, so that there are ties, and of different sizes, so that sums round.
    rng = np.random.default_rng(seed)
    values = np.array([0.1, 0.2, 0.3, 1e-9, 7.0, 7.0])
    scores = {layer: rng.choice(values, len(channels.writes[layer])).tolist() for layer in channels.convolutions}
    ratio_of = "filters" if coupled == "mask" else ratio_of
    rule = Rule(percent / 100, scope, rounding, min_keep, start_layer, ratio_of=ratio_of, coupled=coupled)
    try:
        found = select(table(channels, scores), "any", channels, rule)
    except ConfigError as error:
        assert ratio_of != "filters"
        check_line(str(error), f"ratio={percent / 100:g}")
        return
    given_up = {
        layer: [int(number) for cell in (removed, masked) for number in cell.split()]
        for layer, removed, masked in zip(found["layer"], found["removed"], found["masked"], strict=True)
    }
    expected = slow_choice(channels, rule, scores)
    assert given_up == {layer: expected.get(layer, []) for layer in channels.convolutions}


def test_random_networks_have_what_the_choice_is_to_meet() -> None:
    found = [trace_channels(Random(seed), torch.zeros(1, 3, 4, 4)) for seed in range(60)]
    units = [units_of(channels, Rule(0.5, coupled="group")) for channels in found]
    assert sum(bool(channels.parts) for channels in found) > 5
    assert sum(max(map(len, each.families), default=0) > 1 for each in units) > 20
    assert sum(bool((each.kinds > 1).any()) for each in units) > 5


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-1e9, 1e9) | st.sampled_from([0.1, 1e300, -1e300, -np.inf]), min_size=1, max_size=7)))
def test_sums_are_rounded_once(rows: list[list[float]]) -> None:
    starts = np.cumsum([0, *map(len, rows)])
    found = exact_sums(np.array([value for row in rows for value in row]), starts)
    assert found.tolist() == [fsum(row) for row in rows]


def test_sums_that_only_exact_arithmetic_gets_right() -> None:
    # 1 + 2^-53 + 2^-106 is above the middle between 1 and the next number; adding from the left loses both.
    rows = [[1.0, 2.0**-53, 2.0**-106], [1e100, 1.0, -1e100], [0.1] * 10]
    assert exact_sums(np.concatenate(rows), np.array([0, 3, 6, 16])).tolist() == [1 + 2.0**-52, 1.0, 1.0]


class Summed(nn.Module):
    """The example of `units`: two layers of three filters, summed, and a third."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return self.head(self.c(a + self.b(a.relu())).mean((2, 3)))


def test_the_example_of_units() -> None:
    channels = trace_channels(Summed(), torch.zeros(1, 3, 4, 4))
    units = units_of(channels, Rule(0.5, coupled="group"))
    first = channels.writes["a"][0]
    assert channels.writes["a"].tolist() == channels.writes["b"].tolist() == [first, first + 1, first + 2]
    assert units.families == (("a", "b"), ("c",)) and units.family.tolist() == [0, 0, 0, 1, 1, 1]
    assert units.group.tolist() == list(range(first, first + 6)) and units.starts.tolist() == [0, 2, 4, 6, 7, 8, 9]
    assert [units.names[layer] for layer in units.layer] == ["a", "b"] * 3 + ["c"] * 3
    assert units.number.tolist() == [0, 0, 1, 1, 2, 2, 0, 1, 2]
    assert units_of(channels, Rule(0.5)).families == (("c",),)


def test_a_plan_chooses_as_select_does() -> None:
    channels = trace_channels(cifar_resnet(depth=8, num_classes=10), torch.zeros(1, 3, 8, 8))
    rng = np.random.default_rng(0)
    scores = table(channels, {layer: rng.random(len(channels.writes[layer])).tolist() for layer in channels.convolutions})
    rule = Rule(0.3, scope="global", coupled="group", ratio_of="macs")
    pd.testing.assert_frame_equal(choose(plan(channels, rule), scores, "any"), select(scores, "any", channels, rule))


@pytest.mark.parametrize(("coupled", "told"), [("skip", [["1", "3", "3"]]), ("group", [])])
def test_a_network_of_which_few_layers_are_ranked_is_told_of_group(
    coupled: Any, told: list[list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    channels = trace_channels(Summed(), torch.zeros(1, 3, 4, 4))
    with caplog.at_level(logging.INFO):
        plan(channels, Rule(0.5, coupled=coupled))
    numbers = [[word.strip(";") for word in record.message.split() if word.strip(";").isdigit()] for record in caplog.records]
    assert numbers == told
