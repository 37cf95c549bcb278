"""A traced network, run node by node on whatever its tensors are replaced by."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

from torch import fx, nn
from torch.fx.node import map_arg


def modules_by_name(network: nn.Module) -> dict[str, nn.Module]:
    """Every module under every name that it has; as `named_modules`, without its generator for each level."""
    found, waiting = {}, [("", network)]
    while waiting:
        name, module = waiting.pop()
        found[name] = module
        inside = f"{name}." if name else ""
        waiting += [(inside + child, each) for child, each in reversed(module._modules.items()) if each is not None]
    return found


def attribute(network: nn.Module, name: str) -> Any:
    """A parameter, buffer, constant or module by its dotted name."""
    return reduce(getattr, name.split("."), network)


class Walk:
    """The forward pass of a graph; subclasses say what a node gives. As fx.Interpreter, without its cost per node.

    Args:
        by_name: the modules of the network, under every name that they have.
        node: the node that is run; after a failure, the one that failed.
    """

    def __init__(self, network: nn.Module, graph: fx.Graph, by_name: Mapping[str, nn.Module]) -> None:
        self.network, self.graph, self.by_name = network, graph, by_name
        self.node: fx.Node | None = None
        self.env: dict[fx.Node, Any] = {}

    def run(self, example: Any) -> None:
        """Every node in turn; the network's first input is `example`, the others have their defaults."""
        left = {node: len(node.users) for node in self.graph.nodes}
        inputs = iter([example])
        for node in self.graph.nodes:
            self.node = node
            if node.op == "placeholder":
                args: Any = (next(inputs, *node.args),)
            else:
                args = map_arg(node.args, self.env.__getitem__)
            found = self.run_node(node, args, map_arg(node.kwargs, self.env.__getitem__))
            if left[node]:
                self.env[node] = found
            for source in node.all_input_nodes:
                left[source] -= 1
                if not left[source]:
                    del self.env[source]

    def run_node(self, node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The value of a node: an input, a parameter, the network's output, or the result of a module, function or method."""
        if node.op in ("placeholder", "output"):
            return args[0]
        if node.op == "get_attr":
            return self.attribute(str(node.target))
        return getattr(self, node.op)(node.target, args, kwargs)

    def attribute(self, name: str) -> Any:
        """A parameter, buffer or constant of the network by its dotted name."""
        return attribute(self.network, name)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The output of a module."""
        return self.by_name[target](*args, **kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The result of a function."""
        return target(*args, **kwargs)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The result of a method of the first argument."""
        return getattr(args[0], target)(*args[1:], **kwargs)
