"""The cost of a network, against counts worked out by hand."""

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.texts import slower_than_its_macs
from exactness import half_of_ranked, images
from models.cifar_resnet import cifar_resnet
from runners.measuring.cost import cost
from runners.measuring.cost import macs as cost_macs
from runners.pruning.remove import remove
from runners.tracing.channels import trace_channels
from support import check_line

MAP = 8 * 8 * 4  # bytes of one channel of 8x8 fp32 pixels


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x + 1
        return self.conv(self.conv(y)) + y


class Views(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        return y.flatten(1).view(1, 3, 8, 8).transpose(1, 2).add_(1)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


@pytest.mark.parametrize(
    ("network", "channels_alive"),
    [
        # The image (3) stays to the end; an operation needs its input and its output at once.
        (lambda: conv(3, 6), 3 + 6),
        (lambda: nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 4)), 3 + 6 + 6),
        (lambda: nn.Sequential(conv(3, 6), nn.ReLU(inplace=True), conv(6, 4)), 3 + 6 + 4),
        (lambda: nn.Sequential(conv(3, 2), conv(2, 20), conv(20, 1)), 3 + 2 + 20),
        (lambda: nn.Sequential(conv(3, 2), conv(2, 4), conv(4, 8)), 3 + 4 + 8),
        # What the sum needs (3 more) is alive in both convolutions.
        (Residual, 3 + 3 + 3 + 3),
        (Views, 3 + 3),
        # In the first block: its input, what the second convolution reads and gives, and what BatchNorm makes of that.
        (lambda: cifar_resnet(depth=8, num_classes=10), 3 + 4 * 16),
    ],
)
def test_peak_of_activations_by_hand(network: Callable[[], nn.Module], channels_alive: int) -> None:
    assert cost(network(), images(8, torch.float32, n=1), seconds=0.001).peak_activation_bytes == channels_alive * MAP


def test_activations_of_a_pruned_network_are_fewer_and_repeat() -> None:
    x = images(32, torch.float32, n=1)
    network = cifar_resnet(depth=20, num_classes=10)
    channels = trace_channels(network, x)
    smaller = remove(network, channels, half_of_ranked(channels))
    before, again, after = (cost(net, x, seconds=0.001) for net in (network, network, smaller))
    assert before.peak_activation_bytes == again.peak_activation_bytes > after.peak_activation_bytes
    assert (before.batch, before.dtype, before.device, before.threads) == (1, "float32", "cpu", torch.get_num_threads())


@pytest.mark.parametrize(
    ("network", "macs"),
    [
        (nn.Conv2d(6, 4, 3, padding=1, groups=2), 4 * 3 * 9 * 64),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), 6 * 9 * 64),
        # Every pixel of the input meets every weight.
        (nn.ConvTranspose2d(6, 4, 2, 2), 6 * 4 * 4 * 64),
        (nn.Sequential(nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 64, 5)), 6 * 64 * 5),
    ],
)
def test_macs_by_hand(network: nn.Module, macs: int) -> None:
    assert cost(network, torch.zeros(1, 6, 8, 8), seconds=0.001).macs == macs


class Functional(nn.Module):
    """A convolution whose weights are the network's own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o, self.w = conv(3, 8), conv(8, 8), conv(8, 3), nn.Parameter(torch.randn(8, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.conv2d(self.b(self.a(x).relu()).relu(), self.w, padding=1))


class Products(nn.Module):
    """Activations that are multiplied with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = conv(3, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).flatten(2)
        return self.o((y @ y.transpose(1, 2)).mean(2))


class Windows(nn.Module):
    """Four windows of each image, which go through a convolution and a linear layer as if they were images."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.up, self.o = conv(3, 8), conv(8, 4), nn.ConvTranspose2d(4, 4, 2, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu().view(-1, 8, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 8, 4, 4)
        return self.o(self.up(self.b(y).relu()).mean((2, 3))).view(-1, 8)


class Whole(nn.Module):
    """Layers inside of a module that PyTorch computes as one, and a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), nn.ModuleList([conv(8, 8)])
        self.whole, self.o = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b[0](self.b[0](self.a(x).relu()).relu())
        return self.o(self.whole(y.flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize(
    ("network", "macs"),
    [
        (Functional, (3 * 8 + 8 * 8 + 8 * 3) * 9 * 64),
        (Products, 3 * 8 * 9 * 64 + 8 * 3),
        (Windows, (3 * 8 + 8 * 4) * 9 * 64 + 4 * 4 * 4 * 64 + 4 * 4 * 2),
        (Whole, (3 * 8 + 2 * 8 * 8) * 9 * 64 + 8 * 2),
        (
            lambda: nn.Sequential(conv(3, 8), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 8, 1, groups=8)),
            3 * 8 * 9 * 64 + 2 * 8 * 9 * 36 + 8 * 36,
        ),
    ],
)
def test_the_table_counts_what_a_budget_is_a_share_of(network: Callable[[], nn.Module], macs: int) -> None:
    net, x = network().eval(), images(8, torch.float32, n=1)
    assert trace_channels(net, x).sizes.macs == cost(net, x, seconds=0.001).macs == cost_macs(net, x) == macs
    assert trace_channels(net, x.repeat(3, 1, 1, 1)).sizes.macs == cost_macs(net, x.repeat(3, 1, 1, 1)) == macs, "of one image"
    assert not any(module._forward_hooks for module in net.modules())


def test_the_numbers_of_resnet56_of_a_pruned_network_too() -> None:
    x = images(32, torch.float32, n=1)
    network = cifar_resnet(depth=56, num_classes=10, shortcut="pad")
    channels = trace_channels(network, x)
    smaller = remove(network, channels, half_of_ranked(channels))
    assert channels.sizes.macs == cost_macs(network, x) == 125_485_696  # Li et al. 2017, table 1: 1.25e8
    assert trace_channels(smaller, x).sizes.macs == cost_macs(smaller, x) < 125_485_696


def measured(trained_ms: float, tuned_ms: float, tuned_macs: int) -> pd.DataFrame:
    conditions = {"latency_batch": 1, "latency_dtype": "float32", "latency_device": "cpu", "latency_threads": 2}
    rows = [("trained", 100, trained_ms), ("pruned", tuned_macs, 1.0), ("tuned", tuned_macs, tuned_ms)]
    return pd.DataFrame(rows, columns=["stage", "macs", "latency_ms"]).assign(**conditions)


def test_the_summary_says_when_macs_fall_and_latency_does_not() -> None:
    check_line(slower_than_its_macs(measured(5.0, 5.2, 40)), "60 %", "trained 5.00", "tuned 5.20", "float32, cpu", 2)
    assert slower_than_its_macs(measured(5.0, 4.95, 40)), "a hundredth is noise"
    assert slower_than_its_macs(measured(5.0, 4.0, 40)) == ""
    assert slower_than_its_macs(measured(5.0, 5.2, 100)) == "", "nothing was removed"
