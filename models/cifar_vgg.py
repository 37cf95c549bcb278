"""VGG with BatchNorm for small images: thirteen or so convolutions, and one or two linear layers."""

from typing import Annotated, Literal

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

Depth = Literal[11, 13, 16, 19]
CONVS_PER_STAGE: dict[Depth, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
WIDTHS = (64, 128, 256, 512, 512)


class CifarVgg(nn.Module):
    """Five stages of conv-BN-ReLU, each closed by 2x2 max pooling, then a classifier."""

    def __init__(self, convs_per_stage: tuple[int, ...], in_channels: int, conv_bias: bool, classifier: nn.Module) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for convs, width in zip(convs_per_stage, WIDTHS, strict=True):
            for _ in range(convs):
                layers += [nn.Conv2d(in_channels, width, 3, padding=1, bias=conv_bias), nn.BatchNorm2d(width), nn.ReLU()]
                in_channels = width
            # ceil_mode changes nothing at 32x32 and lets 16x16 images through all five stages.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = classifier
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.classifier.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images classes"]:
        """Logits."""
        return self.classifier(self.features(x).flatten(1))


def cifar_vgg_bn(
    *, depth: Depth, num_classes: Annotated[int, Ge(2)], in_channels: Annotated[int, Ge(1)] = 3, conv_bias: bool = True
) -> CifarVgg:
    """VGG-`depth` with BatchNorm and one linear layer, for 32x32 images.

    Args:
        conv_bias: convolutions have a bias, which the BatchNorm behind them makes redundant.

    Source:
        Simonyan & Zisserman 2015, table 1, in the CIFAR form of the training code the papers cite: biased
        convolutions, 14,728,266 parameters for VGG-16 on ten classes; 14,724,042 without.
    """
    return CifarVgg(CONVS_PER_STAGE[depth], in_channels, conv_bias, nn.Linear(WIDTHS[-1], num_classes))


def cifar_vgg_rethink(*, depth: Depth, num_classes: Annotated[int, Ge(2)], in_channels: Annotated[int, Ge(1)] = 3) -> CifarVgg:
    """VGG-`depth` with BatchNorm and two linear layers, for 32x32 images: the network of the pruning scripts.

    Source:
        Liu et al. 2019 ("Rethinking the value of network pruning"), the code of their section 4.1: no bias in
        convolutions, BatchNorm that starts at 0.5, and again between the linear layers; 14,987,722 parameters for
        VGG-16 on ten classes. Its last pooling takes the mean of 2x2 pixels, not the largest.
    """
    hidden = WIDTHS[-1]
    classifier = nn.Sequential(nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, num_classes))
    network = CifarVgg(CONVS_PER_STAGE[depth], in_channels, False, classifier)
    network.features[-1] = nn.AvgPool2d(2, ceil_mode=True)
    for module in network.features:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.5)
    return network
