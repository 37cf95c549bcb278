"""The parts that residual networks for small images share: stages of blocks, the way in and out, initial weights."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Annotated

from annotated_types import Ge, Len
from torch import nn

from models.host import Host

# Builds a block from the channels before it, the width of its stage, and the stride of its first 3x3 convolution.
Block = Callable[[int, int, int], Host]
Widths = Annotated[Sequence[Annotated[int, Ge(1)]], Len(3, 3)]
WIDTHS = (16, 32, 64)
EXPANSION = 4  # output channels of a bottleneck block for each channel of its 3x3 convolution


class CifarResNet(nn.Sequential):
    """A 3x3 stem with BatchNorm and ReLU, stages of blocks, global average pooling, one linear layer.

    Images (images in h w) become logits (images classes). The stem is as wide as the first stage.
    """

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    linear: nn.Linear

    def __init__(self, block: Block, blocks: int, widths: Sequence[int], *, num_classes: int, in_channels: int) -> None:
        stem = conv3x3(in_channels, widths[0])
        layers, channels = stages_of(block, blocks, widths[0], widths)
        super().__init__(
            OrderedDict(
                conv1=stem,
                bn1=nn.BatchNorm2d(widths[0]),
                relu=nn.ReLU(),
                **layers,
                **classifier(channels, num_classes),
            )
        )
        draw_weights(self)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the sides of the image, or divides them by `stride`."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)


def changes_shape(in_channels: int, out_channels: int, stride: int) -> bool:
    """True if what a block takes in cannot be added to what its branch gives."""
    return stride != 1 or in_channels != out_channels


def stages_of(block: Block, blocks: int, stem: int, widths: Sequence[int]) -> tuple[dict[str, nn.Sequential], int]:
    """Stages `layer1`, `layer2`, ... of `blocks` blocks, one for every width, and the channels that the last of them gives.

    The first block of every stage but the first halves the sides of the image. The first block reads the `stem` channels,
    each later one as many as the block before it gives.
    """
    found: dict[str, nn.Sequential] = {}
    channels = stem
    for number, width in enumerate(widths, 1):
        stage: list[Host] = []
        for place in range(blocks):
            stage.append(block(channels, width, 2 if number > 1 and place == 0 else 1))
            channels = stage[-1].weighed
        found[f"layer{number}"] = nn.Sequential(*stage)
    return found, channels


def classifier(channels: int, num_classes: int) -> dict[str, nn.Module]:
    """The mean of every channel, and a linear layer."""
    return {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "linear": nn.Linear(channels, num_classes)}


def draw_weights(network: nn.Module) -> None:
    """Draws the weights of all convolutions from N(0, 2 / (kh * kw * out)); BatchNorm keeps PyTorch's 1 and 0.

    Source:
        He et al. 2015, "Delving deep into rectifiers", equation 14, as in the training code the papers cite.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            # `out` is all filters of the layer, also where it is grouped: PyTorch's fan_out.
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def blocks_per_stage(depth: int, per_block: int, others: int, *, name: str, known: str) -> int:
    """Blocks of each of three stages in a network of `depth` layers, 3 * `per_block` * n + `others`.

    Raises:
        ValueError: no n gives that depth.
    """
    step = 3 * per_block
    if depth < step + others or (depth - others) % step:
        raise ValueError(f"depth={depth}: a {name} has {step}n + {others} layers; choose {known}")
    return (depth - others) // step
