"""Other activations: functions network -> network."""

from typing import Annotated

from annotated_types import Ge, Lt
from torch import nn


def leaky_relu(network: nn.Module, *, negative_slope: Annotated[float, Ge(0), Lt(1)]) -> nn.Module:
    """`network` with a leaky ReLU in the place of every ReLU module, in place.

    Raises:
        ValueError: the network has no ReLU module (it may call the function instead).

    Source:
        Maas et al. 2013, "Rectifier nonlinearities improve neural network acoustic models", section 2: slope 0.01.
    """
    places = [
        (parent, name) for parent in network.modules() for name, module in parent.named_children() if type(module) is nn.ReLU
    ]
    if not places:
        raise ValueError(f"{type(network).__name__} has no ReLU module to replace; leave model/activation out")
    for parent, name in places:
        setattr(parent, name, nn.LeakyReLU(negative_slope))
    return network
