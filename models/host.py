"""The places of a network at which attention can stand: the output of a branch, before it joins others."""

from itertools import groupby

from jaxtyping import Float
from torch import Tensor, nn


class Host(nn.Module):
    """A part of a network that weighs the output of its branch by `attention`, if there is some, before it joins others.

    Args:
        weighed: channels of that output.
    """

    def __init__(self, weighed: int) -> None:
        super().__init__()
        self.weighed = weighed
        self.attention: nn.Module | None = None

    def weigh(self, branch: Float[Tensor, "images weighed h w"]) -> Float[Tensor, "images weighed h w"]:
        """The output of the branch, weighed by the attention if there is some."""
        return branch if self.attention is None else self.attention(branch)


def stages(network: nn.Module) -> list[list[Host]]:
    """The hosts of a network, stage by stage: those that follow each other in one module and weigh as many channels.

    Raises:
        ValueError: it has none.
    """
    hosts = [(name.rpartition(".")[0], module) for name, module in network.named_modules() if isinstance(module, Host)]
    if not hosts:
        raise ValueError(
            f"{type(network).__name__} has no block that takes attention; our residual networks, VGG and DenseNet have; "
            "try model=resnet56"
        )
    return [[host for _, host in stage] for _, stage in groupby(hosts, lambda each: (each[0], each[1].weighed))]
