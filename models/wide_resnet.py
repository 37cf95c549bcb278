"""Wide residual networks: few pre-activation blocks of many channels, dropout between their convolutions."""

from functools import partial
from typing import Annotated

from annotated_types import Ge, Lt
from jaxtyping import Float
from torch import Tensor, nn

from models.cifar_preresnet import CifarPreResNet
from models.host import Host
from models.residual import WIDTHS, Widths, blocks_per_stage, changes_shape, conv1x1, conv3x3


class WideBlock(Host):
    """BN-ReLU-conv, BN-ReLU-dropout-conv, attention if there is some, plus the shortcut.

    Where the shape changes, the shortcut is a 1x1 convolution of the input behind the first BatchNorm and ReLU, and elsewhere
    the input as it comes.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__(channels)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = conv3x3(channels, channels)
        changes = changes_shape(in_channels, channels, stride)
        self.shortcut = conv1x1(in_channels, channels, stride) if changes else None

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images out h2 w2"]:
        """The block's output; the first convolution is the one that may lose filters freely."""
        activated = self.relu1(self.bn1(x))
        inner = self.dropout(self.relu2(self.bn2(self.conv1(activated))))
        outer = self.weigh(self.conv2(inner))
        return outer + (x if self.shortcut is None else self.shortcut(activated))


def wide_resnet(
    *,
    depth: Annotated[int, Ge(10)],
    widen_factor: Annotated[int, Ge(1)],
    num_classes: Annotated[int, Ge(2)],
    in_channels: Annotated[int, Ge(1)] = 3,
    dropout: Annotated[float, Ge(0), Lt(1)] = 0,
    widths: Widths = WIDTHS,
) -> CifarPreResNet:
    """WRN-`depth`-`widen_factor` for small images: 28-10 and 16-8 are in the papers.

    Args:
        depth: 6n + 4, with n blocks a stage.
        widen_factor: channels of a stage for each of `widths`; the stem keeps the first of them as it is.
        dropout: share of the channels' pixels that are zero in training, between the two convolutions of a block; 0 leaves
            dropout out.
        widths: channels of the three stages of a network that is not widened.

    Raises:
        ValueError: a depth that is not 6n + 4.

    Source:
        Zagoruyko & Komodakis 2016, "Wide residual networks", table 1 and section 2.4, as in the training code the papers
        cite, bias of the linear layer 0 at first; 36,479,194 parameters for 28-10 on ten classes.
    """
    blocks = blocks_per_stage(depth, 2, 4, name="wide ResNet", known="16, 22, 28 or 40")
    network = CifarPreResNet(
        partial(WideBlock, dropout=dropout),
        blocks,
        widths[0],
        [widen_factor * width for width in widths],
        num_classes=num_classes,
        in_channels=in_channels,
    )
    nn.init.zeros_(network.linear.bias)
    return network
