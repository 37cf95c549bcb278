"""The cost of every module of a network, as a function of how many channels it has left."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from runners.tracing.shapes import SHAPE


@dataclass(frozen=True)
class Size:
    """Of one module.

    Args:
        kernel: weights a filter has for each channel that it reads; 0 for modules without filters.
        groups: parts that filters and channels fall into.
        depthwise: every filter reads one channel, however many there are.
        per_channel: further parameters of each filter (a bias), or of each channel of a module without filters.
        positions: outputs a filter has in one image, over all its uses, and over all parts of the image (windows, say) that
            the network puts side by side as if they were images.
    """

    kernel: int
    groups: int = 1
    depthwise: bool = False
    per_channel: int = 0
    positions: int = 0

    def weights(self, inputs: int, outputs: int) -> int:
        """Weights of `outputs` filters that read `inputs` channels."""
        return self.kernel * outputs * (1 if self.depthwise else inputs // self.groups)

    def macs(self, inputs: int, outputs: int) -> int:
        """Multiply-adds of one image."""
        return self.weights(inputs, outputs) * self.positions


@dataclass(frozen=True)
class Sizes:
    """Of one network.

    Args:
        modules: those whose channels are followed.
        params: of the whole network, modules that are not followed among them.
        macs: of one image, in convolutions and linear layers; `measuring.cost` counts the same where they run.
    """

    modules: Mapping[str, Size] = field(default_factory=dict)
    params: int = 0
    macs: int = 0


def network_sizes(
    network: nn.Module, graph: fx.Graph, found: Mapping[str, nn.Module | Tensor], reads: Mapping[str, Tensor]
) -> Sizes:
    """The sizes of the modules and parameters `found`; every node of the graph knows the shape of its output."""
    positions = dict.fromkeys(found, 0)
    n_images = next(node for node in graph.nodes if node.op == "placeholder").meta[SHAPE].shape[0]
    for node in graph.nodes:
        if node.op == "call_module" and node.target in positions:
            positions[node.target] += _positions(found[node.target], node) // n_images
    modules = {name: _size(module, positions[name]) for name, module in found.items()}
    widths = {name: getattr(module, "out_channels", getattr(module, "out_features", 0)) for name, module in found.items()}
    macs = sum(size.macs(len(reads[name]), widths[name]) for name, size in modules.items())
    return Sizes(modules, sum(parameter.numel() for parameter in network.parameters()), macs)


def _positions(module: nn.Module | Tensor, node: fx.Node) -> int:
    """Places of all images at which each filter is applied: of the output, or of what a transposed convolution reads."""
    if isinstance(module, nn.Linear):
        return prod(node.meta[SHAPE].shape[:-1])
    applied = node.all_input_nodes[0] if isinstance(module, _ConvNd) and module.transposed else node
    n_images, _, *pixels = applied.meta[SHAPE].shape
    return prod((n_images, *pixels))


def _size(module: nn.Module | Tensor, positions: int) -> Size:
    if isinstance(module, Tensor):
        return Size(0, per_channel=int(isinstance(module, nn.Parameter)))
    if isinstance(module, _ConvNd):
        depthwise = module.groups == module.in_channels
        return Size(prod(module.kernel_size), module.groups, depthwise, int(module.bias is not None), positions)
    if isinstance(module, nn.Linear):
        return Size(1, per_channel=int(module.bias is not None), positions=positions)
    return Size(0, per_channel=sum(1 for _ in module.parameters(recurse=False)))
