"""Other weights to start from: functions network -> network."""

from collections.abc import Iterator
from math import prod, sqrt
from typing import Annotated, Literal

from annotated_types import Gt
from torch import nn

Gain = Annotated[float, Gt(0)]


def kaiming_normal(network: nn.Module, *, mode: Literal["fan_in", "fan_out"], gain: Gain) -> nn.Module:
    """`network` with normal weights in every convolution, in place: of standard deviation `gain` / sqrt(fan).

    The fan is that of PyTorch: `fan_in` weights of a filter, or with `fan_out` weights of all filters that read one channel.
    Linear layers keep the weights that their network gives them, as for all functions here.

    Source:
        He et al. 2015, "Delving deep into rectifiers", equations 10 and 14: gain sqrt(2) for ReLU.
    """
    for module in _convolutions(network):
        nn.init.normal_(module.weight, std=gain / sqrt(_fan(module, mode)))
    return network


def kaiming_uniform(network: nn.Module, *, mode: Literal["fan_in", "fan_out"], gain: Gain) -> nn.Module:
    """Uniform weights in +- `gain` sqrt(3 / fan): of the same standard deviation as the normal ones of `kaiming_normal`."""
    for module in _convolutions(network):
        bound = gain * sqrt(3 / _fan(module, mode))
        nn.init.uniform_(module.weight, -bound, bound)
    return network


def xavier_normal(network: nn.Module, *, gain: Gain) -> nn.Module:
    """`network` with normal weights in every convolution, in place: of deviation `gain` sqrt(2 / (fan_in + fan_out)).

    Source:
        Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", section 4.2.1.
    """
    for module in _convolutions(network):
        nn.init.xavier_normal_(module.weight, gain)
    return network


def xavier_uniform(network: nn.Module, *, gain: Gain) -> nn.Module:
    """Uniform weights in +- `gain` sqrt(6 / (fan_in + fan_out)): of the same standard deviation as the normal ones of
    `xavier_normal`.
    """
    for module in _convolutions(network):
        nn.init.xavier_uniform_(module.weight, gain)
    return network


def orthogonal(network: nn.Module, *, gain: Gain) -> nn.Module:
    """`network` with orthogonal weights in every convolution, in place: filters of norm `gain`, orthogonal to each other.

    A layer with more filters than weights a filter has orthogonal columns instead.

    Source:
        Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", section 3.
    """
    for module in _convolutions(network):
        nn.init.orthogonal_(module.weight, gain)
    return network


def _convolutions(network: nn.Module) -> Iterator[nn.Conv2d]:
    return (module for module in network.modules() if isinstance(module, nn.Conv2d))


def _fan(module: nn.Conv2d, mode: Literal["fan_in", "fan_out"]) -> int:
    out, into, *kernel = module.weight.shape
    return (into if mode == "fan_in" else out) * prod(kernel)
