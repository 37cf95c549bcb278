"""Pre-activation ResNets for small images: BatchNorm and ReLU before every convolution, nothing behind the sum."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from models.host import Host
from models.residual import (
    EXPANSION,
    WIDTHS,
    Block,
    Widths,
    blocks_per_stage,
    changes_shape,
    classifier,
    conv1x1,
    conv3x3,
    draw_weights,
    stages_of,
)


class CifarPreResNet(nn.Sequential):
    """A 3x3 stem, stages of blocks, BatchNorm and ReLU, global average pooling, one linear layer.

    Images (images in h w) become logits (images classes).

    Args:
        stem: channels of the stem.
    """

    conv1: nn.Conv2d
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    linear: nn.Linear

    def __init__(
        self, block: Block, blocks: int, stem: int, widths: Sequence[int], *, num_classes: int, in_channels: int
    ) -> None:
        layers, channels = stages_of(block, blocks, stem, widths)
        super().__init__(
            OrderedDict(
                conv1=conv3x3(in_channels, stem),
                **layers,
                bn=nn.BatchNorm2d(channels),
                relu=nn.ReLU(),
                **classifier(channels, num_classes),
            )
        )
        draw_weights(self)


class PreBasicBlock(Host):
    """BN-ReLU-conv twice, attention if there is some, plus the shortcut of the block's input as it comes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(channels)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv2 = conv3x3(channels, channels)
        self.shortcut = _shortcut(in_channels, channels, stride)

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images out h2 w2"]:
        """The block's output; the first convolution is the one that may lose filters freely."""
        inner = self.relu2(self.bn2(self.conv1(self.relu1(self.bn1(x)))))
        return self.weigh(self.conv2(inner)) + self.shortcut(x)


class PreBottleneck(Host):
    """BN-ReLU-conv three times (1x1, 3x3, 1x1), attention if there is some, plus the shortcut of the input as it comes."""

    def __init__(self, in_channels: int, inner: int, stride: int) -> None:
        super().__init__(EXPANSION * inner)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = conv1x1(in_channels, inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv2 = conv3x3(inner, inner, stride)
        self.bn3 = nn.BatchNorm2d(inner)
        self.relu3 = nn.ReLU()
        self.conv3 = conv1x1(inner, EXPANSION * inner)
        self.shortcut = _shortcut(in_channels, EXPANSION * inner, stride)

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images out h2 w2"]:
        """The block's output; the first two convolutions may lose filters freely."""
        inner = self.relu2(self.bn2(self.conv1(self.relu1(self.bn1(x)))))
        inner = self.relu3(self.bn3(self.conv2(inner)))
        return self.weigh(self.conv3(inner)) + self.shortcut(x)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """A 1x1 convolution without BatchNorm where the shape changes."""
    return conv1x1(in_channels, out_channels, stride) if changes_shape(in_channels, out_channels, stride) else nn.Identity()


def cifar_preresnet(
    *,
    depth: Annotated[int, Ge(8)],
    num_classes: Annotated[int, Ge(2)],
    in_channels: Annotated[int, Ge(1)] = 3,
    widths: Widths = WIDTHS,
) -> CifarPreResNet:
    """Pre-activation ResNet-`depth` of basic blocks: 110 is the one in the literature.

    Args:
        depth: 6n + 2, with n blocks a stage.
        widths: channels of the three stages.

    Raises:
        ValueError: a depth that is not 6n + 2.

    Source:
        He et al. 2016, "Identity mappings in deep residual networks", figure 1b, in the form of the training code the papers
        cite: where the shape changes, its shortcut reads the block's input before BatchNorm and ReLU (theirs reads it
        behind them); 1,730,522 parameters on ten classes either way.
    """
    blocks = blocks_per_stage(depth, 2, 2, name="pre-activation ResNet", known="20, 32, 44, 56 or 110")
    return CifarPreResNet(PreBasicBlock, blocks, widths[0], widths, num_classes=num_classes, in_channels=in_channels)


def cifar_bottleneck_preresnet(
    *,
    depth: Annotated[int, Ge(11)],
    num_classes: Annotated[int, Ge(2)],
    in_channels: Annotated[int, Ge(1)] = 3,
    widths: Widths = WIDTHS,
) -> CifarPreResNet:
    """Pre-activation ResNet-`depth` of bottleneck blocks: 164 is the one in the literature.

    Args:
        depth: 9n + 2, with n blocks a stage.
        widths: channels of the 3x3 convolutions of the three stages; a stage gives four times as many.

    Raises:
        ValueError: a depth that is not 9n + 2.

    Source:
        He et al. 2016, "Identity mappings in deep residual networks", table 1 (ResNet-164), in the form of the training code
        the papers cite, shortcuts as in `cifar_preresnet`: 1,703,258 parameters on ten classes. Until 2018 that code built
        this network for "depth 110", under which its table lists it.
    """
    blocks = blocks_per_stage(depth, 3, 2, name="pre-activation ResNet of bottleneck blocks", known="29, 56, 110 or 164")
    return CifarPreResNet(PreBottleneck, blocks, widths[0], widths, num_classes=num_classes, in_channels=in_channels)
