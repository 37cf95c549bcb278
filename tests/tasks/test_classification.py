"""The numbers of classification, against counts by hand."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from runners.augmenting.draws import Mixture, Targets
from runners.process.errors import ConfigError, StoreError
from runners.tasks.classification import CLASSIFICATION
from support import raises_line


class Given(nn.Module):
    """A network whose logits are its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_counts_of_three_images_by_hand() -> None:
    # Softmax of (ln 3, 0) is (3/4, 1/4): the losses are ln 4/3, ln 4 and ln 4/3.
    logits, labels = torch.tensor([[math.log(3), 0.0]] * 3), torch.tensor([0, 1, 0])
    loss, n_correct, among_five = CLASSIFICATION.count({"network": Given()}, (logits, labels)).tolist()
    assert loss == pytest.approx(2 * math.log(4 / 3) + math.log(4), rel=1e-6) and n_correct == 2 and math.isnan(among_five)
    found = CLASSIFICATION.quality([loss, 2.0, among_five], 3)
    assert found["top1_pct"] == 200 / 3 and found["n_correct"] == 2 and found["n_images"] == 3
    assert found["loss_nats"] == loss / 3 and math.isnan(found["top5_pct"])


def test_labels_among_the_first_five_count_from_100_classes() -> None:
    logits = torch.arange(100.0).flip(0).repeat(3, 1)  # class 0 first, then 1, 2, ...
    counts = CLASSIFICATION.count({"network": Given()}, (logits, torch.tensor([0, 4, 5]))).tolist()
    assert counts[1:] == [1, 2]


def test_an_epoch_of_sums_is_a_row_of_means() -> None:
    found = CLASSIFICATION.history([6.0, 3.0], 4, {"top1_pct": 55.0})
    assert found == {"train_loss_nats": 1.5, "train_top1_pct": 75.0, "test_top1_pct": 55.0}


def test_the_best_epoch_is_the_first_of_the_highest() -> None:
    history = pd.DataFrame({"epoch": [1, 2, 3], "test_top1_pct": [50.0, 70.0, 70.0]})
    assert CLASSIFICATION.best(history) == {"best_top1_pct": 70.0, "best_epoch": 2}
    none = CLASSIFICATION.best(history[:0])
    assert math.isnan(none["best_top1_pct"]) and none["best_epoch"] is None


MIXTURE = Mixture(torch.tensor([0, 1, 2, 3, 1]), torch.tensor([3, 1, 0, 2, 0]), torch.tensor([0.7, 0.2, 1.0, 0.5, 0.4]))


@pytest.mark.parametrize("targets", [MIXTURE, MIXTURE.labels], ids=["mixed", "plain"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_step_on_mixed_and_smoothed_targets_is_that_of_the_written_out_loss(targets: Targets, smoothing: float) -> None:
    torch.manual_seed(0)
    network, x = nn.Linear(3, 4), torch.randn(5, 3)
    logits = network(x).detach().double().requires_grad_()
    task, update = replace(CLASSIFICATION, label_smoothing=smoothing), SGD(network.parameters(), lr=1.0)
    bias = network.bias.detach().clone()
    sums = task.step({"network": network}, {"network": update}, (x, targets), precision="fp32").tolist()
    loss, right = torch.zeros((), dtype=torch.float64), 0.0
    for image in range(5):
        share = float(MIXTURE.share[image]) if isinstance(targets, Mixture) else 1.0
        for weight, label in ((share, int(MIXTURE.labels[image])), (1 - share, int(MIXTURE.partners[image]))):
            target = torch.full((4,), smoothing / 4, dtype=torch.float64)
            target[label] += 1 - smoothing
            loss = loss - weight * (target * (logits[image] - logits[image].logsumexp(0))).sum()
            right += weight * (int(logits[image].argmax()) == label)
    [gradient] = torch.autograd.grad(loss / 5, logits)
    assert sums == pytest.approx([float(loss.detach()), right], rel=1e-6)
    torch.testing.assert_close(network.bias.detach(), (bias - gradient.sum(0)).float(), rtol=1e-5, atol=1e-6)


def test_without_smoothing_a_step_is_the_same_to_the_bit_and_the_test_loss_never_has_it() -> None:
    logits, labels = torch.randn(50, 10, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 10
    assert torch.equal(F.cross_entropy(logits, labels, label_smoothing=0.0), F.cross_entropy(logits, labels))
    smoothed = replace(CLASSIFICATION, label_smoothing=0.3)
    found = [task.count({"network": Given()}, (logits, labels))[:2] for task in (smoothed, CLASSIFICATION)]
    assert torch.equal(*found)


class Head(nn.Module):
    """A small classifier with every source of change: BatchNorm, dropout, a count of its uses; `after` turns its scores."""

    def __init__(self, after: Callable[[nn.Module, torch.Tensor], object] = lambda _, scores: scores) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.Flatten(), nn.Linear(8 * 36, 5))
        self.after, self.uses = after, 0

    def forward(self, x: torch.Tensor) -> object:
        self.uses += 1 + 0 * int(random.random() + np.random.rand())
        return self.after(self, self.layers(x))


def check(network: nn.Module, size: int = 8, *, num_classes: int = 5) -> None:
    CLASSIFICATION.check(network, torch.randn(1, 3, size, size), num_classes=num_classes)


def test_a_trial_leaves_nothing_behind() -> None:
    network, example = Head().eval(), torch.randn(1, 3, 8, 8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)["state"]["pos"]
    CLASSIFICATION.check(network, example, num_classes=5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items()) and network.uses == 0
    assert not any(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert np.random.get_state(legacy=False)["state"]["pos"] == states[2]
    check(network.train())
    assert all(module.training for module in network.modules()) and network.uses == 0


class Heads(NamedTuple):
    logits: torch.Tensor
    aux: torch.Tensor


def only_training(made: Callable[[torch.Tensor], object]) -> Callable[[nn.Module, torch.Tensor], object]:
    return lambda network, scores: made(scores) if network.training else scores


@pytest.mark.parametrize(
    ("after", "tokens"),
    [
        (only_training(lambda x: Heads(x, x)), ("Heads", "training mode", "+model.aux_logits=false")),
        (only_training(lambda x: (x, x)), ("tuple", "training mode", "+model.aux_logits=false")),
        (lambda _, x: {"out": x}, ("dict", "eval mode")),
        (lambda _, x: [x], ("list", "eval mode")),
        (lambda _, x: x[:, :, None], ("1x5x1", "eval mode")),
        (only_training(lambda x: x.mean(0, keepdim=True)), ("1x5", "training mode")),
        (lambda _, x: x.argmax(1, keepdim=True), ("1x1", "int64")),
        (lambda _, x: x.mean(), ("eval mode",)),
        (lambda _, x: x[:, :4], (4, "dataset.num_classes=5", "model.num_classes=5")),
        (lambda _, x: torch.cat([x, x], 1), (10, "dataset.num_classes=5", "model.num_classes=5")),
    ],
)
def test_a_network_that_gives_no_class_scores_is_refused(
    after: Callable[[nn.Module, torch.Tensor], object], tokens: tuple[object, ...]
) -> None:
    with raises_line(ConfigError, "Head", 5, *tokens):
        check(Head(after))


def test_a_network_that_fails_for_these_images_is_refused() -> None:
    with raises_line(ConfigError, "Head", "eval mode", "3x9x9", "+model.img_size=9", "dataset.image_size=224"):
        check(Head(), 9)

    with raises_line(ConfigError, "ResNet", "1x16x16", "model=timm"):
        CLASSIFICATION.check(torchvision.models.resnet18(), torch.randn(1, 1, 16, 16), num_classes=5)

    def fails(error: Exception) -> nn.Module:
        def after(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
            raise error

        return Head(after)

    with pytest.raises(MemoryError):
        check(fails(MemoryError()))
    with raises_line(StoreError, "ours"):
        check(fails(StoreError("ours")))


def test_networks_of_torchvision_and_timm_with_their_ways_out() -> None:
    googlenet = partial(torchvision.models.googlenet, num_classes=5, init_weights=False)
    with raises_line(ConfigError, "GoogLeNet", "GoogLeNetOutputs", "+model.aux_logits=false"):
        check(googlenet(), 64)
    check(googlenet(aux_logits=False), 64)
    with raises_line(ConfigError, "LRASPP", "OrderedDict"):
        check(torchvision.models.get_model("lraspp_mobilenet_v3_large", weights_backbone=None, num_classes=5), 32)
    transformer = partial(timm.create_model, "vit_tiny_patch16_224", depth=1, num_classes=5)
    with raises_line(ConfigError, "VisionTransformer", "3x32x32", 224, "+model.img_size=32"):
        check(transformer(), 32)
    check(transformer(img_size=32), 32)
