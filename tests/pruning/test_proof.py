"""The proof of a removal: what is exact passes, and what is not ends with the layer where it begins; nothing else changes."""

import re
from collections.abc import Callable
from copy import deepcopy
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunescope
from exactness import half_of_ranked, images, randomised
from models.cifar_resnet import cifar_resnet
from runners.data.resident import Images
from runners.process.errors import RemovalError
from runners.pruning import prune as pruning
from runners.pruning import remove as removing
from runners.pruning.parting import relative_difference
from runners.pruning.proof import N_IMAGES, prove, prune_proven
from runners.pruning.remove import remove
from runners.tracing.channels import Channels, Removed, trace_channels
from support import ROOT, Command, check_refused, raises_line


class Net(nn.Module):
    """Convolutions a and b, a BatchNorm in between, a linear layer; `between` is what happens before b, `end` at the end."""

    def __init__(
        self, between: Callable[[Any, Tensor], Tensor] = lambda m, x: x, end: Callable[[Any, Tensor], Any] = lambda m, x: x
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.bn, self.b = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)
        self.head, self.drop = nn.Linear(4, 2), nn.Dropout2d(0.5)
        self.between, self.end = between, end
        randomised(self)

    def forward(self, x: Tensor) -> Any:
        x = self.between(self, F.relu(self.bn(self.a(x)), inplace=True))
        return self.end(self, self.head(self.b(x).mean((2, 3))))


def pixels(n: int = N_IMAGES, size: int = 8) -> Tensor:
    return images(size, torch.float32, n)


def proven(network: nn.Module, removed: Removed, *, taken: Removed | None = None, size: int = 8) -> float:
    """The proof of `removed`, on a network from which other filters may have been taken."""
    channels = trace_channels(network, pixels(1, size))
    smaller = remove(network, channels, taken or removed)
    return prove(network, smaller, channels, removed, pixels(size=size))


TWO: Removed = {"a": [1, 4]}
EXACT: dict[str, Callable[[], nn.Module]] = {
    "plain": Net,
    "dropout of what goes": lambda: Net(lambda m, x: m.drop(x)),
    "dropout as a function": lambda: Net(lambda m, x: F.dropout(x, 0.5, training=m.training)),
    "alpha dropout": lambda: Net(lambda m, x: F.alpha_dropout(x, 0.5, training=m.training)),
    "noise in training": lambda: Net(lambda m, x: x * (1 + torch.rand_like(x)) if m.training else x),
    "several outputs": lambda: Net(end=lambda m, x: {"logits": x, "rest": [(x + 1, 3), None]}),
    "more outputs in training": lambda: Net(end=lambda m, x: (x, x * 2) if m.training else x),
}


@pytest.mark.parametrize("name", EXACT)
def test_what_is_exact_passes(name: str) -> None:
    assert 0 <= proven(EXACT[name](), TWO) < 1e-13


def test_a_branch_of_training_that_cannot_be_followed_is_found_by_running_it() -> None:
    class Undecided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head, self.aux = nn.Conv2d(3, 6, 3), nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Any:
            features = self.a(x).mean((2, 3))
            return (self.head(features), self.aux(features)) if self.training and x.sum() > -1e9 else self.head(features)

    network = Undecided().eval()
    channels = trace_channels(network, pixels(1))
    with raises_line(RemovalError, "training", "skip=[a]"):
        prunescope.remove(network, channels, {"a": [1]})


def test_deep_networks_pass() -> None:
    for network in (cifar_resnet(depth=56, num_classes=10), timm.create_model("resnet10t", num_classes=10, drop_path_rate=0.5)):
        found = half_of_ranked(trace_channels(randomised(network), pixels(1, 32)))
        assert 0 <= proven(network, found, size=32) < 1e-12


@pytest.mark.parametrize(
    "end",
    [
        # Rounds to float32 on its way, or cannot do without.
        lambda m, x: F.relu(x.float()).to(m.a.weight.dtype),
        lambda m, x: torch.matmul(x, torch.eye(2)),
    ],
)
def test_networks_with_numbers_of_their_own_pass_with_the_rounding_of_those(end: Callable[[Any, Tensor], Tensor]) -> None:
    assert 0 <= proven(Net(end=end), TWO) < 1e-5
    with raises_line(RemovalError, "the output of a", "0.001"):
        proven(Net(end=end), TWO, taken={"a": [1, 5]})


def test_the_wrong_filter_is_named() -> None:
    with raises_line(RemovalError, "eval mode", "the output of a", "skip=[a]", "1e-09"):
        proven(Net(), TWO, taken={"a": [1, 5]})


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda net: net.bn.bias.data.add_(0.01), "the output of bn"),
        (lambda net: net.b.weight.data.copy_(net.b.weight.flip(1)), "the output of b"),
        (lambda net: net.head.bias.data.add_(1e-6), "the output of head"),
        (lambda net: setattr(net, "b", nn.Conv2d(5, 4, 3)), "the output of b"),
        (lambda net: setattr(net, "end", lambda m, x: x * 1.001), "what comes after head"),
        (lambda net: setattr(net, "end", lambda m, x: (x, x)), "2 outputs in place of 1"),
    ],
)
def test_the_first_layer_that_is_wrong_is_named(spoil: Callable[[Any], Any], where: str) -> None:
    network = Net()
    channels = trace_channels(network, pixels(1))
    smaller = remove(network, channels, TWO)
    spoil(smaller)
    with raises_line(RemovalError, where, "eval mode", "skip=[a]"):
        prove(network, smaller, channels, TWO, pixels())


def test_a_width_that_no_tracing_sees_is_found() -> None:
    with raises_line(RemovalError, "eval mode", "the input of b", "skip=[a]"):
        proven(Net(lambda m, x: x * m.a.out_channels**-0.5), TWO)


def test_what_differs_in_training_alone_is_found() -> None:
    with raises_line(RemovalError, "training mode", "the input of b", "skip=[a]"):
        proven(Net(lambda m, x: x * m.a.out_channels**-0.5 if m.training else x), TWO)


def test_statistics_that_differ_are_found() -> None:
    network = Net()
    channels = trace_channels(network, pixels(1))
    smaller = remove(network, channels, TWO)
    smaller.get_buffer("bn.running_mean")[0] += 0.1  # in training mode they are not read
    with raises_line(RemovalError, "eval mode", "the output of bn"):
        prove(network, smaller, channels, TWO, pixels())


@pytest.mark.parametrize("training", [False, True])
def test_networks_and_random_numbers_stay_as_they_are(training: bool) -> None:
    network = Net(lambda m, x: m.drop(x)).train(training)
    channels = trace_channels(network, pixels(1))
    smaller, x = remove(network, channels, TWO), pixels()
    states = [deepcopy(each.state_dict()) for each in (network, smaller)]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    prove(network, smaller, channels, TWO, x)
    assert torch.equal(torch.rand(3), expected) and torch.equal(x, pixels())
    for each, state in zip((network, smaller), states, strict=True):
        assert each.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in each.state_dict().items())
        assert next(each.parameters()).dtype == torch.float32
        assert all(module.training == training and not module._forward_hooks for module in each.modules())


def test_nothing_removed_has_no_difference() -> None:
    assert isnan(proven(Net(), {"a": []}))


def test_a_network_that_cannot_train_on_images_alone_is_proven_in_eval_mode(caplog: pytest.LogCaptureFixture) -> None:
    def targets(m: Any, x: Tensor) -> Tensor:
        if m.training:
            raise ValueError("targets should not be none")
        return x

    assert 0 <= proven(Net(end=targets), TWO) < 1e-13
    assert "eval mode only" in caplog.text and "targets should not be none" in caplog.text


def test_a_network_for_one_image_cannot_be_proven() -> None:
    with raises_line(RemovalError, N_IMAGES, "prove=False"):
        proven(Net(end=lambda m, x: x.view(1, 2)), TWO)


@pytest.mark.parametrize(
    ("expected", "found", "difference"),
    [
        ([2.0, -4.0], [2.0, -3.0], 0.25),
        ([nan, inf, -inf, 1], [nan, inf, -inf, 1], 0),
        ([nan, 1.0], [1.0, 1.0], inf),
        ([1.0, 1.0], [nan, 1.0], inf),
        ([inf, 1.0], [-inf, 1.0], inf),
        ([inf, 2.0], [inf, 1.0], 0.5),
        ([0.0], [0.0], 0),
        ([0.0], [1e-20], 1e-14),
        ([1.0], [1.0, 1.0], inf),
        ([], [], 0),
    ],
)
def test_differences_by_hand(expected: list[float], found: list[float], difference: float) -> None:
    assert relative_difference(torch.tensor(expected), torch.tensor(found)) == pytest.approx(difference)


def some_images() -> Images:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return Images(drawn, torch.zeros(9, dtype=torch.int64), (0.5,) * 3, (0.25,) * 3)


def selection(removed: str = "", masked: str = "") -> pd.DataFrame:
    return pd.DataFrame([{"layer": "a", "removed": removed, "masked": masked}, {"layer": "b", "removed": "", "masked": ""}])


def test_masked_filters_are_zero_in_both() -> None:
    network = Net()
    channels = trace_channels(network, pixels(1))
    smaller, difference = prune_proven(network, channels, selection("0 5").assign(masked=["", "1"]), some_images())
    assert 0 <= difference < 1e-13 and not smaller.get_parameter("b.weight")[1].any()
    masked, difference = prune_proven(network, channels, selection(masked="2"), some_images())
    assert isnan(difference) and not masked.get_parameter("a.weight")[2].any()


def careless(network: nn.Module, channels: Channels, removed: Removed) -> nn.Module:
    """A removal that takes the first filter that stays in place of one that goes."""
    wrong: dict[str, list[int]] = {}
    for layer, filters in removed.items():
        stays = next(number for number in range(len(channels.writes[layer])) if number not in filters)
        wrong[layer] = [stays, *list(filters)[1:]]
    return remove(network, channels, wrong)


TINY = (
    *("dataset=fake", "dataset.num_images=32", "dataset.image_size=8", "model=resnet20", "ratio=0.25", "precision=fp32"),
    *("recipe.epochs=0", "finetune.epochs=0"),
)


@pytest.mark.parametrize("runner", ["one_shot", "iterative", "random_pruning", "sensitivity"])
def test_a_run_whose_removal_is_wrong_ends_and_leaves_nothing(
    runner: str, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pruning, "remove", careless)
    ended = command(*TINY, f"runner={runner}")
    layer = "layer2.0.conv1" if runner == "iterative" else "layer1.0.conv1"  # its first round takes none of 16 filters
    check_refused(ended, RemovalError.exit_code, f"the output of {layer}", f"skip=[{layer}]")
    [folder] = (tmp_path / "outputs").glob("fake-*")
    assert not [path for path in folder.iterdir() if path.is_dir() or path.suffix in (".csv", ".png")]
    kinds = {path.name for path in (tmp_path / "outputs" / "store").iterdir()}
    assert "trained" in kinds and not kinds & {"tuned", "repeat", "sensitivity"}


def test_the_difference_is_in_the_table(command: Command) -> None:
    for options, stages in (((), ["pruned"]), (("runner=iterative", "runner.rounds=2"), ["pruned_1", "pruned_2"])):
        ended = command(*TINY, *options, "ratio=0.5")
        found = pd.read_csv(ended.folder / "accuracy.csv").set_index("stage")["removal_difference"]
        assert (found[stages] < 1e-13).all() and found.drop(stages).isna().all()


def test_no_experiment_prunes_without_proof() -> None:
    texts = {path.name: path.read_text() for path in (ROOT / "runners").glob("*.py")}
    assert sum("prune_proven(" in text for text in texts.values()) >= 4
    assert not [name for name, text in texts.items() if re.search(r"pruning\.(prune|remove|zero)\b", text)]


def test_the_python_interface_proves_on_given_or_random_images(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Net()
    channels = prunescope.trace_channels(network, pixels(1))
    for given in (None, some_images()):
        assert len(prunescope.prune(network, channels, selection("1 4"), images=given).get_parameter("a.weight")) == 4
        assert len(prunescope.remove(network, channels, TWO, images=given).get_parameter("a.weight")) == 4
    for module in (pruning, removing):
        monkeypatch.setattr(module, "remove", careless)
    for given in (None, some_images()):
        with raises_line(RemovalError, "the output of a"):
            prunescope.prune(network, channels, selection("1 4"), images=given)
        with raises_line(RemovalError, "the output of a"):
            prunescope.remove(network, channels, TWO, images=given)
    assert len(prunescope.prune(network, channels, selection("1 4"), prove=False).get_parameter("a.weight")) == 4
    assert len(prunescope.remove(network, channels, TWO, prove=False).get_parameter("a.weight")) == 4
