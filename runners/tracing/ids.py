"""Channel ids in place of numbers: what every operation of a network does to them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from runners.tracing.operations import (
    IN_PLACE,
    JOINS,
    MOVES,
    MOVES_BY_WIDTH,
    PRODUCTS,
    QUOTIENTS,
    REDUCTIONS,
    SUMS,
    ZERO_BECOMES_NUMBER,
    ZERO_STAYS_ZERO,
    ZEROS,
    flattens,
    is_special,
    leaves_channels,
    operands,
    pads_with_own,
    tensors_in,
)
from runners.tracing.shapes import SHAPE

Ids = Int64[Tensor, "..."]


class IdInterpreter(fx.Interpreter):
    """Runs a traced network on ids instead of numbers; every tensor has the shape it really has."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(network, garbage_collect_values=True, graph=graph)
        self.by_name = dict(network.named_modules(remove_duplicate=False))
        self.n_ids = 1
        self.united: list[Ids] = []
        self.fixed: dict[int, str] = {0: "always zero"}
        self.writes: dict[str, Ids] = {}
        self.reads: dict[str, Ids] = {}
        self.convolutions: list[str] = []
        self.grouped: dict[str, int] = {}
        self.owners: dict[int, str] = {}
        self.unlinked: list[Ids] = []
        self.node: fx.Node | None = None
        self.meta: Any = None
        self.shape: tuple[int, ...] = ()

    def run_node(self, n: fx.Node) -> Any:
        """Ids of a node's output; inputs, parameters and what the network returns may not shrink."""
        self.node, self.meta = n, n.meta.get(SHAPE)
        self.shape = tuple(getattr(self.meta, "shape", ()))
        if n.op == "placeholder":
            return self._fresh(self.shape, reason="network input")
        if n.op == "get_attr" and isinstance(value := self.fetch_attr(str(n.target)), Tensor):
            # One number scales all channels alike, as a constant in the code would.
            return 1.0 if value.numel() == 1 else self._fresh(self.shape, reason="a parameter of the network")
        if n.op == "output":
            self._fix(*tensors_in(n.args, self.env), reason="network output")
            return None
        return super().run_node(n)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Layers with channels of their own write and read ids; other modules are operations."""
        module = self.by_name[target]
        args = (*args, *kwargs.values()) if not args else args
        if isinstance(module, _ConvNd):
            return self._convolution(target, module, args[0])
        if isinstance(module, nn.Linear):
            return self._linear(target, module, args[0])
        if isinstance(module, _BatchNorm):
            return self._batchnorm(target, module, args[0])
        if isinstance(module, nn.PReLU) and module.num_parameters > 1:
            self._read(target, module, self._by_channel(args[0]))
        return self._operation(type(module).__name__, target, module, args, kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation, or an attribute such as a shape."""
        if target is getattr:
            return getattr(*args)
        return self._operation(target.__name__, target.__name__, target, args, kwargs)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation of a tensor."""
        return self._operation(target, target, getattr(torch.Tensor, target), args, kwargs)

    def _operation(self, kind: str, name: str, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = tensors_in((args, kwargs))
        in_place = kind.endswith("_") or kind in IN_PLACE or bool(kwargs.get("inplace")) or getattr(run, "inplace", False)
        kind = kind.strip("_").replace("_", "").lower()
        if kind in ZEROS:
            return torch.zeros(self.shape, dtype=torch.int64)
        if not tensors:
            made = run(*args, **kwargs)
            return self._unknown(self.meta, reason=f"is made by {name}") if isinstance(made, Tensor) else made
        result = self._result(kind, name, tensors, run, args, kwargs)
        # Who else holds the tensor, or a view of it, sees the change.
        return self._overwrite(tensors[0], result) if in_place and isinstance(result, Tensor) else result

    def _result(
        self,
        kind: str,
        name: str,
        tensors: list[Ids],
        run: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if kind in ZERO_STAYS_ZERO:
            return self._resized(tensors[0])
        if kind in ZERO_BECOMES_NUMBER:
            return -self._resized(tensors[0]).abs()
        if kind in SUMS:
            return self._sum(*operands(args, kwargs))
        if kind in PRODUCTS:
            return self._product(*operands(args, kwargs))
        if kind in QUOTIENTS and not isinstance(args[1], Tensor):
            return _copied(args[0])
        if kind == "pad" and pads_with_own(args, kwargs):
            return run(tensors[0].double(), *args[1:], **kwargs).long()
        if kind in REDUCTIONS:
            dtype = {"dtype"} & set(kwargs)
            options = {key: value for key, value in kwargs.items() if key not in dtype}
            return self._resized(self._reduced(tensors[0], *args[1:], **options))
        if kind in JOINS:
            return _joined(run, *args, **kwargs)
        if kind in MOVES or kind == "getitem" and leaves_channels(args[1]):
            return self._moved(kind, tensors[0], run, args, kwargs)
        if kind in MOVES_BY_WIDTH and not flattens(kind, args, self.shape):
            self._fix(*tensors, reason=f"passes {name}, which depends on the width")
            return self._moved(kind, tensors[0], run, args, kwargs)
        if kind in MOVES_BY_WIDTH:
            return self._moved(kind, tensors[0], run, args, kwargs)
        self._fix(*tensors, reason=f"passes {name}, which mixes channels or is unknown")
        return self._unknown(self.meta, reason=f"comes out of {name}")

    def _moved(self, kind: str, x: Ids, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Data movement; where repeated pixels make a copy of what is really a view, it is noted."""
        result = (torch.Tensor.reshape if kind == "view" else run)(*args, **kwargs)
        if isinstance(result, Tensor) and kind != "clone" and _memory(result) != _memory(x):
            self.unlinked += [x, result]
        return result

    def _overwrite(self, x: Ids, result: Ids) -> Ids:
        """Puts `result` into `x` and all its views, whose pixels may share their memory."""
        if torch.equal(_small(x), _small(result)):
            return x
        target = _small(x)
        source = result[tuple(slice(size) for size in target.shape)]
        if _memory(x) in map(_memory, self.unlinked) or not (_small(result) == source).all():
            raise ValueError("a tensor is changed in place in a way that cannot be followed")
        target.copy_(source)
        return x

    def _convolution(self, name: str, module: _ConvNd, x: Ids) -> Ids:
        inputs = self._by_channel(x)
        self._fix(inputs[inputs < 0], reason=f"reaches {name} as a number other than zero")
        outputs = self._write(name, module, module.out_channels)
        if name not in self.convolutions:
            self.convolutions.append(name)
        if module.groups == module.in_channels and module.groups > 1:
            sources = inputs.abs().repeat_interleave(module.out_channels // module.in_channels)
            self._fix(outputs[sources == 0], reason="filters a channel that is always zero")
            self._unite(outputs, sources)
        elif module.groups > 1:
            self.grouped[name] = module.groups
        if is_special(module):
            self._fix(inputs, outputs, reason=f"{name} computes with its weights in a way of its own")
        self._read(name, module, inputs)
        return self._spread(outputs)

    def _linear(self, name: str, module: nn.Linear, x: Ids) -> Ids:
        features = _small(x, last=1).flatten(0, -2)
        if not (features == features[0]).all():
            self._fix(x, reason=f"reaches {name} with its channels mixed")
        self._fix(features[0][features[0] < 0], reason=f"reaches {name} as a number other than zero")
        self._read(name, module, features[0])
        if is_special(module):
            self._fix(features[0], self._write(name, module, self.shape[-1]), reason=f"{name} computes in a way of its own")
        return self._write(name, module, self.shape[-1]).clone().expand(self.shape)

    def _batchnorm(self, name: str, module: _BatchNorm, x: Ids) -> Ids:
        inputs = self._by_channel(x)
        keeps_zero = module.affine and all(
            type(child).__name__.lower() in ZERO_STAYS_ZERO | {"identity"} for child in module.children()
        )
        outputs = inputs.abs() if keeps_zero else -inputs.abs()
        if (inputs == 0).any():
            outputs[inputs == 0] = self._fresh((int((inputs == 0).sum()),), reason=f"a constant of {name}")
        self._read(name, module, inputs)
        return self._spread(outputs)

    def _sum(self, a: Any, b: Any) -> Ids:
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
            tensor, number = (a, b) if isinstance(a, Tensor) else (b, a)
            return _copied(tensor) if number == 0 else -_copied(tensor).abs()
        a, b = _met(a, b)
        self._fix(a[b == 0], b[a == 0], reason="meets the zero channels of a padded shortcut")
        self._unite(a, b)
        ids = torch.where(a == 0, b, a).abs()
        return torch.where((a < 0) | (b < 0), -ids, ids).expand(self.shape)

    def _product(self, a: Any, b: Any) -> Ids:
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
            return _copied(a if isinstance(a, Tensor) else b)
        a, b = _met(a, b)
        self._unite(a, b)
        ids = torch.where(b == 0, 0, a.abs())
        return torch.where((a < 0) & (b < 0), -ids, ids).expand(self.shape)

    def _reduced(self, x: Ids, *args: Any, **kwargs: Any) -> Ids:
        low, high = (fn(x, *args, **kwargs) for fn in (torch.amin, torch.amax))
        if not torch.equal(low, high):
            self._fix(x, reason="is summed over channels")
        return low

    def _fresh(self, shape: tuple[int, ...], *, reason: str) -> Ids:
        """New ids that may not go, one a channel (dimension 1, or the last one of two)."""
        width = shape[1] if len(shape) > 1 else shape[0] if shape else 1
        ids = torch.arange(self.n_ids, self.n_ids + width)
        self.n_ids += width
        self._fix(ids, reason=reason)
        if len(shape) <= 1:
            return ids.reshape(shape)
        return ids.reshape(1, width, *[1] * (len(shape) - 2)).expand(shape)

    def _unknown(self, meta: Any, *, reason: str) -> Any:
        """Fresh ids for one tensor, or for each tensor of a tuple."""
        if hasattr(meta, "shape"):
            return self._fresh(tuple(meta.shape), reason=reason)
        return tuple(self._unknown(part, reason=reason) for part in meta) if isinstance(meta, tuple | list) else meta

    def _fix(self, *tensors: Ids, reason: str) -> None:
        for ids in tensors:
            for number in set(_small(ids).abs().flatten().tolist()):
                self.fixed.setdefault(number, reason)

    def _unite(self, a: Ids, b: Ids) -> None:
        """What meets in a sum or product stays or goes together; 0 meets nothing."""
        pairs = torch.stack([a, b]).abs()
        if pairs.dim() > 3 and (pairs == pairs[..., :1, :1]).all():
            pairs = pairs[..., 0, 0]
        pairs = pairs.flatten(1)
        self.united.append(pairs[:, pairs.all(0)])

    def _write(self, name: str, module: nn.Module, width: int) -> Ids:
        if name not in self.writes:
            self.writes[name] = torch.arange(self.n_ids, self.n_ids + width)
            self.n_ids += width
        self._own(name, module, self.writes[name])
        return self.writes[name]

    def _own(self, name: str, module: nn.Module, ids: Ids) -> None:
        """Parameters that two modules share cannot shrink in one of them."""
        owners = [
            self.owners.setdefault(id(parameter), name) for parameter in module._parameters.values() if parameter is not None
        ]
        for owner in set(owners) - {name}:
            theirs = [found[owner] for found in (self.reads, self.writes) if owner in found]
            self._fix(ids, *theirs, reason=f"{name} shares its parameters with {owner}")

    def _read(self, name: str, module: nn.Module, ids: Ids) -> None:
        self._own(name, module, ids)
        if name in self.reads:
            self._unite(self.reads[name], ids)
        self.reads.setdefault(name, ids.abs())

    def _by_channel(self, x: Ids) -> Ids:
        """The id of every channel; channels that are not of one piece may not go."""
        small = _small(x)
        flat = small[0].flatten(1) if x.dim() > 2 else small[0][:, None]
        if not (flat == flat[:, :1]).all():
            self._fix(x, reason="is a channel of several filters")
        return flat[:, 0].clone()

    def _spread(self, ids: Ids) -> Ids:
        """Ids by channel -> ids of the node's shape."""
        return ids.clone().reshape(1, -1, *[1] * (len(self.shape) - 2)).expand(self.shape)

    def _resized(self, x: Ids) -> Ids:
        """The same channels in the node's shape."""
        return _copied(x) if tuple(x.shape) == self.shape or x.dim() < 3 else self._spread(self._by_channel(x))


def _small(x: Ids, last: int = 0) -> Ids:
    """`x` without the repetitions that take no memory (pixels, mostly); the first two and `last` dimensions stay whole."""
    strides = x.stride()
    for dim in range(2, x.dim() - last):
        if strides[dim] == 0:
            x = x.narrow(dim, 0, 1)
    return x


def _copied(x: Ids) -> Ids:
    """`x` in memory of its own, repetitions still free."""
    return _small(x).clone().expand(x.shape)


def _met(a: Ids, b: Ids) -> tuple[Ids, Ids]:
    """Both with the same shape, without the pixels that are repetitions in both."""
    a, b = torch.broadcast_tensors(_small(a), _small(b))
    return a, b


def _memory(x: Ids) -> int:
    """What a tensor shares with its views."""
    return x.untyped_storage().data_ptr()


def _joined(run: Callable[..., Ids], tensors: Sequence[Ids], dim: int = 0) -> Ids:
    """A concatenation; the pixels of channels that are each of one piece stay repetitions."""
    small = [_small(x) for x in tensors]
    if dim == 1 and all(x.shape[2:].numel() == 1 for x in small):
        return run(small, dim).expand(-1, -1, *tensors[0].shape[2:])
    return run(tensors, dim)
