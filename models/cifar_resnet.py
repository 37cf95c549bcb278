"""ResNets for small images (He et al. 2016, section 4.2), with the three shortcuts found in the codes the papers use."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge, Len
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.host import Host
from models.residual import EXPANSION, WIDTHS, CifarResNet, Widths, blocks_per_stage, changes_shape, conv1x1, conv3x3


class PadShortcut(nn.Module):
    """Every second pixel, and zero channels on both sides (the published CIFAR weights; option A)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        extra = out_channels - in_channels
        self.left, self.right = extra // 2, extra - extra // 2

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images out h2 w2"]:
        """Subsample and pad; has no parameters, and the gradient flows through it."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.left, self.right))


class PadEndShortcut(nn.Module):
    """Mean of 2x2 pixels, and zero channels at the end (the pruning scripts the papers cite, which cut its gradient)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.right = out_channels - in_channels

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images out h2 w2"]:
        """Pool and pad; has no parameters, and the gradient flows through it."""
        return F.pad(F.avg_pool2d(x, 2, ceil_mode=True), (0, 0, 0, 0, 0, self.right))


class ConvShortcut(nn.Sequential):
    """A 1x1 convolution with BatchNorm, strided if need be (the training code the papers cite; option B)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 2) -> None:
        super().__init__(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


# Each builds, from the width before and after, what carries a block's input past it where the size halves.
Shortcut = Callable[[int, int], nn.Module]
Kind = Literal["pad", "pad_end", "conv"]
SHORTCUTS: dict[Kind, Shortcut] = {"pad": PadShortcut, "pad_end": PadEndShortcut, "conv": ConvShortcut}


class BasicBlock(Host):
    """conv-BN-ReLU-conv-BN, attention if there is some, plus the shortcut, ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__(channels)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = shortcut(in_channels, channels) if changes_shape(in_channels, channels, stride) else nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images out h2 w2"]:
        """The block's output; the first convolution is the one that may lose filters freely."""
        inner = self.relu1(self.bn1(self.conv1(x)))
        # Without a name here, what the branch gives is freed before the last ReLU makes another map of its size.
        return self.relu2(self._outer(inner) + self.shortcut(x))

    def _outer(self, inner: Float[Tensor, "images out h2 w2"]) -> Float[Tensor, "images out h2 w2"]:
        return self.weigh(self.bn2(self.conv2(inner)))


class Bottleneck(Host):
    """1x1, 3x3 and 1x1 convolution, each with BatchNorm and ReLU between, attention if there is some, plus the shortcut, ReLU.

    Args:
        inner: channels of the first two convolutions.
        groups: of the second one.
    """

    def __init__(self, in_channels: int, inner: int, out_channels: int, stride: int, groups: int = 1) -> None:
        super().__init__(out_channels)
        self.conv1 = conv1x1(in_channels, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(inner, inner, stride, groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = conv1x1(inner, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        changes = changes_shape(in_channels, out_channels, stride)
        self.shortcut = ConvShortcut(in_channels, out_channels, stride) if changes else nn.Identity()
        self.relu3 = nn.ReLU()

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images out h2 w2"]:
        """The block's output; the first two convolutions may lose filters freely."""
        inner = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        return self.relu3(self._outer(inner) + self.shortcut(x))

    def _outer(self, inner: Float[Tensor, "images inner h2 w2"]) -> Float[Tensor, "images out h2 w2"]:
        return self.weigh(self.bn3(self.conv3(inner)))


def _bottleneck(in_channels: int, width: int, stride: int) -> Bottleneck:
    return Bottleneck(in_channels, width, EXPANSION * width, stride)


def cifar_resnet(
    *,
    depth: Annotated[int, Ge(8)],
    num_classes: Annotated[int, Ge(2)],
    in_channels: Annotated[int, Ge(1)] = 3,
    shortcut: Kind = "pad",
    widths: Widths = WIDTHS,
) -> CifarResNet:
    """ResNet-`depth` of basic blocks for small images: 20, 32, 44, 56, 110 are the ones in the literature.

    Names of the parameters are those of the published CIFAR-10 weights (`conv1`, `layer1.0.conv1`, `linear`).

    Args:
        depth: 6n + 2, with n blocks a stage.
        shortcut: `pad` zero channels on both sides, `pad_end` 2x2 mean and zero channels behind, `conv` 1x1
            convolution with BatchNorm.
        widths: channels of the three stages.

    Raises:
        ValueError: a depth that is not 6n + 2, or padded shortcuts that would have to take channels away.

    Source:
        He et al. 2016, section 4.2; 853,018 parameters for ResNet-56 on ten classes, 855,770 with `conv`.
    """
    blocks = blocks_per_stage(depth, 2, 2, name="CIFAR ResNet", known="20, 32, 44, 56 or 110")
    if shortcut != "conv" and sorted(widths) != list(widths):
        raise ValueError(
            f"widths={list(widths)}: shortcut={shortcut} adds channels and takes none away; "
            "give widths that never fall, or shortcut=conv"
        )
    block = partial(BasicBlock, shortcut=SHORTCUTS[shortcut])
    return CifarResNet(block, blocks, widths, num_classes=num_classes, in_channels=in_channels)


def cifar_bottleneck_resnet(
    *,
    depth: Annotated[int, Ge(11)],
    num_classes: Annotated[int, Ge(2)],
    in_channels: Annotated[int, Ge(1)] = 3,
    widths: Widths = WIDTHS,
) -> CifarResNet:
    """ResNet-`depth` of bottleneck blocks for small images: 164 is the one in the literature.

    The shortcut is a 1x1 convolution with BatchNorm wherever the shape changes: also in the first block, where `widths[0]`
    channels become four times as many.

    Args:
        depth: 9n + 2, with n blocks a stage.
        widths: channels of the 3x3 convolutions of the three stages; a stage gives four times as many.

    Raises:
        ValueError: a depth that is not 9n + 2.

    Source:
        He et al. 2016, "Identity mappings in deep residual networks", section 3 and table 1 (ResNet-164), in the form of the
        training code the papers cite: 1,704,154 parameters on ten classes. Until 2018 that code built this network for
        "depth 110", under which its table lists it.
    """
    blocks = blocks_per_stage(depth, 3, 2, name="CIFAR ResNet of bottleneck blocks", known="29, 56, 110 or 164")
    return CifarResNet(_bottleneck, blocks, widths, num_classes=num_classes, in_channels=in_channels)


def cifar_resnet18(
    *,
    num_classes: Annotated[int, Ge(2)],
    in_channels: Annotated[int, Ge(1)] = 3,
    widths: Annotated[Sequence[Annotated[int, Ge(1)]], Len(4, 4)] = (64, 128, 256, 512),
) -> CifarResNet:
    """ResNet-18 with a 3x3 stem and without max-pooling, for small images: four stages of two basic blocks.

    The shortcut is a 1x1 convolution with BatchNorm wherever the shape changes.

    Args:
        widths: channels of the four stages.

    Source:
        He et al. 2016, table 1, in the form of kuangliu/pytorch-cifar: 11,173,962 parameters on ten classes. That code keeps
        PyTorch's initial weights; here they are drawn as in the other networks.
    """
    block = partial(BasicBlock, shortcut=ConvShortcut)
    return CifarResNet(block, 2, widths, num_classes=num_classes, in_channels=in_channels)
