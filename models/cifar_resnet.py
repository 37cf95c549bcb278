"""ResNets for small images (He et al. 2016, section 4.2), with the three shortcuts found in the codes the papers use."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.host import Host

WIDTHS = (16, 32, 64)


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
    """A strided 1x1 convolution with BatchNorm (the training code the papers cite; option B)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False), nn.BatchNorm2d(out_channels))


# Each builds, from the width before and after, what carries a block's input past it where the size halves.
Shortcut = Callable[[int, int], nn.Module]
Kind = Literal["pad", "pad_end", "conv"]
SHORTCUTS: dict[Kind, Shortcut] = {"pad": PadShortcut, "pad_end": PadEndShortcut, "conv": ConvShortcut}


class BasicBlock(Host):
    """conv-BN-ReLU-conv-BN, attention if there is some, plus the shortcut, ReLU."""

    def __init__(self, in_channels: int, channels: int, shortcut: Shortcut) -> None:
        super().__init__(channels)
        stride = 1 if in_channels == channels else 2
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity() if stride == 1 else shortcut(in_channels, channels)
        self.relu2 = nn.ReLU()

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images out h2 w2"]:
        """The block's output; the first convolution is the one that may lose filters freely."""
        inner = self.relu1(self.bn1(self.conv1(x)))
        # Without a name here, what the branch gives is freed before the last ReLU makes another map of its size.
        return self.relu2(self._outer(inner) + self.shortcut(x))

    def _outer(self, inner: Float[Tensor, "images out h2 w2"]) -> Float[Tensor, "images out h2 w2"]:
        outer = self.bn2(self.conv2(inner))
        return outer if self.attention is None else self.attention(outer)


class CifarResNet(nn.Module):
    """A stem, three stages of basic blocks of 16, 32 and 64 channels, global average pooling, one linear layer."""

    def __init__(self, blocks: int, num_classes: int, in_channels: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks, shortcut)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks, shortcut)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks, shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(WIDTHS[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images classes"]:
        """Logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(self.pool(x), 1))


def _stage(in_channels: int, channels: int, blocks: int, shortcut: Shortcut) -> nn.Sequential:
    inputs = [in_channels] + [channels] * (blocks - 1)
    return nn.Sequential(*(BasicBlock(width, channels, shortcut) for width in inputs))


def cifar_resnet(
    *,
    depth: Annotated[int, Ge(8)],
    num_classes: Annotated[int, Ge(2)],
    in_channels: Annotated[int, Ge(1)] = 3,
    shortcut: Kind = "pad",
) -> CifarResNet:
    """ResNet-`depth` for small images: 20, 32, 44, 56, 110 are the ones in the literature.

    Names of the parameters are those of the published CIFAR-10 weights (`conv1`, `layer1.0.conv1`, `linear`).

    Args:
        depth: 6n + 2, with n blocks a stage.
        shortcut: `pad` zero channels on both sides, `pad_end` 2x2 mean and zero channels behind, `conv` 1x1
            convolution with BatchNorm.

    Raises:
        ValueError: a depth that is not 6n + 2.

    Source:
        He et al. 2016, section 4.2; 853,018 parameters for ResNet-56 on ten classes, 855,770 with `conv`.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth={depth}: a CIFAR ResNet has 6n + 2 layers; choose 20, 32, 44, 56 or 110")
    return CifarResNet((depth - 2) // 6, num_classes, in_channels, SHORTCUTS[shortcut])
