"""Spatial group-wise enhancement: a factor for every pixel of every group of channels."""

from math import gcd
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from models.host import stages

EPSILON = 1e-5  # added to the deviation


class SpatialGroupEnhance(nn.Module):
    """Every pixel of a group of channels times a factor: the more it is like the group's mean pixel, the larger.

    Scales start at 0 and shifts at 1, so that all factors start at 0.73.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.scale = nn.Parameter(torch.zeros(groups, 1, 1))
        self.shift = nn.Parameter(torch.ones(groups, 1, 1))

    def forward(self, x: Float[Tensor, "images channels h w"]) -> Float[Tensor, "images channels h w"]:
        """The pixels, weighted, the same in all channels of a group."""
        grouped = x.unflatten(1, (self.groups, -1))
        likeness = (grouped * grouped.mean((3, 4), keepdim=True)).sum(2)
        centred = likeness - likeness.mean((2, 3), keepdim=True)
        normalised = centred / (centred.std((2, 3), correction=0, keepdim=True) + EPSILON)
        factors = (self.scale * normalised + self.shift).sigmoid()
        return (grouped * factors[:, :, None]).flatten(1, 2)


def spatial_group_enhance(network: nn.Module, *, groups: Annotated[int, Ge(1)]) -> nn.Module:
    """`network` with spatial group-wise enhancement at every place for attention, in place.

    Groups are equally wide parts of the channels: no filter whose output is weighed may be removed.

    Args:
        groups: of channels; where they are not divisible by it, their greatest common divisor (16 for 16 channels and 64
            groups, 32 for 160), so that groups stay equally wide.

    Raises:
        ValueError: the network has no place for attention.

    Source:
        Li et al. 2019, "Spatial group-wise enhance: improving semantic feature learning in convolutional networks", section
        3, equations 1 to 6; 64 groups as in their code. The code takes the deviation over one pixel less than there are; we
        take it over all of them, as equation 4 does (one pixel has deviation 0, not nan).
    """
    for stage in stages(network):
        for host in stage:
            host.attention = SpatialGroupEnhance(gcd(groups, host.weighed))
    return network
