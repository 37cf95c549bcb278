"""Penalties of a training: what a step adds to the gradients of the loss before the weights change."""

from collections.abc import Callable, Iterator
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

Penalty = Callable[[nn.Module], None]
Strength = Annotated[float, Ge(0)]
NEAR_ZERO = 0.01  # ours


def l1(network: nn.Module, *, strength: Strength) -> None:
    """Adds the gradient of `strength` times the L1 norm of all weights of convolutions and linear layers: their signs.

    A weight at 0 gets nothing. Biases, BatchNorm, and parameters without a gradient stay out. Weight decay comes on top.
    """
    _add_signs(_weights(network), strength)


def slimming(network: nn.Module, *, strength: Strength) -> None:
    """Adds the gradient of `strength` times the L1 norm of the scales of all BatchNorm2d.

    Source:
        Liu et al. 2017, "Learning efficient convolutional networks through network slimming", equation 1, by its
        sub-gradient as in the authors' code.
    """
    _add_signs(_scales(network), strength)


def near_zero(network: nn.Module) -> str:
    """The number of scales and of weights that are nearly zero, as the log says it."""
    parts = []
    for name, tensors in {"scales of BatchNorm": [*_scales(network)], "weights": [*_weights(network)]}.items():
        n_small = sum(int((each.abs() < NEAR_ZERO).sum()) for each in tensors)
        parts.append(f"{n_small:,} of {sum(each.numel() for each in tensors):,} {name}")
    return f"{' and '.join(parts)} are below {NEAR_ZERO:g} in size"


def _weights(network: nn.Module) -> Iterator[Tensor]:
    return (module.weight for module in network.modules() if isinstance(module, _ConvNd | nn.Linear))


def _scales(network: nn.Module) -> Iterator[Tensor]:
    return (module.weight for module in network.modules() if isinstance(module, nn.BatchNorm2d) and module.affine)


@torch.no_grad()
def _add_signs(parameters: Iterator[Tensor], strength: float) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.add_(parameter.sign(), alpha=strength)
