"""The filters that can be removed from networks of the project, and from those that researchers prune: stated, and exact."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import timm
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torch.nn import functional as F

from exactness import assert_removed_is_masked, difference, half_of_ranked, images, output, randomised, share_of_free_groups
from models.cifar_resnet import cifar_resnet
from models.cifar_vgg import cifar_vgg_bn
from runners.process.errors import ConfigError
from runners.pruning.remove import remove, zero_filters
from runners.selection.plan import plan
from runners.selection.rule import Rule
from runners.tracing.channels import Removed, trace_channels
from support import raises_line


@dataclass(frozen=True)
class Outcome:
    """The expected outcome for one network.

    Args:
        build: makes it.
        size: of the image.
        convolutions: how many it has.
        ranked: convolutions whose every filter may go without another layer's.
        filters: of all convolutions.
        free: filters that may go, alone or with those tied to them.
        groups: decisions they come to (with features of hidden linear layers).
        even: layers that must lose as many filters of each part, for a grouped convolution.
        why: what stands in the way of the rest.
    """

    build: Callable[[], nn.Module]
    size: int
    convolutions: int
    ranked: int
    filters: int
    free: int
    groups: int
    even: int = 0
    why: str = ""


def torchvision(name: str) -> Callable[[], nn.Module]:
    return lambda: tv.get_model(name, num_classes=10)


def of_timm(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=10)


PADDED = "meets the zero channels of a padded shortcut"
# Groups by hand, of widths in the papers: ResNets have one a channel of each stage's sum and one a filter inside a block
# (with padded shortcuts, only the 16 channels of the first stage's sum are free: the others meet zeros).
# MobileNet-V2 and EfficientNet-B0: stem, expansions (each with its depthwise convolution, and gate), squeezed channels,
# sums of the stages, last convolution.
MOBILE = 32 + (96 + 2 * 144 + 3 * 192 + 4 * 384 + 3 * 576 + 3 * 960) + (16 + 24 + 32 + 64 + 96 + 160 + 320) + 1280
EXPANSIONS = 96 + 2 * 144 + 2 * 240 + 3 * 480 + 3 * 672 + 4 * 1152
EFFICIENT = 32 + EXPANSIONS + (8 + EXPANSIONS // 24) + (16 + 24 + 40 + 80 + 112 + 192 + 320) + 1280
REGNET = 2 * (24 + 56 + 4 * 152 + 7 * 368)  # two convolutions inside each of 1, 1, 4, 7 blocks
RESNET50 = 64 + (256 + 512 + 1024 + 2048) + 2 * (3 * 64 + 4 * 128 + 6 * 256 + 3 * 512)
NETWORKS = {
    "resnet20 pad": Outcome(lambda: cifar_resnet(depth=20, num_classes=10), 16, 19, 9, 688, 496, 16 + 3 * 112, why=PADDED),
    "resnet56 pad": Outcome(lambda: cifar_resnet(depth=56, num_classes=10), 16, 55, 27, 2032, 1456, 16 + 9 * 112, why=PADDED),
    "resnet56 pad_end": Outcome(
        lambda: cifar_resnet(depth=56, num_classes=10, shortcut="pad_end"), 16, 55, 27, 2032, 1456, 16 + 9 * 112, why=PADDED
    ),
    "resnet56 conv": Outcome(
        lambda: cifar_resnet(depth=56, num_classes=10, shortcut="conv"), 16, 57, 27, 2128, 2128, 9 * 112 + 112
    ),
    "vgg16 of CIFAR": Outcome(lambda: cifar_vgg_bn(depth=16, num_classes=10), 16, 13, 13, 4224, 4224, 4224),
    "resnet18": Outcome(torchvision("resnet18"), 32, 20, 8, 4800, 4800, 960 + 2 * 960),
    "mobilenet_v2": Outcome(torchvision("mobilenet_v2"), 32, 52, 3, 17056, 17056, MOBILE),
    "efficientnet_b0": Outcome(torchvision("efficientnet_b0"), 32, 81, 19, 30348, 30348, EFFICIENT),
    "regnet_y_400mf": Outcome(torchvision("regnet_y_400mf"), 32, 85, 33, 18784, 18784, 10288, even=48),
    "shufflenet_v2_x1_0": Outcome(
        torchvision("shufflenet_v2_x1_0"), 32, 56, 1, 8090, 5248, 3136, why="passes view, which depends on the width"
    ),
    "timm resnet10t": Outcome(of_timm("resnet10t"), 32, 14, 6, 2936, 2936, 24 + 32 + 960 + 960),
    "timm regnetx_002": Outcome(of_timm("regnetx_002"), 32, 44, 27, 10424, 10424, 32 + REGNET + 600, even=26),
}
SLOW = {
    "resnet50": Outcome(torchvision("resnet50"), 64, 53, 33, 26560, 26560, RESNET50),
    "vgg16_bn": Outcome(torchvision("vgg16_bn"), 32, 13, 13, 4224, 4224, 4224 + 2 * 4096),
    "densenet121": Outcome(torchvision("densenet121"), 32, 120, 120, 10240, 10240, 10240),
    "mobilenet_v3_small": Outcome(torchvision("mobilenet_v3_small"), 64, 52, 11, 8944, 8944, 3848 + 1024),
    "regnet_x_400mf": Outcome(torchvision("regnet_x_400mf"), 64, 71, 45, 18928, 18928, 12848, even=44),
    "resnext50_32x4d": Outcome(torchvision("resnext50_32x4d"), 64, 53, 33, 34112, 34112, 19008, even=32),
    "squeezenet1_1": Outcome(torchvision("squeezenet1_1"), 64, 26, 25, 2954, 2944, 2944, why="network output"),
    "googlenet": Outcome(
        lambda: tv.googlenet(num_classes=10, aux_logits=False, init_weights=False), 64, 57, 57, 7280, 7280, 7280
    ),
    "timm resnet50": Outcome(of_timm("resnet50"), 64, 53, 33, 26560, 26560, RESNET50),
    "timm densenet121": Outcome(of_timm("densenet121"), 32, 120, 120, 10240, 10240, 10240),
    "timm mobilenetv2_100": Outcome(of_timm("mobilenetv2_100"), 32, 52, 3, 17056, 17056, MOBILE),
    "timm tf_efficientnet_b0": Outcome(of_timm("tf_efficientnet_b0"), 64, 81, 19, 30348, 30348, EFFICIENT),
    "timm regnety_004": Outcome(of_timm("regnety_004"), 64, 85, 33, 18784, 18784, 10288, even=48),
    "timm seresnet50": Outcome(of_timm("seresnet50"), 64, 85, 49, 42608, 42608, 12400),
}


def assert_outcome(outcome: Outcome) -> None:
    network = outcome.build()
    channels = trace_channels(network, images(outcome.size, torch.float32, n=1))
    written = [group for layer in channels.convolutions for group in channels.writes[layer].tolist()]
    every = {group for groups in channels.writes.values() for group in groups.tolist()}
    assert len(channels.convolutions) == outcome.convolutions
    assert sum(not channels.obstacle(layer) for layer in channels.convolutions) == outcome.ranked
    assert len(written) == outcome.filters
    assert sum(group not in channels.fixed for group in written) == outcome.free
    assert {channels.fixed[group] for group in written if group in channels.fixed} == ({outcome.why} if outcome.why else set())
    assert len(channels.parts) == outcome.even
    assert len(every - set(channels.fixed)) == outcome.groups
    assert_removed_is_masked(network, outcome.size, (torch.float64, torch.float32))


@pytest.mark.parametrize("name", NETWORKS)
def test_what_can_be_removed_is_as_stated_and_removed_is_masked(name: str) -> None:
    torch.manual_seed(0)
    assert_outcome(NETWORKS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_what_can_be_removed_from_large_networks_is_as_stated_and_removed_is_masked(name: str) -> None:
    torch.manual_seed(0)
    assert_outcome(SLOW[name])


@pytest.mark.parametrize("build", [torchvision("convnext_tiny"), of_timm("convnext_tiny")], ids=["torchvision", "timm"])
def test_nothing_can_be_removed_from_convnext_and_the_message_says_why(build: Callable[[], nn.Module]) -> None:
    network = build()
    channels = trace_channels(network, images(32, torch.float32, n=1))
    assert all(channels.obstacle(layer) for layer in channels.convolutions) and len(channels.convolutions) == 22
    assert {group for layer in channels.convolutions for group in channels.writes[layer].tolist()} <= set(channels.fixed)
    with raises_line(ConfigError, "layer_norm"):
        plan(channels, Rule(0.5))


def test_weights_that_a_layer_standardises_are_not_removed() -> None:
    # A filter that loses an input channel has another mean and variance, and so other weights.
    channels = trace_channels(timm.create_model("nf_resnet26", num_classes=10), images(32, torch.float32, n=1))
    obstacles = [channels.fixed[group] for layer in channels.convolutions for group in channels.writes[layer].tolist()]
    assert all(reason.endswith("computes with its weights in a way of its own") for reason in obstacles)


def with_dropout() -> nn.Module:
    """Dropout on channels that stay; on channels that go it would draw other numbers, as many as are left."""
    return nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1), nn.BatchNorm2d(8)),
        *(nn.ReLU(), nn.Dropout2d(0.3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(8, 10)),
    )


def trained(network: nn.Module, size: int, after_step: Callable[[], None]) -> Tensor:
    """Some steps from a generator set anew, and what the network then computes."""
    torch.manual_seed(7)
    network.train()
    # Small steps: BatchNorm of few images multiplies rounding errors some hundred times a step.
    update = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-3)
    x, labels = images(size, n=6), torch.arange(6)
    for _ in range(3):
        update.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        update.step()
        after_step()
    return output(network.eval(), images(size))


@pytest.mark.parametrize(
    ("build", "size", "whole"),
    [
        (lambda: cifar_resnet(depth=56, num_classes=10), 8, ()),
        (lambda: tv.mobilenet_v2(num_classes=10, width_mult=0.25), 64, ("features.18.0",)),
        (with_dropout, 8, ("3",)),
        (lambda: timm.create_model("regnetx_002", num_classes=10), 32, ()),
    ],
    ids=["resnet56", "mobilenet_v2", "dropout", "regnet"],
)
def test_removed_and_masked_train_alike(build: Callable[[], nn.Module], size: int, whole: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    network = randomised(build()).double()
    channels = trace_channels(network, images(size, n=1))
    chosen = share_of_free_groups(channels)
    removed: Removed = {layer: filters for layer, filters in chosen.items() if layer not in whole}
    smaller = remove(network, channels, removed)
    before = output(network, images(size))
    zero_filters(network, channels, removed)
    got = trained(smaller, size, lambda: None)
    expected = trained(network, size, lambda: zero_filters(network, channels, removed))
    assert difference(got, expected) < 1e-10
    assert difference(before, expected) > 0.01, "the training did something"


def test_a_mask_that_is_not_applied_again_trains_to_another_network() -> None:
    # The shift of a BatchNorm without ReLU behind it gets a gradient, masked or not.
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 10, 3), nn.Flatten(), nn.Linear(160, 10)
    ).double()
    channels = trace_channels(network, images(8, n=1))
    removed = half_of_ranked(channels)
    smaller = remove(network, channels, removed)
    zero_filters(network, channels, removed)
    assert difference(trained(smaller, 8, lambda: None), trained(network, 8, lambda: None)) > 1e-6
