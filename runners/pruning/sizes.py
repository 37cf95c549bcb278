"""What every module of a network costs, as a function of how many channels it has left."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd


@dataclass(frozen=True)
class Size:
    """Of one module.

    Args:
        kernel: weights a filter has for each channel that it reads; 0 for modules without filters.
        groups: parts that filters and channels fall into.
        depthwise: every filter reads one channel, however many there are.
        per_channel: further parameters of each filter (a bias), or of each channel of a module without filters.
        positions: outputs a filter has in one image, over all its uses.
    """

    kernel: int
    groups: int = 1
    depthwise: bool = False
    per_channel: int = 0
    positions: int = 0

    def weights(self, inputs: int, outputs: int) -> int:
        """Weights of `outputs` filters that read `inputs` channels."""
        return self.kernel * outputs * (1 if self.depthwise else inputs // self.groups)

    def params(self, inputs: int, outputs: int) -> int:
        """All parameters."""
        return self.weights(inputs, outputs) + self.per_channel * (outputs if self.kernel else inputs)

    def macs(self, inputs: int, outputs: int) -> int:
        """Multiply-adds of one image."""
        return self.weights(inputs, outputs) * self.positions


@dataclass(frozen=True)
class Sizes:
    """Of one network.

    Args:
        modules: those whose channels are followed.
        params: of the whole network, modules that are not followed among them.
        macs: of the whole network, as `cost` counts them.
    """

    modules: Mapping[str, Size] = field(default_factory=dict)
    params: int = 0
    macs: int = 0


def network_sizes(traced: fx.GraphModule, followed: Mapping[str, object], macs: int) -> Sizes:
    """The sizes of the modules `followed`; every node of `traced` knows the shape of its output."""
    positions = dict.fromkeys(followed, 0)
    for node in traced.graph.nodes:
        if node.op == "call_module" and node.target in positions:
            shape = node.meta["tensor_meta"].shape
            is_linear = isinstance(traced.get_submodule(node.target), nn.Linear)
            positions[node.target] += prod(shape[1:-1] if is_linear else shape[2:])
    modules = {name: _size(traced.get_submodule(name), uses) for name, uses in positions.items()}
    return Sizes(modules, sum(parameter.numel() for parameter in traced.parameters()), macs)


def _size(module: nn.Module, positions: int) -> Size:
    if isinstance(module, _ConvNd):
        depthwise = module.groups == module.in_channels
        return Size(prod(module.kernel_size), module.groups, depthwise, int(module.bias is not None), positions)
    if isinstance(module, nn.Linear):
        return Size(1, per_channel=int(module.bias is not None), positions=positions)
    return Size(0, per_channel=sum(1 for _ in module.parameters(recurse=False)))
