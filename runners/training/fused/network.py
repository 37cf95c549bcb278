"""A network whose BatchNorms are joined with the ReLUs behind them."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError
from torch.nn import functional as F

from runners.process.errors import ConfigError
from runners.training.fused.norm_relu import NormRelu, has_hooks, is_plain

RELUS = {F.relu, torch.relu}
SUMS = {operator.add, operator.iadd, torch.add}


def fused(network: nn.Module) -> nn.Module:
    """The forward pass of `network` with every BatchNorm joined that only a ReLU reads, or a sum that only a ReLU reads.

    Modules and weights are the network's own. It is traced once, in the mode it is in: this is for networks that do the
    same in every step and change no tensor in place but what BatchNorms and sums give.

    Raises:
        ConfigError: it cannot be traced, so it does not do the same in every step.
    """
    if has_hooks(network):
        return network
    try:
        graph = fx.Tracer().trace(network)
    except (TraceError, TypeError) as error:
        raise ConfigError(
            f"{type(network).__name__} says fixed_graph = True, and what it does depends on its input ({error}); only networks "
            "that do the same in every step may say so; take fixed_graph out of its class"
        ) from error
    run = fx.GraphModule(network, graph)
    modules = dict(network.named_modules(remove_duplicate=False))
    for relu in list(graph.nodes):
        if terms := _terms(relu, modules):
            read, *shortcut = terms
            norm = modules[read.target]
            assert isinstance(norm, nn.BatchNorm2d)
            name = f"fused_{read.name}"
            run.add_submodule(name, NormRelu(norm))
            with graph.inserting_after(relu):
                relu.replace_all_uses_with(graph.call_module(name, (read.args[0], *shortcut)))
            for replaced in dict.fromkeys((relu, relu.args[0], read)):
                graph.erase_node(replaced)
    run.recompile()
    return run


def _terms(relu: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[Any, ...]:
    """The BatchNorm that a ReLU can be joined with, and what is added to it; nothing for other nodes."""
    if not _is_relu(relu, modules):
        return ()
    read: Any = relu.args[0]
    if _is_norm(read, modules):
        return (read,)
    if read.op != "call_function" or read.target not in SUMS or len(read.users) > 1 or read.kwargs or read.next is not relu:
        return ()
    left, right = read.args
    if left is right or not (isinstance(left, fx.Node) and isinstance(right, fx.Node)):
        return ()
    if _is_norm(left, modules):
        return left, right
    # A sum in place changes its left term, which others may read.
    return (right, left) if _is_norm(right, modules) and read.target is not operator.iadd else ()


def _is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        relu = modules[str(node.target)]
        return type(relu) is nn.ReLU and not has_hooks(relu) and bool(node.args)
    return node.op == "call_function" and node.target in RELUS and bool(node.args)


def _is_norm(node: Any, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node is a plain BatchNorm that one other node reads."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.users) > 1 or not node.args:
        return False
    return is_plain(modules[str(node.target)])
