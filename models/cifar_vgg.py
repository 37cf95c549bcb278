"""VGG with BatchNorm for small images: thirteen or so convolutions and one linear layer."""

from jaxtyping import Float
from torch import Tensor, nn

CONVS_PER_STAGE = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class CifarVgg(nn.Module):
    """Five stages of conv-BN-ReLU, each closed by 2x2 max pooling, then one linear layer."""

    def __init__(self, convs_per_stage: tuple[int, ...], num_classes: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for convs, width in zip(convs_per_stage, WIDTHS, strict=True):
            for _ in range(convs):
                layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                in_channels = width
            # ceil_mode changes nothing at 32x32 and lets 16x16 images through all five stages.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images classes"]:
        """Logits."""
        return self.classifier(self.features(x).flatten(1))


def cifar_vgg_bn(*, depth: int, num_classes: int, in_channels: int = 3) -> CifarVgg:
    """VGG-`depth` with BatchNorm and one linear layer, for 32x32 images.

    Raises:
        ValueError: a depth other than 11, 13, 16, 19.

    Source:
        Simonyan & Zisserman 2015, table 1, in the CIFAR form of the training code the papers cite: biased
        convolutions, 14,728,266 parameters for VGG-16 on ten classes.
    """
    if depth not in CONVS_PER_STAGE:
        raise ValueError(f"depth={depth}: choose one of {', '.join(map(str, CONVS_PER_STAGE))}")
    return CifarVgg(CONVS_PER_STAGE[depth], num_classes, in_channels)
