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
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd

from runners.tracing.call import Call
from runners.tracing.effects import effect, overwritten
from runners.tracing.operations import IN_PLACE, SIZED, ZERO_STAYS_ZERO, ZEROS, is_special, tensors_in
from runners.tracing.record import Ids, Record, by_channel, small, spread
from runners.tracing.shapes import SHAPE
from runners.tracing.walk import Walk
from runners.tracing.widths import Width, WidthFloat, sizes_of, width, widths_in


class IdWalk(Walk):
    """Runs a traced network on ids instead of numbers; every tensor has the shape it really has."""

    def __init__(self, network: nn.Module, graph: fx.Graph, by_name: Mapping[str, nn.Module], record: Record) -> None:
        super().__init__(network, graph, by_name)
        self.record = record
        self.described: Any = None

    def run_node(self, node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Ids of a node's output; inputs, parameters and what the network returns may not shrink."""
        self.described = node.meta.get(SHAPE)
        if node.op == "placeholder":
            return self.record.fresh(self._shape, reason="network input")
        if node.op == "get_attr" and isinstance(value := self.attribute(str(node.target)), Tensor):
            # One number scales all channels alike, as a constant in the code would.
            if value.numel() == 1:
                return 1.0
            if value.numel() == max(value.shape) and self._is_own(str(node.target)):
                return self.record.parameter(str(node.target), value)
            return self.record.fresh(self._shape, reason="a parameter of the network")
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
        if isinstance(module, _NormBase):
            return _batchnorm(self.record, target, module, args[0], self._shape)
        if isinstance(module, nn.PReLU) and module.num_parameters > 1:
            self.record.read(target, module, by_channel(self.record, args[0]))
        return self._operation(type(module).__name__, target, module, args, kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """An operation, or an attribute such as a shape."""
        if target is getattr:
            return _attribute(*args)
        return self._operation(target.__name__, target.__name__, target, args, kwargs)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """An operation of a tensor."""
        return self._operation(target, target, getattr(torch.Tensor, target), args, kwargs)

    def _is_own(self, name: str) -> bool:
        """True for a parameter or buffer, false for a constant of the code."""
        module, _, last = name.rpartition(".")
        return last in self.by_name[module]._parameters or last in self.by_name[module]._buffers

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(getattr(self.described, "shape", ()))

    def _operation(
        self, kind: str, name: str, run: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        tensors, followed = tensors_in((args, kwargs)), widths_in((args, kwargs))
        in_place = kind.endswith("_") or kind in IN_PLACE or bool(kwargs.get("inplace")) or getattr(run, "inplace", False)
        kind = kind.strip("_").replace("_", "").lower()
        if not tensors and kind not in ZEROS:
            return self._made(kind, name, run(*args, **kwargs), followed)
        if kind not in SIZED:
            self._hold(name, followed)
        result = effect(self.record, Call(kind, name, run, args, kwargs, tensors, self.described))
        # Other holders of the tensor, or of a view of it, see the change.
        return overwritten(self.record, tensors[0], result) if in_place and isinstance(result, Tensor) else result

    def _made(self, kind: str, name: str, made: Any, followed: list[Width | WidthFloat]) -> Any:
        """A tensor or number made of numbers, which depends on the channels that they depend on."""
        if kind == "getitem" or not (followed or isinstance(made, Tensor)):
            return made
        if isinstance(made, int | float) and not isinstance(made, bool):
            in_step = kind in ("mul", "imul") and len(followed) == 1 and followed[0].in_step
            return width(made, torch.cat([number.ids for number in followed]), in_step=in_step)
        self._hold(name, followed)
        return self.record.unknown(self.described, reason=f"is made by {name}") if isinstance(made, Tensor) else made

    def _hold(self, name: str, followed: list[Width | WidthFloat]) -> None:
        for number in followed:
            self.record.fix(number.ids, reason=f"is counted for {name}, which computes with their number")


def _attribute(found: Any, name: str, *default: Any) -> Any:
    """A tensor's shape with the channels that it counts; a part of what PyTorch gives as a named pair; others as they are."""
    if isinstance(found, Tensor) and name == "shape":
        return sizes_of(found)
    if type(found) is tuple and name in ("values", "indices"):
        return found[("values", "indices").index(name)]
    return getattr(found, name, *default)


def _convolution(record: Record, name: str, module: _ConvNd, x: Ids, shape: tuple[int, ...]) -> Ids:
    inputs = by_channel(record, x)
    if bool((inputs < 0).any()):
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


def _batchnorm(record: Record, name: str, module: _NormBase, x: Ids, shape: tuple[int, ...]) -> Ids:
    inputs = by_channel(record, x)
    # Without an affine, a layer that takes mean and deviation of every channel of an image gives 0 for one that is 0.
    keeps_zero = (module.affine or not isinstance(module, _BatchNorm) and not module.track_running_stats) and all(
        type(child).__name__.lower() in ZERO_STAYS_ZERO | {"identity"} for child in module.children()
    )
    outputs = inputs.abs() if keeps_zero else -inputs.abs()
    if (inputs == 0).any():
        outputs[inputs == 0] = record.fresh((int((inputs == 0).sum()),), reason=f"a constant of {name}")
    record.read(name, module, inputs)
    return spread(outputs, shape)
