"""Filters that cannot leave because others need their place: zeroed, and kept at zero while the network trains."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from runners.tracing.channels import Channels, Removed


@dataclass(frozen=True)
class StaysZero:
    """A forward hook that puts zero in the place of some channels, so that no gradient reaches what is behind them.

    Part of the module, not of its weights: a copy of the network has it, a file does not (and holds the zeros).
    """

    zeroed: Bool[Tensor, " channels"]

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The output with those channels at zero, in the same layout (`masked_fill` would lose channels-last)."""
        return torch.where(self.zeroed.view(1, -1, *[1] * (output.dim() - 2)), 0, output)


def zero(network: nn.Module, channels: Channels, masked: Removed) -> nn.Module:
    """A copy of `network` of the same shape in which the filters `masked` are 0, with their entries in their BatchNorm.

    Unlike `remove`, filters tied to them stay as they are: a residual sum still carries its other terms. They stay 0 in
    training, whatever the optimiser, for their gradients are 0.
    """
    copy = deepcopy(network)
    for layer, filters in masked.items():
        for name in filter(None, (layer, channels.norms.get(layer))):
            module = copy.get_submodule(name)
            with torch.no_grad():
                for parameter in module.parameters(recurse=False):
                    parameter[list(filters)] = 0
            zeroed = torch.zeros(len(channels.writes[layer]), dtype=torch.bool, device=next(module.parameters()).device)
            zeroed[list(filters)] = True
            module.register_forward_hook(StaysZero(zeroed))
    return copy
