"""The units that go: groups, parts, floors and budgets, each against a slow walk that removes filter by filter."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from math import ceil, floor
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_choice import params
from torch import Tensor, nn

from models.cifar_resnet import cifar_resnet
from runners.measuring.cost import cost
from runners.process.errors import ConfigError
from runners.pruning.remove import remove
from runners.selection.plan import plan
from runners.selection.rule import ROUNDINGS, Rule
from runners.selection.select import removed_filters, select
from runners.tracing.channels import Channels, trace_channels
from support import raises_line

Layers = Mapping[str, Sequence[float]]


class Small(nn.Module):
    """A stem, an expanding and a depthwise convolution, a projection tied to the stem, PReLU, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.wide, self.deep = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.act, self.back = nn.PReLU(6), nn.Conv2d(6, 4, 1)
        self.last = nn.Conv2d(4, 5, 3, stride=2)
        self.hidden, self.head = nn.Linear(5 * 9, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x)).relu()
        x = x + self.back(self.act(self.deep(self.wide(x))))
        return self.head(self.hidden(self.last(x.relu()).flatten(1)).relu())


@cache
def small() -> tuple[nn.Module, Channels, Tensor]:
    torch.manual_seed(0)
    network, example = Small().eval(), torch.zeros(1, 3, 8, 8)
    return network, trace_channels(network, example), example


def table(layers: Layers) -> pd.DataFrame:
    rows = [
        (layer, index, "any", number, score)
        for index, (layer, scores) in enumerate(layers.items(), 1)
        for number, score in enumerate(scores)
    ]
    return pd.DataFrame(rows, columns=["layer", "index", "criterion", "filter", "score"])


def scores_of(channels: Channels, seed: int) -> dict[str, list[float]]:
    """Whole numbers, so that there are ties and sums are exact."""
    rng = np.random.default_rng(seed)
    return {layer: rng.integers(0, 12, len(channels.writes[layer])).astype(float).tolist() for layer in channels.convolutions}


def chosen(layers: Layers, channels: Channels, rule: Rule) -> pd.DataFrame:
    return select(table(layers), "any", channels, rule).set_index("layer")


def loose(layers: Layers, parts: Mapping[str, Sequence[int]] | None = None) -> Channels:
    """Every filter free, in a group of its own."""
    ends = np.cumsum([0, *map(len, layers.values())])
    writes = {layer: 1 + np.arange(ends[place], ends[place + 1]) for place, layer in enumerate(layers)}
    return Channels(writes, {}, {}, tuple(layers), parts={layer: np.array(part) for layer, part in (parts or {}).items()})


def slow_walk(channels: Channels, scores: Layers, rule: Rule, ranked: Sequence[str]) -> list[dict[str, list[int]]]:
    """The filters gone after each step of the walk: the next lowest group whose layers all stay at their floor or above."""
    found: dict[int, list[tuple[str, int]]] = {}
    for layer, written in channels.writes.items():
        for number, group in enumerate(written.tolist()):
            found.setdefault(group, []).append((layer, number))
    members = {
        group: filters
        for group, filters in found.items()
        if group not in channels.fixed and any(layer in ranked for layer, _ in filters)
    }
    order = sorted(
        members,
        key=lambda group: (
            sum(scores[layer][number] for layer, number in members[group] if layer in scores),
            [(channels.convolutions.index(layer), number) for layer, number in members[group] if layer in scores],
        ),
    )
    gone: dict[str, list[int]] = {}
    steps = [gone]
    for group in order:
        after = {layer: list(filters) for layer, filters in gone.items()}
        for layer, number in members[group]:
            after.setdefault(layer, []).append(number)
        widths = {layer: len(channels.writes[layer]) for layer in after}
        if all(
            widths[layer] - len(filters) >= min(widths[layer], rule.floor(widths[layer])) for layer, filters in after.items()
        ):
            gone = after
            steps.append(gone)
    return steps


def slow_cost(network: nn.Module, channels: Channels, example: Tensor, gone: dict[str, list[int]], budget: str) -> int:
    if budget == "filters":
        return -sum(len(filters) for layer, filters in gone.items() if layer in channels.convolutions)
    smaller = remove(network, channels, gone)
    return sum(p.numel() for p in smaller.parameters()) if budget == "params" else cost(smaller, example, seconds=1e-6).macs


def slow_choice(saved: Sequence[int], asked: Fraction, rounding: str) -> int:
    """The step whose saving is the last one up to, the first one from, or the nearest one to what is asked for."""
    if rounding == "floor_pruned":
        return max(step for step, saving in enumerate(saved) if saving <= asked)
    if rounding == "floor_kept":
        return min(step for step, saving in enumerate(saved) if saving >= asked)
    return min(range(len(saved)), key=lambda step: (abs(saved[step] - asked), -saved[step]))


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 9999),
    st.integers(0, 70),
    st.sampled_from(["filters", "params", "macs"]),
    st.sampled_from(sorted(ROUNDINGS)),
    st.sampled_from(["skip", "group"]),
    st.sampled_from([1, 2, 0.5]),
)
def test_global_groups_floors_and_budgets_against_a_walk(
    seed: int, percent: int, budget: Any, rounding: Any, coupled: Any, min_keep: float
) -> None:
    network, channels, example = small()
    rule = Rule(percent / 100, "global", rounding, min_keep, ratio_of=budget, coupled=coupled)
    ranked = ["last"] if coupled == "skip" else list(channels.convolutions)
    scores = scores_of(channels, seed)
    steps = slow_walk(channels, scores, rule, ranked)
    costs = [slow_cost(network, channels, example, gone, budget) for gone in steps]
    whole = sum(len(channels.writes[layer]) for layer in ranked) if budget == "filters" else costs[0]
    saved, asked = [costs[0] - left for left in costs], Fraction(percent, 100) * whole
    if saved[-1] < asked and budget != "filters":
        with raises_line(ConfigError, f"{saved[-1]:,}"):
            chosen(scores, channels, rule)
        return
    expected = steps[-1] if saved[-1] < asked else steps[slow_choice(saved, asked, rounding)]
    found = removed_filters(chosen(scores, channels, rule).reset_index())
    assert found == {layer: filters for layer, filters in expected.items() if layer in channels.convolutions}


def test_the_small_network_has_what_the_walk_is_to_meet() -> None:
    _, channels, _ = small()
    assert [bool(channels.obstacle(layer)) for layer in channels.convolutions] == [True, True, True, True, False]
    # The stem and the projection are tied by a sum, the expansion and the depthwise convolution by each other.
    groups = {layer: set(channels.writes[layer].tolist()) for layer in channels.convolutions}
    assert groups["stem"] == groups["back"] and groups["wide"] == groups["deep"] and not groups["stem"] & groups["wide"]


@pytest.mark.parametrize("budget", ("params", "macs"))
@pytest.mark.parametrize("rounding", sorted(ROUNDINGS))
def test_a_budget_by_layer_takes_nearly_the_same_share_of_every_layer(budget: Any, rounding: Any) -> None:
    network = cifar_resnet(depth=8, num_classes=10)
    example = torch.zeros(1, 3, 8, 8)
    channels = trace_channels(network, example)
    found = chosen(scores_of(channels, 0), channels, Rule(0.3, rounding=rounding, ratio_of=budget))
    ranked = found[found["note"] == ""]
    lost = (ranked["before"] - ranked["after"]).to_numpy()
    # One share p with floor(p * n) <= lost <= floor(p * n) + 1 for every layer.
    low, high = (lost / ranked["before"]).max(), ((lost + 1) / ranked["before"]).min()
    assert low <= high and len(ranked) == 3
    pruned = remove(network, channels, removed_filters(found.reset_index()))
    before, after = (getattr(cost(net, example, seconds=1e-6), budget) for net in (network, pruned))
    # A filter of the widest layer has 2 * 9 * 64 weights and 2 of BatchNorm, of the narrowest 16 * 16 * 9 * 8 * 8 / 16
    # multiply-adds to either side: what one more or less can change.
    step = {"params": 2 * 9 * 64 + 2, "macs": 2 * 9 * 16 * 64}[budget]
    assert abs(0.3 * before - (before - after)) < step
    assert rounding != "floor_pruned" or before - after <= 0.3 * before
    assert rounding != "floor_kept" or before - after >= 0.3 * before


def test_a_budget_that_cannot_be_met_is_said_before_training() -> None:
    network, channels, example = small()
    cases: Any = (("params", 0.6), ("macs", 0.9))
    for budget, limit in cases:
        rule = Rule(limit, scope="global", ratio_of=budget, min_keep=3, coupled="group")
        with raises_line(ConfigError, f"ratio={limit}") as caught:
            plan(channels, rule)
        # The other ratio that it names can be met, and hardly more.
        [most] = {float(each) for each in re.findall(r"ratio=(0\.\d+)", str(caught.value))} - {limit}
        plan(channels, replace(rule, ratio=most))
        with pytest.raises(ConfigError):
            plan(channels, replace(rule, ratio=most + 0.0002))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=5),
    st.integers(0, 99),
    st.one_of(st.integers(1, 4), st.integers(1, 99).map(lambda percent: percent / 100)),
    st.sampled_from(["layer", "global"]),
    st.sampled_from(sorted(ROUNDINGS)),
)
def test_counts(scores: list[list[int]], percent: int, min_keep: float, scope: Any, rounding: Any) -> None:
    layers = {f"layer{place}": list(map(float, values)) for place, values in enumerate(scores)}
    rule = Rule(percent / 100, scope, rounding, min_keep)
    found = chosen(layers, loose(layers), rule)
    floors = [min(n, max(1, ceil(Fraction(f"{min_keep}") * n) if min_keep < 1 else int(min_keep))) for n in found["before"]]
    assert (found["after"] >= floors).all()
    kept = [set(range(n)) - set(map(int, gone.split())) for n, gone in zip(found["before"], found["removed"], strict=True)]
    assert [len(filters) for filters in kept] == found["after"].tolist()
    if scope == "global":
        exact = Fraction(percent, 100) * sum(found["before"])
        asked = {"floor_pruned": floor(exact), "floor_kept": ceil(exact), "nearest": floor(exact + Fraction(1, 2))}[rounding]
        spare = sum(found["before"]) - sum(floors)
        assert sum(found["before"] - found["after"]) == min(asked, spare)


def slow_parts(scores: Sequence[float], parts: Sequence[int], share: Fraction) -> set[int]:
    """The lowest of each part, as many of each."""
    each = {part: [number for number, own in enumerate(parts) if own == part] for part in parts}
    n = floor(share * min(map(len, each.values())))
    return {number for numbers in each.values() for number in sorted(numbers, key=lambda number: scores[number])[:n]}


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 4), st.integers(1, 5), st.integers(0, 99), st.integers(0, 9999))
def test_parts_keep_equal_counts_and_lose_their_lowest(n_parts: int, size: int, percent: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = {"a": rng.integers(0, 9, n_parts * size).astype(float).tolist(), "b": [1.0, 2, 3]}
    parts = rng.permutation(np.repeat(np.arange(n_parts), size)).tolist()
    found = chosen(layers, loose(layers, {"a": parts}), Rule(percent / 100))
    gone = set(map(int, str(found.loc["a", "removed"]).split()))
    assert gone == slow_parts(layers["a"], parts, Fraction(percent, 100))
    assert found.loc["b", "after"] == 3 - floor(Fraction(percent, 100) * 3)


def test_parts_in_global_scope_by_hand() -> None:
    layers = {"a": [0.0, 9, 1, 5, 2, 4], "b": [0.5, 2.6, 4.4, 9]}
    channels = loose(layers, {"a": [0, 0, 0, 1, 1, 1]})
    # The pairs of a are (0, 4) with a mean of 2, (2, 5) with 2.5 and (1, 3) with 7; ratios of ten filters.
    for ratio, a, b in ((0.1, "", "0"), (0.2, "", "0"), (0.3, "0 4", "0"), (0.5, "0 4 2 5", "0"), (0.6, "0 4 2 5", "0 1")):
        found = chosen(layers, channels, Rule(ratio, scope="global"))
        assert list(found["removed"]) == [a, b]
    # A floor of three of six leaves four, for they go in pairs.
    assert chosen(layers, channels, Rule(0.9, min_keep=3))["after"].tolist() == [4, 3]


def test_parts_of_tied_layers() -> None:
    tied = np.array([1, 2, 3, 4, 5, 6, 7, 8])
    scores = {"a": [3.0, 1, 2, 0, 0, 0, 9, 9], "b": [0.0] * 8}
    halves, quarters, odd = [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 0, 1, 1, 1, 2, 2]
    for parts, removed in (
        # The lowest of each half; of each quarter, the finer parts of which halves are made.
        ({"a": halves}, "3 4"),
        ({"a": halves, "b": halves}, "3 4"),
        ({"a": halves, "b": quarters}, "1 3 4 6"),
    ):
        channels = Channels(
            {"a": tied, "b": tied}, {}, {}, ("a", "b"), parts={key: np.array(value) for key, value in parts.items()}
        )
        found = chosen(scores, channels, Rule(0.5 if len(removed) > 3 else 0.25, coupled="group"))
        assert all(sorted(numbers.split()) == removed.split() for numbers in found["removed"])
    crossed = Channels({"a": tied, "b": tied}, {}, {}, ("a", "b"), parts={"a": np.array(halves), "b": np.array(odd)})
    assert chosen(scores, crossed, Rule(0.5, coupled="group"))["note"].tolist() == ["its parts cannot keep equal counts"] * 2


def test_a_group_goes_by_the_sum_of_its_scores() -> None:
    # Layers tied filter by filter, the second in reverse order: sums 5, 6, 4, 5 (worked by hand).
    channels = Channels({"a": np.array([1, 2, 3, 4]), "b": np.array([4, 3, 2, 1])}, {}, {}, ("a", "b"))
    scores = {"a": [4.0, 1, 3, 0], "b": [5.0, 1, 5, 1]}
    found = chosen(scores, channels, Rule(0.5, coupled="group"))
    assert list(found["removed"]) == ["2 0", "1 3"] and list(found["obstacle"]) == ["tied to b", "tied to a"]
    # Divided by the largest score of each layer first: 1.2, 1.25, 0.95, 1.
    assert chosen(scores, channels, Rule(0.5, coupled="group", normalise="max"))["removed"].tolist() == ["2 3", "1 0"]
    # By default they are not ranked at all.
    assert chosen(scores, channels, Rule(0.5))["removed"].tolist() == ["", ""]


def test_a_group_with_a_layer_that_is_skipped_stays() -> None:
    _, channels, _ = small()
    scores = scores_of(channels, 0)
    found = chosen(scores, channels, Rule(0.5, coupled="group", skip=["back"]))
    assert dict(found["note"]) == {"stem": "tied to back, skipped", "wide": "", "deep": "", "back": "skipped", "last": ""}
    assert list(found["after"]) == [4, 3, 3, 4, 3]
    found = chosen(scores, channels, Rule(0.5, coupled="group", start_layer=2))
    assert found["note"].tolist() == ["among the first 2"] * 2 + [
        "tied to wide, among the first 2",
        "tied to stem, among the first 2",
        "",
    ]


def test_shares_layer_by_layer() -> None:
    _, channels, _ = small()
    scores = scores_of(channels, 0)
    by_name = Rule({"stem": 0.5, "back": 0.5, "*": 0.34, "last": 0.0}, coupled="group")
    assert chosen(scores, channels, by_name)["after"].tolist() == [2, 4, 4, 2, 5]
    with raises_line(ConfigError, "stem 0.25", "back 0.5"):
        plan(channels, Rule({"back": 0.5, "*": 0.25}, coupled="group"))
    with raises_line(ConfigError, "ratio", "wide", "no share"):
        plan(channels, Rule({"stem": 0.5, "back": 0.5}, coupled="group"))
    with raises_line(ConfigError, "ratio", "stem", 0.5, "back"):
        plan(channels, Rule({"stem": 0.5, "*": 0.0}))
    # A pattern may take in layers that are not ranked, a name with a share of nothing too.
    assert chosen(scores, channels, Rule({"*": 0.4, "stem": 0.0}))["after"].tolist() == [4, 6, 6, 4, 3]


def test_start_layer_and_skip_leave_the_pool() -> None:
    layers = {"a": [0.0, 0, 0, 0], "b": [5.0, 6, 7, 8], "c": [1.0, 2, 3, 4]}
    for rule in (Rule(0.5, scope="global", start_layer=1), Rule(0.5, scope="global", skip=["a"])):
        found = chosen(layers, loose(layers), rule)
        # Half of the eight filters that are ranked, not of twelve; c has the lowest scores and keeps one.
        assert found["removed"].tolist() == ["", "0", "0 1 2"] and list(found["floor_hit"]) == [False, False, True]
    assert found["note"].tolist() == ["skipped", "", ""]
    with raises_line(ConfigError, "3 like a", "skipped"):
        plan(loose(layers), Rule(0.5, skip=["*"]))


def test_normalisation_changes_what_global_scope_takes() -> None:
    layers = {"small": [1.0, 2, 3, 4], "large": [10.0, 20, 30, 400]}
    expected: dict[Any, list[str]] = {
        # Small scores go first; by mean (2.5 and 115) the large layer's do, for it has an outlier.
        "none": ["0 1 2", "0"],
        "mean": ["0", "0 1 2"],
        "rank": ["0 1", "0 1"],
    }
    for how, removed in expected.items():
        assert chosen(layers, loose(layers), Rule(0.5, scope="global", normalise=how))["removed"].tolist() == removed


def test_the_root_of_a_filters_size() -> None:
    # 27, 4, 9, 6 and 36 weights a filter: 3 * 3 * 3 for the stem, one channel of 3 x 3 for the depthwise convolution.
    _, channels, _ = small()
    scores = {
        layer: [size**0.5 + number for number in range(len(channels.writes[layer]))]
        for layer, size in (("stem", 27), ("wide", 4), ("deep", 9), ("back", 6), ("last", 36))
    }
    found = chosen(scores, channels, Rule(0.0, coupled="mask", scope="global", normalise="sqrt_dim"))
    assert (found["note"] == "").all()
    # Every layer's first filter has the score 1; the others exceed it, by less the larger the filters are.
    first = chosen(scores, channels, Rule(5 / 25, coupled="mask", scope="global", normalise="sqrt_dim"))
    assert [f"{row.removed}{row.masked}" for row in first.itertuples()] == ["0"] * 5
    more = chosen(scores, channels, Rule(7 / 25, coupled="mask", scope="global", normalise="sqrt_dim"))
    assert [f"{row.removed}{row.masked}" for row in more.itertuples()] == ["0 1", "0", "0", "0", "0 1"]


def test_masks_touch_only_what_is_tied() -> None:
    _, channels, _ = small()
    scores = scores_of(channels, 1)
    found = chosen(scores, channels, Rule(0.5, coupled="mask"))
    assert found["after"].tolist() == [4, 6, 6, 4, 3] and found["obstacle"].map(bool).tolist() == [True] * 4 + [False]
    for layer, row in found.iterrows():
        alone = sorted(range(row["before"]), key=lambda number: scores[str(layer)][number])[: row["before"] // 2]
        assert f"{row['removed']}{row['masked']}" == " ".join(map(str, alone))
        assert bool(row["masked"]) == (layer != "last")


def test_what_the_network_returns_is_not_masked() -> None:
    channels = Channels(
        {"a": np.array([1, 2]), "out": np.array([3, 4])}, {}, {3: "network output", 4: "network output"}, ("a", "out")
    )
    found = chosen({"a": [1.0, 2], "out": [0.0, 0]}, channels, Rule(0.5, coupled="mask"))
    assert found["removed"].tolist() == ["0", ""] and (found["masked"] == "").all()
    assert found.loc["out", "note"] == "network output"


def test_a_ratio_that_rounds_to_nothing_removes_nothing() -> None:
    _, channels, _ = small()
    for budget in ("filters", "params", "macs"):
        for scope in ("layer", "global"):
            found = chosen(scores_of(channels, 0), channels, Rule(0.001, scope, ratio_of=budget, coupled="group"))
            assert (found["after"] == found["before"]).all() and not found["floor_hit"].any()


def test_groups_of_a_padded_shortcut() -> None:
    """The 16 channels of the first stage run through all stages; what meets the padding stays."""
    network = cifar_resnet(depth=8, num_classes=10)
    channels = trace_channels(network, torch.zeros(1, 3, 8, 8))
    scores = scores_of(channels, 0)
    selection = chosen(scores, channels, Rule(0.5, coupled="group"))
    found = dict(selection["removed"])
    assert dict(selection["before"] - selection["after"]) == {
        "conv1": 8, "layer1.0.conv1": 8, "layer1.0.conv2": 8, "layer2.0.conv1": 16, "layer2.0.conv2": 8, "layer3.0.conv1": 32,
        "layer3.0.conv2": 8,
    }  # fmt: skip
    # Padding of 8 and then of 16 channels in front.
    moved = {"conv1": 0, "layer1.0.conv2": 0, "layer2.0.conv2": 8, "layer3.0.conv2": 24}
    total = [sum(scores[layer][number + shift] for layer, shift in moved.items()) for number in range(16)]
    lowest = sorted(range(16), key=lambda number: total[number])[:8]
    assert {layer: [int(number) - shift for number in found[layer].split()] for layer, shift in moved.items()} == dict.fromkeys(
        moved, lowest
    )
    smaller = remove(network, channels, removed_filters(selection.reset_index()))
    assert smaller(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


class Gated(nn.Module):
    """A linear layer that scales the channels of a convolution, and one that sees every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.gate = nn.Conv2d(3, 6, 3), nn.Linear(3, 6)
        self.pixelwise, self.head = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x.mean((2, 3)))[:, :, None, None]
        return self.head(self.pixelwise((self.a(x) * gate).permute(0, 2, 3, 1)).mean((1, 2)))


@pytest.mark.parametrize("coupled", ("skip", "group"))
def test_a_linear_layer_goes_along_with_the_filters_it_scales(coupled: Literal["skip", "group"]) -> None:
    torch.manual_seed(0)
    network, x = Gated().eval(), torch.randn(2, 3, 8, 8)
    channels = trace_channels(network, x[:1])
    found = chosen({"a": [5.0, 0, 4, 1, 3, 2]}, channels, Rule(0.5, coupled=coupled))
    assert found["removed"].tolist() == ["1 3 5"] and found["obstacle"].tolist() == [""]
    smaller = remove(network, channels, removed_filters(found.reset_index()))
    assert len(smaller.get_parameter("gate.weight")) == 3
    with torch.no_grad():
        network.get_parameter("a.weight")[[1, 3, 5]] = 0
        network.get_parameter("a.bias")[[1, 3, 5]] = 0
        torch.testing.assert_close(smaller(x), network(x))


class Shifted(Gated):
    """As that, but the first linear layer is added."""

    def forward(self, x: Tensor) -> Tensor:
        shift = self.gate(x.mean((2, 3)))[:, :, None, None]
        return self.head(self.pixelwise((self.a(x) + shift).permute(0, 2, 3, 1)).mean((1, 2)))


def test_a_linear_layer_in_a_sum_ties_filters() -> None:
    channels = trace_channels(Shifted().eval(), torch.zeros(1, 3, 8, 8))
    assert channels.obstacle("a") == "tied to gate"


@pytest.mark.parametrize("build", (Small, Gated, lambda: cifar_resnet(depth=8, num_classes=10, shortcut="conv")))
def test_sizes_add_up_to_the_whole_network(build: Callable[[], nn.Module]) -> None:
    network, example = build().eval(), torch.zeros(1, 3, 8, 8)
    channels = trace_channels(network, example)
    whole, parts = cost(network, example, seconds=1e-6), channels.sizes.modules.items()
    widths = {name: (len(channels.reads[name]), len(channels.writes.get(name, ()))) for name, _ in parts}
    assert (whole.params, whole.macs) == (channels.sizes.params, channels.sizes.macs)
    assert sum(params(size, *widths[name]) for name, size in parts) == whole.params
    assert sum(size.macs(*widths[name]) for name, size in parts) == whole.macs
