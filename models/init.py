"""Other weights to start from: functions network -> network."""

from typing import Annotated

from annotated_types import Gt
from torch import nn


def orthogonal(network: nn.Module, *, gain: Annotated[float, Gt(0)]) -> nn.Module:
    """`network` with orthogonal weights in every convolution, in place: filters of norm `gain`, orthogonal to each other.

    A layer with more filters than weights a filter has orthogonal columns instead.

    Source:
        Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", section 3.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.orthogonal_(module.weight, gain)
    return network
