"""Dense and implicit attention: one LSTM for each stage, whose state goes from block to block.

    block 1 gives y1    h1, c1 = cell(means of y1, 0, 0)        the block goes on with y1 * h1
    block 2 gives y2    h2, c2 = cell(means of y2, h1, c1)      and with y2 * h2

The cell stands in the first block of its stage and serves all of them. The state lives in it while the module around the
blocks is run, and no longer, also if that is interrupted: a network at rest has none.
"""

from collections import OrderedDict
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from models.host import Host, stages

PerChannel = Float[Tensor, "images channels"]


class Gates(nn.Module):
    """The part of one input in the four gates: a bottleneck, and from there a linear layer for each."""

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Linear(channels, bottleneck), nn.ReLU())
        self.input = nn.Linear(bottleneck, channels)
        self.forget = nn.Linear(bottleneck, channels)
        self.candidate = nn.Linear(bottleneck, channels)
        self.output = nn.Linear(bottleneck, channels)

    def forward(self, x: PerChannel) -> tuple[PerChannel, PerChannel, PerChannel, PerChannel]:
        """Input gate, forget gate, candidate and output gate, before their functions."""
        squeezed = self.squeeze(x)
        return self.input(squeezed), self.forget(squeezed), self.candidate(squeezed), self.output(squeezed)


class SharedCell(nn.Module):
    """Every channel times the hidden state of an LSTM that reads the means of all channels.

    Args:
        state: hidden and cell state behind the last block; empty before the first one; None while no stage is run.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        bottleneck = max(1, channels // reduction)
        self.of_means = Gates(channels, bottleneck)
        self.of_hidden = Gates(channels, bottleneck)
        self.state: tuple[Tensor, ...] | None = None

    def forward(self, x: Float[Tensor, "images channels h w"]) -> Float[Tensor, "images channels h w"]:
        """The channels, weighted; outside of a stage as by its first block."""
        means = x.mean((2, 3))
        hidden, cell = self.state or (torch.zeros_like(means), torch.zeros_like(means))
        parts = zip(self.of_means(means), self.of_hidden(hidden), strict=True)
        enter, forget, candidate, leave = (of_means + of_hidden for of_means, of_hidden in parts)
        cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
        hidden = leave.sigmoid() * cell.sigmoid()
        if self.state is not None:
            self.state = hidden, cell
        return x * hidden[:, :, None, None]


class Turn(nn.Module):
    """The cell of a stage in one of its later blocks; the parameters are the first block's."""

    def __init__(self, cell: SharedCell) -> None:
        super().__init__()
        self.shared = (cell,)  # in a tuple, so that it is no part of this module

    def forward(self, x: Float[Tensor, "images channels h w"]) -> Float[Tensor, "images channels h w"]:
        """The channels, weighted."""
        return self.shared[0](x)


class Carrying(nn.Sequential):
    """Modules one after another, among them blocks that share cells; the cells have state while it runs."""

    def forward(self, input: Tensor) -> Tensor:
        """The last module's output."""
        cells = [module for module in self.modules() if isinstance(module, SharedCell)]
        try:
            for cell in cells:
                cell.state = ()
            return super().forward(input)
        finally:
            for cell in cells:
                cell.state = None


def dense_implicit_attention(network: nn.Module, *, reduction: Annotated[int, Ge(1)]) -> nn.Module:
    """`network` with one LSTM for each stage that weighs at all its places for attention.

    The hidden state of a channel whose filter is zeroed is no 0, and the next block reads it: no filter whose output is
    weighed may be removed, but in stages of one block.

    Args:
        reduction: channels for each unit of the bottlenecks, which have at least one unit.

    Raises:
        ValueError: the network has no place for attention, or its blocks do not stand in an nn.Sequential.

    Source:
        Huang et al. 2020, "DIANet: dense-and-implicit attention network", section 3, equations 1 to 6 and figure 4;
        reduction 4 is theirs. The hidden state takes the sigmoid of the cell state where an LSTM takes its tanh.
    """
    for stage in stages(network):
        cell = SharedCell(stage[0].weighed, reduction)
        for host in stage:
            host.attention = cell if host is stage[0] else Turn(cell)
    around = {name: module for name, module in network.named_modules() if any(isinstance(c, Host) for c in module.children())}
    for name, module in around.items():
        if type(module) is not nn.Sequential:
            raise ValueError(
                f"{type(network).__name__} runs its blocks by {type(module).__name__}; attention that blocks share needs an "
                "nn.Sequential around them; choose another attention"
            )
        carrying = Carrying(OrderedDict(module.named_children()))
        if not name:
            return carrying
        network.set_submodule(name, carrying)
    return network
