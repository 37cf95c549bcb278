"""The small networks of two studies; the modules have the papers' names of layers, so that each output can be looked at."""

from collections import OrderedDict
from typing import Annotated

from annotated_types import Ge, Len, Lt
from torch import nn

Share = Annotated[float, Ge(0), Lt(1)]
# Side of the images of sets that do not say it in their YAML: MNIST and its kind, and CIFAR and SVHN.
SIDE_OF_GREY, SIDE_OF_COLOUR = 28, 32


def da_small(
    *,
    num_classes: Annotated[int, Ge(2)],
    in_channels: Annotated[int, Ge(1)] = 3,
    image_size: Annotated[int, Ge(8)] | None = None,
) -> nn.Sequential:
    """Three blocks of conv-BN-ReLU-mean pooling (32, 64, 128 filters), a hidden linear layer of 1,000 units, one of classes.

    Args:
        image_size: side of the images; null is 28 of grey ones and 32 of others.

    Source:
        Liang, Khoo and Yang 2020 (Drop-Activation), figure 5. Not printed, and ours: padding of 1, no bias in
        convolutions, pooling of 2x2, a ReLU behind the hidden layer; initial weights of convolutions from N(0, 2 / (9
        filters)) as in the code of its other networks.
    """
    widths = (in_channels, 32, 64, 128)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in (1, 2, 3):
        layers[f"conv{number}"] = nn.Conv2d(widths[number - 1], widths[number], 3, padding=1, bias=False)
        layers[f"bn{number}"] = nn.BatchNorm2d(widths[number])
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"pool{number}"] = nn.AvgPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["dense4"] = nn.Linear(128 * (_side(image_size, in_channels) // 8) ** 2, 1000)
    layers["relu4"] = nn.ReLU()
    layers["dense5"] = nn.Linear(1000, num_classes)
    for layer in layers.values():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layers)


def hp_small(
    *,
    num_classes: Annotated[int, Ge(2)],
    in_channels: Annotated[int, Ge(1)] = 3,
    image_size: Annotated[int, Ge(10)] | None = None,
    dropout: Annotated[list[Share], Len(3, 3)] | None = None,
) -> nn.Sequential:
    """Four convolutions (32, 32, 64, 64), max pooling after the second and fourth, linear layers of 512 and of classes.

    Numbers in the modules' names are those of the paper's layers: `conv1`, `relu1`, `conv2`, `relu2`, `pool2`, ...,
    `dense5`, `relu5`, `dense6`; its softmax is in the loss.

    Args:
        image_size: side of the images; null is 28 of grey ones and 32 of others.
        dropout: shares behind `pool2`, `pool4` and `relu5`; null is none, so that random labels can be learnt by heart;
            [0.25, 0.25, 0.5] is Keras' example.

    Source:
        Waagen et al. 2019 (arXiv 1907.04223), supplement, for the order of layers, which prints no widths. Those, paddings
        (1, 0, 1, 0) and initial weights (Glorot uniform, biases of 0) are of Keras' example for CIFAR-10, which has the
        same order: 1,250,858 parameters.
    """
    convolutions = [nn.Conv2d(in_channels, 32, 3, padding=1), nn.Conv2d(32, 32, 3)]
    convolutions += [nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64, 64, 3)]
    shares = dropout or [0, 0, 0]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, convolution in enumerate(convolutions, 1):
        layers |= {f"conv{number}": convolution, f"relu{number}": nn.ReLU()}
        if number in (2, 4):
            layers |= {f"pool{number}": nn.MaxPool2d(2), f"dropout{number}": nn.Dropout(shares[number // 2 - 1])}
    pooled = (_side(image_size, in_channels) - 2) // 2
    layers["flatten"] = nn.Flatten()
    layers["dense5"] = nn.Linear(64 * ((pooled - 2) // 2) ** 2, 512)
    layers |= {"relu5": nn.ReLU(), "dropout5": nn.Dropout(shares[2])}
    layers["dense6"] = nn.Linear(512, num_classes)
    for layer in layers.values():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return nn.Sequential(layers)


def _side(image_size: int | None, in_channels: int) -> int:
    return image_size or (SIDE_OF_GREY if in_channels == 1 else SIDE_OF_COLOUR)
