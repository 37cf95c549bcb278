"""Channel ids in place of numbers: the walk over a network that finds out which filter every channel carries.

Two convolutions of three filters, summed by a shortcut, under a third of three filters that reads the sum:

    a = conv_a(image)    image: ids [1 2 3], fixed       a: ids [4 5 6], a new id for every filter
    b = conv_b(relu(a))  conv_b reads [4 5 6]            b: ids [7 8 9]
    c = conv_c(a + b)    a + b: ids [4 5 6]; united are 4 and 7, 5 and 8, 6 and 9; conv_c reads [4 5 6]
    return c             c: ids [10 11 12], fixed: what the network returns may not shrink
    groups               both conv_a and conv_b write [4 5 6], conv_c writes [7 8 9]: united ids are one group
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from runners.tracing.effects import Call, effect, overwritten
from runners.tracing.operations import IN_PLACE, ZERO_STAYS_ZERO, ZEROS, is_special, tensors_in
from runners.tracing.record import Ids, Record, by_channel, small, spread
from runners.tracing.shapes import SHAPE
from runners.tracing.walk import Walk


class IdWalk(Walk):
    """Runs a traced network on ids instead of numbers; every tensor has the shape it really has."""

    def __init__(self, network: nn.Module, graph: fx.Graph, by_name: Mapping[str, nn.Module]) -> None:
        super().__init__(network, graph, by_name)
        self.record = Record()
        self.described: Any = None

    def run_node(self, node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Ids of a node's output; inputs, parameters and what the network returns may not shrink."""
        self.described = node.meta.get(SHAPE)
        if node.op == "placeholder":
            return self.record.fresh(self._shape, reason="network input")
        if node.op == "get_attr" and isinstance(value := self.attribute(str(node.target)), Tensor):
            # One number scales all channels alike, as a constant in the code would.
            return 1.0 if value.numel() == 1 else self.record.fresh(self._shape, reason="a parameter of the network")
        if node.op == "output":
            self.record.fix(*tensors_in(args), reason="network output")
            return None
        return super().run_node(node, args, kwargs)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Layers with channels of their own write and read ids; other modules are operations."""
        module = self.by_name[target]
        args = (*args, *kwargs.values()) if not args else args
        if isinstance(module, _ConvNd):
            return _convolution(self.record, target, module, args[0], self._shape)
        if isinstance(module, nn.Linear):
            return _linear(self.record, target, module, args[0], self._shape)
        if isinstance(module, _BatchNorm):
            return _batchnorm(self.record, target, module, args[0], self._shape)
        if isinstance(module, nn.PReLU) and module.num_parameters > 1:
            self.record.read(target, module, by_channel(self.record, args[0]))
        return self._operation(type(module).__name__, target, module, args, kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """An operation, or an attribute such as a shape."""
        if target is getattr:
            return getattr(*args)
        return self._operation(target.__name__, target.__name__, target, args, kwargs)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """An operation of a tensor."""
        return self._operation(target, target, getattr(torch.Tensor, target), args, kwargs)

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(getattr(self.described, "shape", ()))

    def _operation(
        self, kind: str, name: str, run: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        tensors = tensors_in((args, kwargs))
        in_place = kind.endswith("_") or kind in IN_PLACE or bool(kwargs.get("inplace")) or getattr(run, "inplace", False)
        kind = kind.strip("_").replace("_", "").lower()
        if kind in ZEROS:
            return torch.zeros(self._shape, dtype=torch.int64)
        if not tensors:
            made = run(*args, **kwargs)
            return self.record.unknown(self.described, reason=f"is made by {name}") if isinstance(made, Tensor) else made
        result = effect(self.record, Call(kind, name, run, args, kwargs, tensors, self.described))
        # Other holders of the tensor, or of a view of it, see the change.
        return overwritten(self.record, tensors[0], result) if in_place and isinstance(result, Tensor) else result


def _convolution(record: Record, name: str, module: _ConvNd, x: Ids, shape: tuple[int, ...]) -> Ids:
    inputs = by_channel(record, x)
    record.fix(inputs[inputs < 0], reason=f"reaches {name} as a number other than zero")
    outputs = record.write(name, module, module.out_channels)
    if name not in record.convolutions:
        record.convolutions.append(name)
    if module.groups == module.in_channels and module.groups > 1:
        sources = inputs.abs().repeat_interleave(module.out_channels // module.in_channels)
        record.fix(outputs[sources == 0], reason="filters a channel that is always zero")
        record.unite(outputs, sources)
    elif module.groups > 1:
        record.grouped[name] = module.groups
    if is_special(module):
        record.fix(inputs, outputs, reason=f"{name} computes with its weights in a way of its own")
    record.read(name, module, inputs)
    return spread(outputs, shape)


def _linear(record: Record, name: str, module: nn.Linear, x: Ids, shape: tuple[int, ...]) -> Ids:
    features = small(x, last=1).flatten(0, -2)
    if not (features == features[0]).all():
        record.fix(x, reason=f"reaches {name} with its channels mixed")
    record.fix(features[0][features[0] < 0], reason=f"reaches {name} as a number other than zero")
    record.read(name, module, features[0])
    if is_special(module):
        record.fix(features[0], record.write(name, module, shape[-1]), reason=f"{name} computes in a way of its own")
    return record.write(name, module, shape[-1]).clone().expand(shape)


def _batchnorm(record: Record, name: str, module: _BatchNorm, x: Ids, shape: tuple[int, ...]) -> Ids:
    inputs = by_channel(record, x)
    keeps_zero = module.affine and all(
        type(child).__name__.lower() in ZERO_STAYS_ZERO | {"identity"} for child in module.children()
    )
    outputs = inputs.abs() if keeps_zero else -inputs.abs()
    if (inputs == 0).any():
        outputs[inputs == 0] = record.fresh((int((inputs == 0).sum()),), reason=f"a constant of {name}")
    record.read(name, module, inputs)
    return spread(outputs, shape)
