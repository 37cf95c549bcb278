"""The effect of every kind of operation on the ids of channels, as a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from runners.tracing.operations import (
    JOINS,
    MOVES,
    MOVES_BY_WIDTH,
    PRODUCTS,
    QUOTIENTS,
    REDUCTIONS,
    SUMS,
    ZERO_BECOMES_NUMBER,
    ZERO_STAYS_ZERO,
    flattens,
    leaves_channels,
    operands,
    pads_with_own,
)
from runners.tracing.record import Ids, Record, by_channel, copied, small, spread


@dataclass(frozen=True)
class Call:
    """One operation of a network on tensors of ids.

    Args:
        kind: its name in lower case without underscores.
        name: its name as users know it.
        run: the function itself.
        tensors: all tensors among its arguments.
        described: the shape of its output, or of each.
    """

    kind: str
    name: str
    run: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: Sequence[Ids]
    described: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its output; of several outputs, none."""
        return tuple(getattr(self.described, "shape", ()))


def effect(record: Record, call: Call) -> Any:
    """The ids of what an operation gives; of operations that are not known, new ids that may not go."""
    found = EFFECTS.get(call.kind, _unknown)(record, call)
    return _unknown(record, call) if found is NotImplemented else found


def _keeps_zero(record: Record, call: Call) -> Ids:
    return _resized(record, call.tensors[0], call.shape)


def _makes_numbers(record: Record, call: Call) -> Ids:
    return -_resized(record, call.tensors[0], call.shape).abs()


def _sum(record: Record, call: Call) -> Ids:
    a, b = operands(call.args, call.kwargs)
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        tensor, number = (a, b) if isinstance(a, Tensor) else (b, a)
        return copied(tensor) if number == 0 else -copied(tensor).abs()
    a, b = _met(a, b)
    record.fix(a[b == 0], b[a == 0], reason="meets the zero channels of a padded shortcut")
    record.unite(a, b)
    ids = torch.where(a == 0, b, a).abs()
    return torch.where((a < 0) | (b < 0), -ids, ids).expand(call.shape)


def _product(record: Record, call: Call) -> Ids:
    a, b = operands(call.args, call.kwargs)
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return copied(a if isinstance(a, Tensor) else b)
    a, b = _met(a, b)
    record.unite(a, b)
    ids = torch.where(b == 0, 0, a.abs())
    return torch.where((a < 0) & (b < 0), -ids, ids).expand(call.shape)


def _quotient(record: Record, call: Call) -> Any:
    return NotImplemented if isinstance(call.args[1], Tensor) else copied(call.args[0])


def _padding(record: Record, call: Call) -> Any:
    if not pads_with_own(call.args, call.kwargs):
        return NotImplemented
    return call.run(call.tensors[0].double(), *call.args[1:], **call.kwargs).long()


def _reduction(record: Record, call: Call) -> Ids:
    x, options = call.tensors[0], {key: value for key, value in call.kwargs.items() if key != "dtype"}
    low, high = (fn(x, *call.args[1:], **options) for fn in (torch.amin, torch.amax))
    if not torch.equal(low, high):
        record.fix(x, reason="is summed over channels")
    return _resized(record, low, call.shape)


def _join(record: Record, call: Call) -> Ids:
    return _joined(call.run, *call.args, **call.kwargs)


def _move(record: Record, call: Call) -> Any:
    """Data movement; where repeated pixels make a copy of what is really a view, it is noted."""
    result = (torch.Tensor.reshape if call.kind == "view" else call.run)(*call.args, **call.kwargs)
    x = call.tensors[0]
    if isinstance(result, Tensor) and call.kind != "clone" and memory(result) != memory(x):
        record.unlinked += [x, result]
    return result


def _move_by_width(record: Record, call: Call) -> Any:
    keeps = call.kind == "getitem" and leaves_channels(call.args[1])
    if not (keeps or flattens(call.kind, call.args, call.shape)):
        record.fix(*call.tensors, reason=f"passes {call.name}, which depends on the width")
    return _move(record, call)


def _unknown(record: Record, call: Call) -> Any:
    record.fix(*call.tensors, reason=f"passes {call.name}, which mixes channels or is unknown")
    return record.unknown(call.described, reason=f"comes out of {call.name}")


EFFECTS: Mapping[str, Callable[[Record, Call], Any]] = {
    **dict.fromkeys(ZERO_STAYS_ZERO, _keeps_zero),
    **dict.fromkeys(ZERO_BECOMES_NUMBER, _makes_numbers),
    **dict.fromkeys(SUMS, _sum),
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(QUOTIENTS, _quotient),
    "pad": _padding,
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(JOINS, _join),
    **dict.fromkeys(MOVES, _move),
    **dict.fromkeys(MOVES_BY_WIDTH, _move_by_width),
}


def overwritten(record: Record, x: Ids, result: Ids) -> Ids:
    """`x` with `result` in it and in all its views, whose pixels may share their memory."""
    target = small(x)
    if torch.equal(target, small(result)):
        return x
    source = result[tuple(slice(size) for size in target.shape)]
    if memory(x) in map(memory, record.unlinked) or not (small(result) == source).all():
        raise ValueError("a tensor is changed in place in a way that cannot be followed")
    target.copy_(source)
    return x


def memory(x: Ids) -> int:
    """The address that a tensor shares with its views."""
    return x.untyped_storage().data_ptr()


def _resized(record: Record, x: Ids, shape: tuple[int, ...]) -> Ids:
    """The same channels in another shape."""
    return copied(x) if tuple(x.shape) == shape or x.dim() < 3 else spread(by_channel(record, x), shape)


def _met(a: Ids, b: Ids) -> tuple[Ids, Ids]:
    """Both with the same shape, without the pixels that are repetitions in both."""
    a, b = torch.broadcast_tensors(small(a), small(b))
    return a, b


def _joined(run: Callable[..., Ids], tensors: Sequence[Ids], dim: int = 0) -> Ids:
    """A concatenation; the pixels of channels that are each of one piece stay repetitions."""
    pieces = [small(x) for x in tensors]
    if dim == 1 and all(x.shape[2:].numel() == 1 for x in pieces):
        return run(pieces, dim).expand(-1, -1, *tensors[0].shape[2:])
    return run(tensors, dim)
