"""Random pruning: what is drawn, how far repeats spread against slow versions, and the runner end to end."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chi2, norm
from torch import Tensor, nn

from analysis.figures import random_points
from analysis.spread import binomial_se, expected_range, random_spread
from models.cifar_resnet import cifar_resnet
from runners.process.errors import ConfigError
from runners.process.interruption import Preempted
from runners.random_pruning import REPEAT, Repeat, planned
from runners.selection.draw import check_window, draw, within
from runners.selection.plan import plan
from runners.selection.rule import Rule
from runners.selection.select import removed_filters
from runners.storage.keys import Keys
from runners.storage.stages import Stages
from runners.storage.store import Store
from runners.tracing.channels import Channels, trace_channels
from support import Command, check_refused, names, raises_line

TINY = (
    *("runner=random_pruning", "dataset=fake", "dataset.num_images=32", "dataset.image_size=8", "model=resnet20"),
    *("recipe.epochs=1", "finetune.epochs=1", "recipe.batch_size=16", "finetune.batch_size=16", "precision=fp32"),
    *("runner.repeats=2", "ratio=0.25"),
)
HALF = Rule(0.25)


class Chain(nn.Module):
    """One layer to draw from, of 16 filters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 16, 1)
        self.last = nn.Conv2d(16, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.first(x).relu()).mean((2, 3)))


def chain() -> Channels:
    return trace_channels(Chain(), torch.zeros(1, 4, 2, 2))


def table(channels: Channels, seed: int = 0) -> pd.DataFrame:
    """Scores in no order."""
    generator = np.random.default_rng(seed)
    parts = [
        pd.DataFrame({"layer": layer, "index": index, "criterion": "l2", "filter": range(n), "score": generator.random(n)})
        for index, layer in enumerate(channels.convolutions, 1)
        for n in [len(channels.writes[layer])]
    ]
    return pd.concat(parts)


def drawn(channels: Channels, rule: Rule, repeat: int, window: Sequence[float] = (0, 1), seed: int = 0, scores: int = 0):
    return removed_filters(draw(table(channels, scores), "l2", plan(channels, rule), window=window, seed=seed, repeat=repeat))


def test_each_layer_loses_what_the_rule_says_and_no_filter_outside_the_window() -> None:
    network = cifar_resnet(depth=20, num_classes=10)
    channels = trace_channels(network, torch.zeros(1, 3, 8, 8))
    rule, scores = Rule(0.3, skip=("layer1.*",), rounding="nearest"), table(channels)
    for window in ((0, 1), (0, 0.5), (0.3, 0.75)):
        for repeat in range(3):
            gone = drawn(channels, rule, repeat, window)
            assert {layer: len(filters) for layer, filters in gone.items()} == {
                f"layer{stage}.{block}.conv1": count for stage, count in ((2, 10), (3, 19)) for block in range(3)
            }
            for layer, filters in gone.items():
                by_rank = scores[scores["layer"] == layer].sort_values("score")["filter"].tolist()
                n = len(by_rank)
                allowed = {by_rank[p] for p in range(n) if window[0] <= (p + 0.5) / n <= window[1]}
                assert set(filters) <= allowed and len(set(filters)) == len(filters)


def test_draws_depend_on_seed_layer_and_repeat_and_without_a_window_on_nothing_else() -> None:
    channels = trace_channels(cifar_resnet(depth=20, num_classes=10), torch.zeros(1, 3, 8, 8))
    first = drawn(channels, HALF, 0)
    assert first == drawn(channels, HALF, 0) == drawn(channels, HALF, 0, scores=1)
    assert first == drawn(channels, replace(HALF, normalise="zscore"), 0)
    assert drawn(channels, HALF, 0, (0, 0.5)) != drawn(channels, HALF, 0, (0, 0.5), scores=1)
    others = [first, drawn(channels, HALF, 1), drawn(channels, HALF, 0, seed=1)]
    for one, other in pairwise([*others, first]):
        assert all(set(one[layer]) != set(other[layer]) for layer in one)
    alike = [set(first[f"layer3.{block}.conv1"]) for block in range(3)]
    assert alike[0] != alike[1] != alike[2], "layers of one width draw for themselves"


def test_every_filter_of_the_window_is_drawn_equally_often() -> None:
    # Of m filters 4 go, none twice: counts vary less than Poisson's by (m - 4) / (m - 1) and are tied by their sum, so that
    # chi-square over that factor has m - 1 degrees of freedom.
    channels, repeats = chain(), 400

    def statistic(window: Sequence[float], allowed: Sequence[int]) -> float:
        counts = np.zeros(16)
        for repeat in range(repeats):
            np.add.at(counts, drawn(channels, replace(HALF, skip=("last",)), repeat, window)["first"], 1)
        m, inside = len(allowed), counts[list(allowed)]
        assert counts.sum() == inside.sum()
        expected = inside.sum() / m
        return float(((inside - expected) ** 2).sum() / expected * (m - 1) / (m - 4))

    scores = table(channels)
    middle = scores[scores["layer"] == "first"].sort_values("score")["filter"].tolist()[4:12]
    for window, allowed in (((0, 1), range(16)), ((0.25, 0.75), middle)):
        assert chi2.ppf(0.005, len(allowed) - 1) < statistic(window, allowed) < chi2.ppf(0.995, len(allowed) - 1)
    # The control: one draw counted 400 times must be found out.
    counts = np.zeros(16)
    counts[drawn(channels, replace(HALF, skip=("last",)), 0)["first"]] = repeats
    assert ((counts - 100) ** 2).sum() / 100 * 15 / 12 > chi2.ppf(0.995, 15)


def test_filters_that_must_go_in_equal_counts_or_together_are_drawn_so() -> None:
    halves, scores = replace(chain(), parts={"first": np.repeat([0, 1], 8)}), table(chain())
    values = scores[scores["layer"] == "first"]["score"].to_numpy()
    seen: set[int] = set()
    for repeat in range(20):
        gone = drawn(halves, replace(HALF, skip=("last",)), repeat, (0, 0.5))["first"]
        assert sorted(number // 8 for number in gone) == [0, 0, 1, 1]
        ranks = [int((values[number // 8 * 8 :][:8] < values[number]).sum()) for number in gone]
        assert max(ranks) < 4, "the lower half of each part"
        seen |= set(gone)
    assert len(seen) == 8
    tied = trace_channels(cifar_resnet(depth=8, num_classes=10), torch.zeros(1, 3, 8, 8))
    # Shortcuts put 8 zero channels before those of stage 1, then 16 before those of stage 2.
    stream = {"conv1": 0, "layer1.0.conv2": 0, "layer2.0.conv2": 8, "layer3.0.conv2": 24}
    by_layer = {layer: part["score"].to_numpy() for layer, part in table(tied).groupby("layer")}
    sums = np.sum([by_layer[layer][shift : shift + 16] for layer, shift in stream.items()], axis=0)
    for repeat in range(5):
        gone = drawn(tied, Rule(0.25, coupled="group"), repeat, (0, 0.5))
        [together] = {tuple(number - shift for number in gone[layer]) for layer, shift in stream.items()}
        assert len(together) == 4 and all((sums < sums[number]).sum() < 8 for number in together)


def test_windows_are_quantiles_in_exact_decimals() -> None:
    assert within(4, (0, 1)).all() and not within(4, (0.5, 0.6)).any()
    assert within(5, (0.1, 0.3)).tolist() == [True, True, False, False, False], "the quantiles are .1 .3 .5 .7 .9"
    for n in (1, 7, 16, 100):
        for bound in (0.17, 0.29, 0.56):
            assert (within(n, (0, bound)) ^ within(n, (bound, 1))).sum() == n - (within(n, (bound, bound))).sum()


@pytest.mark.parametrize(
    ("rule", "window", "told"),
    [
        (HALF, (0, 0.2), ["window=[0,0.2]", 3, 16, "first", 4]),
        (HALF, (0, 0.25), ["chance"]),
        (Rule(0.01), (0, 1), ["chance"]),
        (Rule(0.25, scope="global"), (0, 1), ["scope=global", "ratio_of=filters"]),
        (Rule(0.25, ratio_of="macs"), (0, 1), ["scope=layer", "ratio_of=macs"]),
    ],
)
def test_windows_that_cannot_be_drawn_from_are_refused(rule: Rule, window: Sequence[float], told: list[object]) -> None:
    channels, rule = chain(), replace(rule, skip=("last",))
    with raises_line(ConfigError, *told):
        check_window(plan(channels, rule), window, needs_choice=True)
    if "chance" in told:
        check_window(plan(channels, rule), window, needs_choice=False)


def test_the_range_of_normal_draws() -> None:
    assert expected_range(20) == pytest.approx(3.735, abs=5e-4), "Tippett 1925; spec 4.5"
    assert expected_range(1) == pytest.approx(0, abs=1e-9)
    assert expected_range(2) == pytest.approx(2 / math.sqrt(math.pi), abs=1e-9)
    assert expected_range(3) == pytest.approx(3 / math.sqrt(math.pi), abs=1e-9)
    # Slow: twice the mean of the largest draw, whose density is n p(x) P(x)^(n - 1).
    x = np.linspace(-12, 12, 400_001)
    for n in (5, 20, 1000):
        largest = np.trapezoid(x * n * norm.pdf(x) * norm.cdf(x) ** (n - 1), x)
        assert expected_range(n) == pytest.approx(2 * largest, abs=1e-7)
    sample = np.random.default_rng(0).standard_normal((20_000, 20))
    assert expected_range(20) == pytest.approx(np.ptp(sample, axis=1).mean(), abs=0.025)  # 5 standard errors


def test_spread_by_hand() -> None:
    found = random_spread(
        pd.DataFrame(
            {
                "vary": ["seeds", "filters", "seeds", "filters", "seeds"],
                "tuned_top1_pct": [71.0, 50, 72, 50, 76],
                "n_images": 10_000,
            }
        )
    )
    assert found["vary"].tolist() == ["seeds", "filters"] and found["n"].tolist() == [3, 2]
    seeds, filters = found.to_dict("records")
    assert [seeds[f"{name}_pct"] for name in ("min", "max", "mean", "delta")] == [71, 76, 73, 5]
    assert seeds["sd_pct"] == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert seeds["expected_delta_pct"] == pytest.approx(math.sqrt(7) * 3 / math.sqrt(math.pi))
    assert filters["sd_pct"] == filters["delta_pct"] == filters["expected_delta_pct"] == 0
    assert filters["binomial_se_pct"] == pytest.approx(0.5)
    # A share's standard error, counted out: all outcomes of four images, three in five of them right.
    hits = [bin(outcome).count("1") for outcome in range(16)]
    weights = [0.6**hit * 0.4 ** (4 - hit) for hit in hits]
    variance = sum(weight * (hit / 4 - 0.6) ** 2 for weight, hit in zip(weights, hits, strict=True))
    assert binomial_se(0.6, 4) == pytest.approx(math.sqrt(variance))


def test_the_printed_delta_is_below_the_noise_of_the_test_set() -> None:
    # NeurIPS'21 Table 4, VGG-16, l2, ratio 0.1: delta 1.24 at a mean of 71.75 % of 10,000 images.
    assert 1.24 / expected_range(20) == pytest.approx(0.33, abs=0.005)
    assert 100 * binomial_se(0.7175, 10_000) == pytest.approx(0.45, abs=0.005)


def test_repeats_vary_one_thing_and_share_the_first() -> None:
    found = planned(["filters", "seeds"], 3, 7)
    assert found == {"filters": [Repeat(0, 7), Repeat(1, 7), Repeat(2, 7)], "seeds": [Repeat(0, 7), Repeat(0, 8), Repeat(0, 9)]}
    assert list(planned(["seeds"], 2, 0)) == ["seeds"]


def test_the_figure_draws_every_repeat() -> None:
    repeats = pd.DataFrame(
        {"vary": ["filters", "filters", "seeds", "seeds"], "tuned_top1_pct": [1.0, 3, 5, 9], "n_images": 100}
    )
    accuracy = pd.DataFrame({"stage": ["trained"], "top1_pct": [90.0]})
    [axes] = random_points(repeats, random_spread(repeats), accuracy).axes
    heights = [np.asarray(line.get_ydata()).tolist() for line in axes.lines]
    assert [1, 3] in heights and [5, 9] in heights and [90, 90] in heights and [2] in heights and [7] in heights
    assert [label.get_text() for label in axes.get_xticklabels()] == ["filters", "seeds"]


@pytest.mark.slow
def test_a_run_its_rerun_and_what_it_shares(command: Command, tmp_path: Path) -> None:
    ended = command(*TINY, "criterion=l2")
    assert ended.code == 0 and ended.err == ""
    assert names(ended.out, "9 ranked layers")
    found = pd.read_csv(ended.folder / "random_pruning.csv")
    assert found[["vary", "repeat", "finetune_seed"]].to_numpy().tolist() == [
        ["filters", 0, 0],
        ["filters", 1, 0],
        ["seeds", 0, 0],
        ["seeds", 1, 1],
    ]
    assert (found["window"] == "0-1").all() and (found["window_of"] == "no criterion").all()
    assert (found["pruned_by"] == "random").all() and (found["ratio"] == 0.25).all()
    assert (100 * found["n_correct"] / found["n_images"] == found["tuned_top1_pct"]).all()
    assert found.loc[found["vary"] == "seeds", "pruned_top1_pct"].nunique() == 1
    history = pd.read_csv(ended.folder / "history.csv").set_index("stage")
    losses = history["train_loss_nats"].drop("trained")
    assert sorted(losses.index) == ["repeat/draw0_seed0", "repeat/draw0_seed1", "repeat/draw1_seed0"]
    assert losses.nunique() == 3, "other filters and other seeds train to other losses"
    draws = pd.read_csv(ended.folder / "draws.csv")
    gone = draws[draws["note"].isna()].pivot(index="layer", columns="repeat", values="removed")
    assert (gone[0] != gone[1]).all() and (draws["before"] - draws["after"]).sum() == 2 * 3 * (4 + 8 + 16)
    spread = pd.read_csv(ended.folder / "random_spread.csv")
    assert spread["vary"].tolist() == ["filters", "seeds"] and (spread["n"] == 2).all()
    assert (spread["window_of"] == "no criterion").all()
    accuracy = pd.read_csv(ended.folder / "accuracy.csv")
    of_first = found[["pruned_top1_pct", "tuned_top1_pct"]].to_numpy()[0].tolist()
    assert accuracy["stage"].tolist() == ["trained", "pruned", "tuned"] and accuracy["top1_pct"].tolist()[1:] == of_first
    assert (ended.folder / "random_pruning.png").is_file()

    store = tmp_path / "outputs" / "store"
    assert len(list((store / "repeat").rglob("weights.safetensors"))) == 3
    other = command(*TINY, "criterion=l1", "runner.vary=[filters]")
    assert other.facts["reused"] == ["trained", "scores", "repeat/draw0_seed0", "repeat/draw1_seed0"], (
        "no criterion, no other draws"
    )
    assert pd.read_csv(other.folder / "random_pruning.csv")["n_correct"].tolist() == found["n_correct"][:2].tolist()


@pytest.mark.slow
def test_a_killed_run_and_more_repeats_go_on_from_those_there_are(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(what: str) -> None:
        if "draw0_seed1" in what:
            raise Preempted(what)

    untrained = (*TINY, "recipe.epochs=0", "finetune.epochs=0", "runner.vary=[seeds]")
    with monkeypatch.context() as patch:
        patch.setattr("runners.storage.stages.stop_if_requested", kill)
        assert command(*untrained).code == Preempted.exit_code
    reused: list[list[str]] = []
    for overrides in ((), ("runner.repeats=3",), ("finetune.lr=0.5",)):
        ended = command(*untrained, *overrides)
        assert ended.code == 0, ended.err
        reused.append([stage for stage in ended.facts["reused"] if stage.startswith("repeat")])
    assert reused == [["repeat/draw0_seed0"], ["repeat/draw0_seed0", "repeat/draw0_seed1"], []]


def test_stages_of_a_kind_are_one_if_all_that_goes_in_is_the_same(tmp_path: Path) -> None:
    def keys(images: str) -> Keys:
        options = dict.fromkeys(["optimizer", "finetune", "precision", "dataset", "model", "recipe", "seed"], 0)
        return Keys(options, {"data": lambda: images})

    stages = Stages(Store(tmp_path), keys("some images"))
    for name, gone, seed in (("a", [1, 2], 0), ("b", [1, 2], 0), ("c", [1, 3], 0), ("d", [1, 2], 1)):
        which = {"removed": {"conv1": gone}, "finetune_seed": seed}
        found = stages.table(
            replace(REPEAT, which=which, place=f"repeat/{name}"), lambda name=name: pd.DataFrame({"note": [name]})
        )
        assert found["note"].tolist() == ["a" if name == "b" else name]
    assert stages.made.reused == ["repeat/b"] and set(stages.made.seconds) == {"repeat", "waited"}
    again = replace(REPEAT, which={"removed": {"conv1": [1, 2]}, "finetune_seed": 0})
    assert keys("some images").of(again) in stages.made.keys.values()
    assert keys("other images").of(again) not in stages.made.keys.values()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("runner.repeats=1", ["runner.repeats=1", 2]),
        ("runner.window=[0.5,0.5]", ["runner.window=[0.5,0.5]"]),
        ("runner.window=[0,1.1]", ["runner.window=[0, 1.1]"]),
        ("runner.window=0.5", ["runner.window=0.5"]),
        ("runner.vary=[]", ["runner.vary=[]"]),
        ("runner.vary=[filters,filters]", ["runner.vary=[filters,filters]", "twice"]),
        ("runner.vary=[weights]", ["runner.vary=['weights']"]),
        ("runner.window=[0,0.1]", ["runner.window=[0,0.1]", 2, 16, "layer1.0.conv1", 4]),
        ("scope=global", ["scope=global", "random"]),
    ],
)
def test_bad_options_end_in_one_line_before_anything_is_trained(
    command: Command, tmp_path: Path, override: str, told: list[object]
) -> None:
    check_refused(command(*TINY, override), 2, *told)
    assert not (tmp_path / "outputs" / "store" / "trained").exists()


@pytest.mark.slow
def test_table_4_runs_both_readings_at_both_ratios(command: Command, tmp_path: Path) -> None:
    small = ("dataset=fake", "dataset.num_images=32", "recipe.epochs=0", "finetune.epochs=0", "runner.repeats=2")
    assert command("experiment=neurips21_table4", *small).code == 0
    tables = [pd.read_csv(path) for path in (tmp_path / "outputs").glob("*/random_pruning.csv")]
    assert sorted((table["ratio"][0], table["window"][0], table["window_of"][0]) for table in tables) == [
        (ratio, *reading) for ratio in (0.1, 0.2) for reading in (("0-1", "no criterion"), ("0.25-0.75", "l2"))
    ]
    assert all((table["model"] == "vgg16_bn").all() and len(table) == 4 for table in tables)
