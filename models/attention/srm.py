"""Style-based recalibration: attention from the mean and deviation of each channel alone."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.host import stages

EPSILON = 1e-5  # added to the variance


class StyleRecalibration(nn.Module):
    """Every channel times the sigmoid of a normalised weighted sum of its own mean and standard deviation.

    The weights start at 0, so that all factors start at 0.5.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.of_mean = nn.Parameter(torch.zeros(channels, 1, 1))
        self.of_deviation = nn.Parameter(torch.zeros(channels, 1, 1))
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Float[Tensor, "images channels h w"]) -> Float[Tensor, "images channels h w"]:
        """The channels, weighted."""
        deviation = (x.var((2, 3), correction=0, keepdim=True) + EPSILON).sqrt()
        style = self.of_mean * x.mean((2, 3), keepdim=True) + self.of_deviation * deviation
        return x * self.norm(style).sigmoid()


def style_recalibration(network: nn.Module) -> nn.Module:
    """`network` with style-based recalibration at every place for attention, in place.

    Raises:
        ValueError: the network has no place for attention.

    Source:
        Lee et al. 2019, "SRM: a style-based recalibration module for convolutional neural networks", section 3, equations
        1 to 5; zero at the start and 1e-5 under the root as in their code. The code divides the variance by one pixel
        less than there are; we divide by all of them, as equation 2 does (one pixel has deviation 0, not nan).
    """
    for stage in stages(network):
        for host in stage:
            host.attention = StyleRecalibration(host.weighed)
    return network
