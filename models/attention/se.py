"""Squeeze-and-excitation: attention from the means of all channels."""

from typing import Annotated

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from models.host import stages


class SqueezeExcite(nn.Module):
    """Every channel times a factor in (0, 1) that two linear layers make of the means of all channels."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        bottleneck = max(1, channels // reduction)
        self.factors = nn.Sequential(nn.Linear(channels, bottleneck), nn.ReLU(), nn.Linear(bottleneck, channels), nn.Sigmoid())

    def forward(self, x: Float[Tensor, "images channels h w"]) -> Float[Tensor, "images channels h w"]:
        """The channels, weighted."""
        return x * self.factors(x.mean((2, 3)))[:, :, None, None]


def squeeze_excite(network: nn.Module, *, reduction: Annotated[int, Ge(1)]) -> nn.Module:
    """`network` with squeeze-and-excitation at every place for attention, in place.

    Args:
        reduction: channels for each unit of the bottleneck, which has at least one unit.

    Raises:
        ValueError: the network has no place for attention.

    Source:
        Hu et al. 2018, "Squeeze-and-excitation networks", section 3 and figure 3; reduction 16 is theirs.
    """
    for stage in stages(network):
        for host in stage:
            host.attention = SqueezeExcite(host.weighed, reduction)
    return network
