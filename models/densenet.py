"""DenseNet-BC for small images (Huang et al. 2017): every layer adds a few channels to all that came before."""

from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from models.host import Host

BOTTLENECK = 4  # times the growth: filters of the 1x1 convolution of a dense layer


class DenseLayer(Host):
    """BN-ReLU-conv1x1, BN-ReLU-conv3x3, attention to the new channels if there is some, behind the input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__(growth)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, BOTTLENECK * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(BOTTLENECK * growth)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images more h w"]:
        """The input's channels and `growth` more."""
        new = self.conv2(self.relu2(self.bn2(self.conv1(self.relu1(self.bn1(x))))))
        return torch.cat((x, self.weigh(new)), 1)


class Transition(nn.Module):
    """BN-ReLU-conv1x1 to fewer channels, mean of 2x2 pixels."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images channels h2 w2"]:
        """Half as many channels, rows and columns."""
        return self.pool(self.conv1(self.relu(self.bn1(x))))


class DenseNet(nn.Module):
    """A stem of twice the growth, three blocks of dense layers with transitions between, BN-ReLU, mean, a linear layer."""

    def __init__(self, layers: int, growth: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        stem, added = 2 * growth, layers * growth
        second = (stem + added) // 2
        third = (second + added) // 2
        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        self.dense1 = _block(stem, layers, growth)
        self.trans1 = Transition(stem + added, second)
        self.dense2 = _block(second, layers, growth)
        self.trans2 = Transition(second + added, third)
        self.dense3 = _block(third, layers, growth)
        self.bn = nn.BatchNorm2d(third + added)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(third + added, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images classes"]:
        """Logits."""
        x = self.trans1(self.dense1(self.conv1(x)))
        x = self.dense3(self.trans2(self.dense2(x)))
        return self.fc(self.pool(self.relu(self.bn(x))).flatten(1))


def _block(in_channels: int, layers: int, growth: int) -> nn.Sequential:
    return nn.Sequential(*(DenseLayer(in_channels + layer * growth, growth) for layer in range(layers)))


def densenet_bc(
    *,
    depth: Annotated[int, Ge(10)],
    growth: Annotated[int, Ge(1)],
    num_classes: Annotated[int, Ge(2)],
    in_channels: Annotated[int, Ge(1)] = 3,
) -> DenseNet:
    """DenseNet-BC-`depth`-`growth` for small images: bottlenecks of 4 times the growth, transitions to half the channels.

    Names of the parameters are those of the training code the papers cite (`dense1.0.conv1`, `trans1.conv1`, `fc`).

    Args:
        depth: 6n + 4, with n dense layers a block.
        growth: channels that a dense layer adds.

    Raises:
        ValueError: a depth that is not 6n + 4.

    Source:
        Huang et al. 2017, sections 3 and 4.2; weights from N(0, 2 / (k k filters)) as in the training code the papers cite;
        769,162 parameters for 100-12 on ten classes, 25,624,430 for 190-40.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth={depth}: a DenseNet-BC has 6n + 4 layers; choose 40, 100, 190 or 250")
    return DenseNet((depth - 4) // 6, growth, num_classes, in_channels)
