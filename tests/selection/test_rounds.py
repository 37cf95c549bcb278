"""Pruning in rounds, and training the pruned shape from new weights."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from models.cifar_resnet import cifar_resnet
from runners.measuring.cost import macs
from runners.pruning.prune import prune
from runners.pruning.saved import load_pruned
from runners.selection.rounds import Gone, gone_by, in_current_numbers, in_original_numbers, rules_of_rounds
from runners.selection.rule import Rule
from runners.selection.select import select
from runners.tracing.channels import trace_channels
from runners.training import schedule
from runners.training.recipe import Recipe
from runners.training.retrain import stretched
from support import Command, names

TINY = ("dataset=fake", "model=resnet20", "recipe.epochs=1", "finetune.epochs=1", "precision=fp32", "criterion=l2")


def test_rounds_end_at_the_ratio_and_take_equal_numbers_or_equal_shares() -> None:
    linear = [rule.ratio for rule in rules_of_rounds(Rule(0.6), 3, "linear")]
    assert linear == pytest.approx([0.2, 0.4, 0.6])
    geometric = [1 - float(str(rule.ratio)) for rule in rules_of_rounds(Rule(0.488), 3, "geometric")]
    assert geometric == pytest.approx([0.8, 0.64, 0.512])
    [last] = rules_of_rounds(Rule(0.3, min_keep=4), 1, "geometric")
    assert last == Rule(0.3, min_keep=4)
    by_layer = rules_of_rounds(Rule({"a": 0.5, "*": 0.2}), 2, "linear")[0].ratio
    assert by_layer == {"a": 0.25, "*": 0.1}


def table(scores: list[float], layer: str = "conv") -> pd.DataFrame:
    return pd.DataFrame({"layer": layer, "index": 1, "criterion": "l2", "filter": range(len(scores)), "score": scores})


def test_filters_keep_their_numbers_and_their_places_are_found() -> None:
    gone = Gone({"conv": [1, 4]}, {"other": [0, 2]})
    found = in_original_numbers(pd.concat([table([10, 20, 30, 40]), table([1, 2, 3], "other")]), gone)
    assert found[found["layer"] == "conv"]["filter"].tolist() == [0, 2, 3, 5]
    assert found[found["layer"] == "other"]["filter"].tolist() == [1], "what is zeroed is not scored again"
    selection = pd.DataFrame({"layer": ["conv", "other"], "removed": ["1 4 5 0", ""], "masked": ["", "0 2 1"]})
    current = in_current_numbers(selection, gone)
    assert current["removed"].tolist() == ["3 0", ""] and current["masked"].tolist() == ["", "1"]


@pytest.mark.parametrize(
    "rule", [Rule(0.5), Rule(0.4, scope="global", min_keep=3), Rule(0.3, coupled="mask"), Rule(0.3, coupled="group")]
)
def test_rounds_of_unchanged_scores_are_one_shot(rule: Rule) -> None:
    """Without fine-tuning, and by a criterion that does not see other filters go, rounds change nothing."""
    torch.manual_seed(0)
    network, example = cifar_resnet(depth=8, num_classes=3), torch.randn(1, 3, 16, 16)
    channels = trace_channels(network, example)
    generator = np.random.default_rng(0)
    fixed = {layer: generator.permutation(len(channels.writes[layer])) + 0.25 for layer in channels.convolutions}

    def scored(gone: Gone) -> pd.DataFrame:
        """As if scored in the network that is left: its filters, by their places there."""
        parts = [
            pd.DataFrame({"layer": layer, "index": index, "criterion": "l2", "filter": range(len(left)), "score": values[left]})
            for index, (layer, values) in enumerate(fixed.items(), 1)
            for left in [[n for n in range(len(values)) if n not in set(gone.removed.get(layer, ()))]]
        ]
        return in_original_numbers(pd.concat(parts), gone)

    whole = select(scored(Gone()), "l2", channels, rule)
    here, gone, selection = network, Gone(), whole
    for part in rules_of_rounds(rule, 4, "geometric"):
        selection = select(scored(gone), "l2", channels, part, gone.of)
        here = prune(here, trace_channels(here, example), in_current_numbers(selection, gone))
        gone = gone_by(selection)
    sets = [[set(cell.split()) for cell in found[column]] for found in (selection, whole) for column in ("removed", "masked")]
    assert sets[0] == sets[2] and sets[1] == sets[3] and any(sets[0] + sets[1])
    expected, x = prune(network, channels, whole), torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(here.eval()(x), expected.eval()(x))


def test_iterative_is_rounds_of_score_prune_and_fine_tune(command: Command) -> None:
    ended = command(*TINY, "runner=iterative", "runner.rounds=2", "ratio=0.5")
    assert ended.code == 0, ended.err
    assert names(ended.out, "168 of 336 filters")
    accuracy = pd.read_csv(ended.folder / "accuracy.csv")
    assert accuracy["stage"].tolist() == ["trained", "pruned_1", "tuned_1", "pruned_2", "tuned_2"]
    assert accuracy["epochs"].tolist() == [1, 1, 2, 2, 3]
    selection = pd.read_csv(ended.folder / "selection.csv", dtype={"removed": str}).fillna({"removed": "", "note": ""})
    first, second = (
        {str(layer): set(str(cell).split()) for layer, cell in zip(part["layer"], part["removed"], strict=True)}
        for _, part in selection.groupby("round")
    )
    assert all(first[layer] <= second[layer] for layer in first)
    ranked = selection[(selection["round"] == 2) & (selection["note"] == "")]
    assert (ranked["after"] * 2 == ranked["before"]).all() and len(ranked) == 9
    network = load_pruned(ended.folder / "tuned")
    assert sum(parameter.numel() for parameter in network.parameters()) == accuracy["params"].iloc[-1]
    scores = pd.read_csv(ended.folder / "scores.csv").query("round == 2 and criterion == 'l2'")
    left = {str(layer): set(part["filter"]) for layer, part in scores.groupby("layer")}
    assert all(left[layer].isdisjoint(map(int, gone)) for layer, gone in first.items()), "what is gone is not scored"
    shot = command(*TINY, "ratio=0.25")
    same = pd.read_csv(shot.folder / "selection.csv", dtype={"removed": str}).fillna({"removed": ""})
    assert [set(cell.split()) for cell in same["removed"]] == list(first.values()), "the first round is one shot"


def test_a_stretched_recipe_takes_as_many_times_longer() -> None:
    steps = partial(schedule.steps, milestones=[4, 8], gamma=0.1)
    recipe = Recipe(10, 32, 0.5, 1e-4, steps)
    longer = stretched(recipe, 2.5)
    assert longer.epochs == 25 and stretched(recipe, 1.0).epochs == 10 and stretched(recipe, 1.01).epochs == 11
    assert [longer.rate(time) for time in (0, 9.99, 10, 19.99, 20)] == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005])
    cosine = Recipe(4, 32, 1.0, 0.0, partial(schedule.cosine, warmup_epochs=1), False)
    times = (0.5, 1, 2.5, 4)
    assert [stretched(cosine, 2).rate(2 * t) for t in times] == pytest.approx([cosine.rate(t) for t in times])


@pytest.mark.slow
def test_from_scratch_trains_new_weights_in_the_pruned_shape(command: Command) -> None:
    found = {}
    for after in ("finetune", "scratch_e", "scratch_b"):
        ended = command(*TINY, "recipe.epochs=2", "ratio=0.5", f"after={after}")
        assert ended.code == 0, ended.err
        found[after] = pd.read_csv(ended.folder / "accuracy.csv").set_index("stage")
        assert (ended.folder / "tuned" / "plan.json").is_file()
    tuned = pd.DataFrame({after: table.loc["tuned"] for after, table in found.items()}).T
    assert tuned["params"].nunique() == tuned["macs"].nunique() == 1
    full, small = found["finetune"].loc["trained", "macs"], tuned["macs"].iloc[0]
    assert tuned["epochs"].tolist() == [3, 4, 2 + int(np.ceil(2 * full / small))]
    assert tuned["loss_nats"].nunique() == 3
    pruned = [table.loc["pruned", "loss_nats"] for table in found.values()]
    assert len(set(pruned)) == 1, "what is measured as pruned keeps its weights"


def test_multiply_adds_are_those_of_one_image() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5))
    assert macs(network, torch.zeros(1, 3, 4, 4)) == 5 * 3 * 9 * 16
    assert network.training and network[1].training, "the mode is put back"
