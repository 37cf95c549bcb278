"""The convolutional block attention module: a factor for every channel, then one for every pixel."""

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.host import stages


class ChannelFactors(nn.Module):
    """Every channel times the sigmoid of what two linear layers make of all means, plus what they make of all maxima."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        bottleneck = max(1, channels // reduction)
        self.shared = nn.Sequential(nn.Linear(channels, bottleneck), nn.ReLU(), nn.Linear(bottleneck, channels))

    def forward(self, x: Float[Tensor, "images channels h w"]) -> Float[Tensor, "images channels h w"]:
        """The channels, weighted."""
        factors = (self.shared(x.mean((2, 3))) + self.shared(x.amax((2, 3)))).sigmoid()
        return x * factors[:, :, None, None]


class PixelFactors(nn.Module):
    """Every pixel times the sigmoid of what one filter makes of the maxima and means over channels.

    The filter is a parameter and no nn.Conv2d: it is none of the network's convolutions, which are ranked and numbered.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.empty(1, 2, kernel, kernel))
        nn.init.kaiming_normal_(self.filter, mode="fan_out", nonlinearity="relu")
        self.norm = nn.BatchNorm2d(1, momentum=0.01)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Float[Tensor, "images channels h w"]) -> Float[Tensor, "images channels h w"]:
        """The pixels, weighted, the same in all channels."""
        over_channels = torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True)), 1)
        return x * self.norm(F.conv2d(over_channels, self.filter, padding=self.filter.shape[-1] // 2)).sigmoid()


def block_attention(network: nn.Module, *, reduction: Annotated[int, Ge(1)], kernel: Literal[3, 7]) -> nn.Module:
    """`network` with the convolutional block attention module at every place for attention, in place.

    A mean and a maximum over channels depend on how many there are: no filter whose output is weighed may be removed.

    Args:
        reduction: channels for each unit of the bottleneck, which has at least one unit.
        kernel: pixels of the filter in either direction.

    Raises:
        ValueError: the network has no place for attention.

    Source:
        Woo et al. 2018, "CBAM: convolutional block attention module", section 3, equations 2 and 3; reduction 16 and kernel
        7 are theirs. The BatchNorm behind the filter, whose scale starts at 0, is in their code and not in equation 3.
    """
    for stage in stages(network):
        for host in stage:
            host.attention = nn.Sequential(ChannelFactors(host.weighed, reduction), PixelFactors(kernel))
    return network
