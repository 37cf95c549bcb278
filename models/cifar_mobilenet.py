"""MobileNet (version 1) for small images: a 3x3 stem, and thirteen blocks of a depthwise and a 1x1 convolution."""

from typing import Annotated

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

STEM = 32
# Filters of the 1x1 convolution and stride of the depthwise one, block by block.
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


class SeparableBlock(nn.Module):
    """Depthwise conv3x3-BN-ReLU, conv1x1-BN-ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images channels h2 w2"]:
        """The block's output."""
        return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))


class CifarMobileNet(nn.Module):
    """A stem of stride 1, thirteen blocks, of which four halve the size, global average pooling, one linear layer."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU()
        inputs = [STEM, *(channels for channels, _ in BLOCKS)]
        self.layers = nn.Sequential(*(SeparableBlock(width, *block) for width, block in zip(inputs[:-1], BLOCKS, strict=True)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(inputs[-1], num_classes)

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images classes"]:
        """Logits."""
        x = self.layers(self.relu(self.bn1(self.conv1(x))))
        return self.linear(self.pool(x).flatten(1))


def cifar_mobilenet(*, num_classes: Annotated[int, Ge(2)], in_channels: Annotated[int, Ge(1)] = 3) -> CifarMobileNet:
    """MobileNet (version 1, width 1) for 32x32 images.

    Names of the parameters, strides and initial weights (PyTorch's default) are those of kuangliu/pytorch-cifar.

    Source:
        Howard et al. 2017, table 1, with a stem and a second block of stride 1 and 2 as in kuangliu/pytorch-cifar; 3,217,226
        parameters on ten classes. NeurIPS'21 Figure 2 shows a MobileNet, and does not say which.
    """
    return CifarMobileNet(num_classes, in_channels)
