"""The nodes of the traced graph that hold a layer's output, the BatchNorm that reads it, and the papers' numbers of layers."""

from collections.abc import Callable

import numpy as np
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from criteria.criterion import Site
from criteria.layer import BatchNorm, filters_first
from runners.tracing.channels import Channels, Groups, follow
from runners.tracing.operations import IN_PLACE, JOINS, SUMS

ACTIVATIONS = frozenset(
    "relu relu6 leakyrelu prelu rrelu elu celu selu silu swish gelu gelutanh mish hardswish hardmish hardtanh tanh softsign "
    "softplus sigmoid hardsigmoid logsigmoid threshold hardshrink softshrink tanhshrink".split()
)
PASSES = frozenset(
    "identity dropout dropout1d dropout2d dropout3d alphadropout stochasticdepth droppath contiguous clone".split()
)
Kind = Callable[[fx.Node], bool]


def find_sites(traced: fx.GraphModule, layer: str) -> dict[Site, list[fx.Node]]:
    """The nodes at which the output of `layer` can be seen; several where it runs several times.

    `conv_out` is right behind it, `post_act` behind the BatchNorm and the activation function that follow, as far as there
    are any. We follow edges of the graph, never names of modules.
    """
    nodes = [node for node in traced.graph.nodes if node.op == "call_module" and node.target == layer]
    return {"conv_out": nodes, "post_act": [_post_act(traced, node) for node in nodes]}


def filters(network: nn.Module, layer: str, weight: Tensor | None = None, *, legacy_dim0: bool = False) -> Tensor:
    """The weights of `layer`, or another tensor of their shape, one filter a row; `legacy_dim0` as in `filters_first`."""
    module = network.get_submodule(layer)
    found = network.get_parameter(f"{layer}.weight").detach() if weight is None else weight
    transposed = isinstance(module, _ConvNd) and module.transposed
    groups = module.groups if isinstance(module, _ConvNd) else 1
    return filters_first(found, transposed=transposed, groups=groups, legacy_dim0=legacy_dim0)


def find_batchnorm(traced: fx.GraphModule, channels: Channels, layer: str) -> BatchNorm | None:
    """Scale and shift that the BatchNorm which reads the output of `layer` first gives its channels.

    Between the two may lie operations that do not mix channels: an activation function, dropout, a concatenation (DenseNet).
    Behind a sum it is no longer this layer's output. None without BatchNorm, or with one that has no scale.
    """
    passes = _is(traced, ACTIVATIONS | PASSES | JOINS)
    reached = set(find_sites(traced, layer)["conv_out"])
    for node in traced.graph.nodes:
        if reached.isdisjoint(node.all_input_nodes):
            continue
        if isinstance(module := _module(traced, node), _BatchNorm):
            name = str(node.target)
            return _slice(module, channels.reads[name], channels.writes[layer])
        if passes(node):
            reached.add(node)
    return None


def _slice(module: _BatchNorm, reads: Groups, writes: Groups) -> BatchNorm | None:
    """The part of a BatchNorm that reads the channels of one layer."""
    start = int(np.isin(reads, writes).argmax())
    own = slice(start, start + len(writes))
    scale, shift = module.weight, module.bias
    if scale is None or shift is None or not np.array_equal(reads[own], writes):
        return None
    return BatchNorm(scale.detach()[own], shift.detach()[own])


def changed_in_place(traced: nn.Module, node: fx.Node) -> bool:
    """True if a later operation overwrites the node's tensor."""
    return any(user.args and user.args[0] is node and _works_in_place(traced, user) for user in node.users)


def paper_numbers(network: nn.Module, channels: Channels, *, count_shortcuts: bool = False) -> dict[str, int]:
    """Convolution -> its number in the papers' tables, from 1 in order of execution.

    They number the twelfth convolution of ResNet-18 `layer3.1.conv1`: convolutions of size 1 on a shortcut do not count.

    Args:
        count_shortcuts: they do, as in the tables of WRN-28-10 (28 rows), ResNeXt-29-16x64d (31) and PSPNet (114).
    """
    traced = follow(network)
    counted = [layer for layer in channels.convolutions if count_shortcuts or not _on_shortcut(traced, layer)]
    return {layer: number for number, layer in enumerate(counted, 1)}


def _on_shortcut(traced: fx.GraphModule, layer: str) -> bool:
    """A convolution of size 1 that leads into a sum with no activation between, from where another path sets out too."""
    module = traced.get_submodule(layer)
    if not isinstance(module, _ConvNd) or set(module.kernel_size) != {1}:
        return False
    for node in find_sites(traced, layer)["conv_out"]:
        source, end = node.all_input_nodes[0], _behind(node, lambda user: _is_batchnorm(traced, user))
        if len(source.users) > 1 and any(_is(traced, SUMS)(user) for user in end.users):
            return True
    return False


def _post_act(traced: fx.GraphModule, node: fx.Node) -> fx.Node:
    passes, acts = _is(traced, PASSES), _is(traced, ACTIVATIONS)
    end = _behind(node, lambda user: passes(user) or _is_batchnorm(traced, user))
    return next((user for user in end.users if acts(user)), end)


def _behind(node: fx.Node, takes: Kind) -> fx.Node:
    """The last node of the chain that starts at `node` and goes on through users that `takes` accepts."""
    while follower := next((user for user in node.users if takes(user)), None):
        node = follower
    return node


def _module(traced: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that the node calls, if it calls one."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_batchnorm(traced: nn.Module, node: fx.Node) -> bool:
    return isinstance(_module(traced, node), _BatchNorm)


def _is(traced: fx.GraphModule, names: frozenset[str]) -> Kind:
    """A test of a node: true if its module, function or method has one of these names."""

    def test(node: fx.Node) -> bool:
        return node.op.startswith("call") and _name(traced, node).strip("_").replace("_", "").lower() in names

    return test


def _name(traced: nn.Module, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(traced.get_submodule(str(node.target))).__name__
    return node.target if isinstance(node.target, str) else node.target.__name__


def _works_in_place(traced: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(traced.get_submodule(str(node.target)), "inplace", False))
    name = _name(traced, node)
    return name.endswith("_") or name in IN_PLACE or bool(node.kwargs.get("inplace"))
