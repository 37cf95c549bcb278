"""ResNeXts for small images: bottleneck blocks whose 3x3 convolution is grouped."""

from typing import Annotated

from annotated_types import Ge
from torch import nn

from models.cifar_resnet import Bottleneck
from models.residual import CifarResNet, Widths, blocks_per_stage


def cifar_resnext(
    *,
    depth: Annotated[int, Ge(11)],
    cardinality: Annotated[int, Ge(1)],
    base_width: Annotated[int, Ge(1)],
    num_classes: Annotated[int, Ge(2)],
    in_channels: Annotated[int, Ge(1)] = 3,
    widen_factor: Annotated[int, Ge(1)] = 4,
    widths: Widths = (64, 128, 256),
) -> CifarResNet:
    """ResNeXt-`depth` of `cardinality` x `base_width`d for small images: 29 with 8 x 64d and with 16 x 64d are in the papers.

    Args:
        depth: 9n + 2, with n blocks a stage.
        cardinality: groups of each 3x3 convolution.
        base_width: channels of a group in the first stage; later stages have as many times more as their width is larger.
        widen_factor: channels that a stage gives for each of its width.
        widths: of the three stages; the stem is as wide as the first.

    Raises:
        ValueError: a depth that is not 9n + 2.

    Source:
        Xie et al. 2017, "Aggregated residual transformations for deep neural networks", section 5.3 and figure 3c, as in the
        training code the papers cite: 34,426,698 parameters for 8 x 64d on ten classes, 68,155,210 for 16 x 64d. The linear
        layer starts as there from N(0, 2 / in), its bias from 0.
    """
    blocks = blocks_per_stage(depth, 3, 2, name="CIFAR ResNeXt", known="29")

    def block(channels: int, width: int, stride: int) -> Bottleneck:
        inner = cardinality * (base_width * width // widths[0])
        return Bottleneck(channels, inner, widen_factor * width, stride, groups=cardinality)

    network = CifarResNet(block, blocks, widths, num_classes=num_classes, in_channels=in_channels)
    nn.init.kaiming_normal_(network.linear.weight, nonlinearity="relu")
    nn.init.zeros_(network.linear.bias)
    return network
