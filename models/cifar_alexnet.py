"""AlexNet for small images: five convolutions without BatchNorm, one linear layer."""

from typing import Annotated

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn


class CifarAlexNet(nn.Module):
    """Five convolutions, each with a ReLU, 2x2 pooling after the first, second and fifth; a linear layer."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, stride=4, padding=5),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
        )
        # Of images up to 32x32 one pixel is left.
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(256, num_classes)

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images classes"]:
        """Logits."""
        return self.classifier(self.pool(self.features(x)).flatten(1))


def cifar_alexnet(*, num_classes: Annotated[int, Ge(2)], in_channels: Annotated[int, Ge(1)] = 3) -> CifarAlexNet:
    """AlexNet for 32x32 images.

    Source:
        Krizhevsky et al. 2012, section 3.5, in the CIFAR form of the training code the papers cite: a first convolution
        of 11x11 and stride 4, PyTorch's default initial weights, one linear layer; 2,472,266 parameters on ten classes.
        Poolings round sizes up here, which changes nothing at 32x32 and lets smaller images through.
    """
    return CifarAlexNet(num_classes, in_channels)
