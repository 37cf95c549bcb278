"""Filters at zero in place: what is zeroed, that the rest is not, and that training does not bring them back."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from criteria.norm import l1
from models.cifar_resnet import CifarResNet, cifar_resnet
from runners.pruning.prune import prune
from runners.pruning.zero import StaysZero, zero
from runners.scoring.score import score
from runners.selection.rule import Rule
from runners.selection.select import masked_filters, removed_filters, select
from runners.storage.tables import read_table
from runners.storage.weights import load_weights
from runners.tracing.channels import Channels, trace_channels
from support import Command

MASKED = {"conv1": [0, 5], "layer1.0.conv2": [3, 4, 6, 7], "layer2.0.conv2": [0, 31], "layer2.0.shortcut.0": [7]}
NORM_OF = {
    "conv1": "bn1",
    "layer1.0.conv2": "layer1.0.bn2",
    "layer2.0.conv2": "layer2.0.bn2",
    "layer2.0.shortcut.0": "layer2.0.shortcut.1",
}


def network() -> tuple[CifarResNet, Channels]:
    torch.manual_seed(0)
    found = cifar_resnet(depth=8, num_classes=4, shortcut="conv")
    with torch.no_grad():
        for module in found.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-1, 1)
    found.eval()
    return found, trace_channels(found, torch.zeros(1, 3, 8, 8))


def images() -> Tensor:
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_every_convolution_knows_its_batchnorm() -> None:
    _, channels = network()
    expected = {layer: layer.replace("conv", "bn") for layer in channels.convolutions if "shortcut" not in layer}
    assert channels.norms == expected | {f"layer{stage}.0.shortcut.0": f"layer{stage}.0.shortcut.1" for stage in (2, 3)}


def test_a_batchnorm_behind_a_sum_is_nobodys() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.bn = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.a(x) + self.b(x))

    assert trace_channels(Sum(), torch.zeros(1, 3, 4, 4)).norms == {}


def test_what_is_zeroed_and_what_is_not() -> None:
    full, channels = network()
    masked = zero(full, channels, MASKED)
    before = deepcopy(full.state_dict())
    for name, value in masked.state_dict().items():
        layer = {norm: layer for layer, norm in NORM_OF.items()}.get(name.rpartition(".")[0], name.rpartition(".")[0])
        if not value.dim():  # how many batches a BatchNorm has seen
            continue
        gone = torch.zeros(len(value), dtype=torch.bool)
        if layer in MASKED and name.endswith(("weight", "bias")):
            gone[MASKED[layer]] = True
        assert not value[gone].any() and torch.equal(value[~gone], before[name][~gone]), name
    assert list(masked.state_dict()) == list(before)
    # The stream that a residual sum carries on is not cut: only the masked term is missing.
    seen: dict[str, Tensor] = {}
    for name in ("relu", "layer1.0.bn2", "layer1.0.relu2"):
        masked.get_submodule(name).register_forward_hook(lambda module, given, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        masked(images())
    stream, term, result = (seen[name][:, MASKED["layer1.0.conv2"]] for name in ("relu", "layer1.0.bn2", "layer1.0.relu2"))
    assert stream.any() and not term.any() and torch.equal(result, stream)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1),
    ],
    ids=("sgd", "adamw"),
)
def test_training_leaves_them_at_zero(optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    full, channels = network()
    trained = deepcopy(zero(full, channels, MASKED)).train()  # as fit does
    stepper = optimizer(trained.parameters())
    labels = torch.arange(8) % 4
    for _ in range(3):
        stepper.zero_grad()
        nn.functional.cross_entropy(trained(images()), labels).backward()
        stepper.step()
    for layer, filters in MASKED.items():
        for name in (layer, NORM_OF[layer]):
            for parameter in trained.get_submodule(name).parameters():
                assert not parameter[filters].any()
    before, after = (net.get_parameter("layer1.0.conv2.weight")[5] for net in (full, trained))
    assert not torch.equal(before, after), "the others do train"
    # A file has the zeros and not the hooks: the same outputs.
    plain = cifar_resnet(depth=8, num_classes=4, shortcut="conv")
    plain.load_state_dict(trained.state_dict())
    with torch.no_grad():
        assert torch.equal(plain.eval()(images()), trained.eval()(images()))


def test_masked_and_removed_in_one_selection() -> None:
    full, channels = network()
    scores = score(full, channels, {"l1": l1})
    selection = select(scores, "l1", channels, Rule(ratio=0.25, coupled="mask"))
    removed, masked = removed_filters(selection), masked_filters(selection)
    assert set(removed) == {f"layer{stage}.0.conv1" for stage in (1, 2, 3)}
    assert set(removed) | set(masked) == set(channels.convolutions) and not set(removed) & set(masked)
    for layer, filters in {**removed, **masked}.items():
        # A quarter of every layer, lowest first, as each would lose alone.
        alone = scores[scores["layer"] == layer].sort_values("score", kind="stable")["filter"]
        assert list(filters) == alone.head(len(alone) // 4).tolist()
    rows = selection.set_index("layer")
    assert (rows.loc[list(masked), "after"] == rows.loc[list(masked), "before"]).all() and (rows["note"] == "").all()
    pruned = prune(full, channels, selection)
    by_hand = deepcopy(full)
    with torch.no_grad():
        for layer, filters in {**removed, **masked}.items():
            for name in (layer, channels.norms[layer]):
                for parameter in by_hand.get_submodule(name).parameters():
                    parameter[list(filters)] = 0
        torch.testing.assert_close(pruned(images()), by_hand(images()), rtol=1e-4, atol=1e-5)
    assert len(pruned.get_parameter("layer3.0.conv1.weight")) == 48
    assert len(pruned.get_parameter("layer3.0.conv2.weight")) == 64


def test_fine_tuning_a_run_leaves_masked_filters_at_zero(command: Command, tmp_path: Path) -> None:
    tiny = ("dataset=fake", "model=resnet20", "recipe.epochs=0", "finetune.epochs=2", "recipe.batch_size=32", "finetune.lr=0.1")
    ended = command(*tiny, "coupled=mask", "ratio=0.25", "scope=global", "normalise=mean")
    assert ended.code == 0 and " masked " in ended.out
    selection = read_table(ended.folder / "selection.csv")
    masked = masked_filters(selection)
    assert masked and (selection["note"] == "").all()
    [stored] = (tmp_path / "outputs" / "store" / "tuned").rglob("weights.safetensors")
    blank = cifar_resnet(depth=20, num_classes=10)
    tuned = prune(blank, trace_channels(blank, torch.zeros(1, 3, 16, 16)), selection)
    load_weights(tuned, stored)
    for layer, filters in masked.items():
        weight = tuned.get_parameter(f"{layer}.weight")
        assert not weight[list(filters)].any()
        assert weight.flatten(1).any(1).sum() == len(weight) - len(filters), "and no others"


def test_a_mask_keeps_the_layout() -> None:
    x = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    found = StaysZero(torch.arange(8) < 3)(nn.Identity(), (), x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found[:, :3] == 0).all() and torch.equal(found[:, 3:], x[:, 3:])
