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
    names = [name for name, module in network.named_modules(remove_duplicate=False) if type(module) is nn.ReLU]
    if not names:
        raise ValueError(f"{type(network).__name__} has no ReLU module to replace; leave model/activation out")
    for name in names:
        network.set_submodule(name, nn.LeakyReLU(negative_slope))
    return network
