"""The effect of every kind of operation on the ids of channels, as a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from runners.tracing.operations import (
    BY_VALUE,
    DEVIATIONS,
    DIMENSION,
    JOINS,
    MOVES,
    MOVES_BY_WIDTH,
    PRODUCTS,
    QUOTIENTS,
    REDUCTIONS,
    SUMS,
    VIEWS,
    WINDOWS,
    ZERO_BECOMES_NUMBER,
    ZERO_STAYS_ZERO,
    ZEROS,
    numbers_in,
    operands,
    pads_with_own,
)
from runners.tracing.record import Ids, Record, by_channel, copied, small, spread
from runners.tracing.widths import Width, along, counted, sizes_of, varies


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
        """The shape of its output; of several outputs, of the first."""
        first = self.described[0] if isinstance(self.described, tuple) and self.described else self.described
        return tuple(getattr(first, "shape", ()))


def effect(record: Record, call: Call) -> Any:
    """The ids of what an operation gives; of operations that are not known, new ids that may not go."""
    found = EFFECTS.get(call.kind, _unknown)(record, call)
    return _unknown(record, call) if found is NotImplemented else found


def _keeps_zero(record: Record, call: Call) -> Ids:
    return copied(call.tensors[0])


def _makes_numbers(record: Record, call: Call) -> Ids:
    return _numbers(record, call.tensors[0], call.name)


def _by_value(record: Record, call: Call) -> Any:
    """Functions of every number alone that are 0 at 0 or not, as it turns out when they are called."""
    ids = _together(record, call.tensors)
    stays = all(bool((x >= 0).all()) for x in call.tensors) and not _at_zero(call)
    return ids.abs().expand(call.shape) if stays else _numbers(record, ids, call.name).expand(call.shape)


def _at_zero(call: Call) -> bool:
    """True if a function gives a number other than 0 where all its tensors are 0."""
    zero = torch.zeros((), dtype=torch.bool if call.kind in ("and", "or", "xor") else torch.float32)
    args = [zero if isinstance(each, Tensor) else each for each in call.args]
    return bool(call.run(*args, **{name: zero if isinstance(each, Tensor) else each for name, each in call.kwargs.items()}))


def _choice(record: Record, call: Call) -> Any:
    """torch.where(condition, a, b): 0 where both are."""
    if len(call.args) != 3:
        return NotImplemented
    ids, sides = _together(record, call.tensors), call.args[1:]
    stays = all(bool((side >= 0).all()) if isinstance(side, Tensor) else side == 0 for side in sides)
    return ids.abs().expand(call.shape) if stays else _numbers(record, ids, call.name).expand(call.shape)


def _filled(record: Record, call: Call) -> Any:
    """x.masked_fill(condition, value)."""
    x, condition, value = (*call.args, *call.kwargs.values())
    return _choice(record, replace(call, args=(condition, value, x), kwargs={}))


def _windows(record: Record, call: Call) -> Any:
    """Pooling, resizing and padding of pixels; with the places that a maximum came from, where they are asked for."""
    x = call.tensors[0]
    n_dims = int(call.kind[-2]) if call.kind[-2:] in ("1d", "2d", "3d") else x.dim() - 2
    if any(varies(x, dim) for dim in range(x.dim() - n_dims, x.dim())):
        return NotImplemented
    values = _resized(record, x, call.shape)
    return (values, _numbers(record, values, call.name)) if isinstance(call.described, tuple) else values


def _sum(record: Record, call: Call) -> Ids:
    a, b = operands(call.args, call.kwargs)
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        tensor, number = (a, b) if isinstance(a, Tensor) else (b, a)
        return copied(tensor) if isinstance(number, int | float) and number == 0 else _numbers(record, tensor, call.name)
    if one := _one_for_all(record, a, b, call.name):
        return _numbers(record, one[1], call.name).expand(call.shape)
    a, b = _met(a, b)
    record.fix(a[b == 0], b[a == 0], reason="meets the zero channels of a padded shortcut")
    record.unite(a, b)
    ids = torch.where(a == 0, b, a).abs()
    return torch.where((a < 0) | (b < 0), -ids, ids).expand(call.shape)


def _product(record: Record, call: Call) -> Ids:
    a, b = operands(call.args, call.kwargs)
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return copied(a if isinstance(a, Tensor) else b)
    if one := _one_for_all(record, a, b, call.name):
        return copied(one[1]).expand(call.shape)
    a, b = _met(a, b)
    record.unite(a, b)
    ids = torch.where(b == 0, 0, a.abs())
    return torch.where((a < 0) & (b < 0), -ids, ids).expand(call.shape)


def _quotient(record: Record, call: Call) -> Any:
    return NotImplemented if isinstance(call.args[1], Tensor) else copied(call.args[0])


def _padding(record: Record, call: Call) -> Any:
    """Numbers around the pixels, or further channels of zeros."""
    x, pads = call.tensors[0], _pads(call)
    if any(pad for dim, pad in pads.items() if varies(x, dim)):
        if not pads_with_own(call.args, call.kwargs):
            return NotImplemented
        return call.run(x.double(), *call.args[1:], **call.kwargs).long()
    for dim in pads:
        x = x.narrow(dim, 0, 1)
    x = x.expand(call.shape)
    value = getattr(call.run, "value", 0) if isinstance(call.run, nn.Module) else not pads_with_own(call.args, call.kwargs)
    return _numbers(record, x, call.name) if value else x


def _pads(call: Call) -> dict[int, bool]:
    """Dimension -> True if something is put before or behind it."""
    found = call.run.padding if isinstance(call.run, nn.Module) else call.kwargs.get("pad", call.args[1:2])
    pads = numbers_in(found if isinstance(found, tuple) else (found,))
    n_dims = call.tensors[0].dim()
    return {n_dims - 1 - place: any(pads[2 * place : 2 * place + 2]) for place in range(len(pads) // 2)}


def _reduction(record: Record, call: Call) -> Any:
    """A sum, mean or extreme over pixels, or of two tensors; with the places of extremes, where PyTorch gives them."""
    if len(call.tensors) > 1:
        return _by_value(record, call)
    x, options = call.tensors[0], {key: value for key, value in call.kwargs.items() if key != "dtype"}
    low, high = (fn(x, *call.args[1:], **options) for fn in (torch.amin, torch.amax))
    if not torch.equal(low, high):
        record.fix(x, reason="is summed over channels")
    ids = _resized(record, low, call.shape)
    return (ids, _numbers(record, ids, call.name)) if isinstance(call.described, tuple) else ids


def _deviation(record: Record, call: Call) -> Any:
    """Standard deviation, variance or norm along dimensions that are named."""
    named = [each for each in call.args[1:2] if call.kind != "norm" and not isinstance(each, bool)]
    dim = call.kwargs.get("dim", *named) if named or "dim" in call.kwargs else None
    if dim is None:
        return NotImplemented
    return _reduction(record, replace(call, args=(call.tensors[0], dim), kwargs={"keepdim": call.kwargs.get("keepdim", False)}))


def _join(record: Record, call: Call) -> Ids:
    return _joined(call.run, *call.args, **call.kwargs)


def _move(record: Record, call: Call) -> Any:
    """Data movement; where repeated pixels make a copy of what is really a view, it is noted."""
    result = (torch.Tensor.reshape if call.kind == "view" else call.run)(*call.args, **call.kwargs)
    x = call.tensors[0]
    if isinstance(result, Tensor) and call.kind != "clone" and memory(result) != memory(x):
        record.unlinked += [x, result]
    return result


def _size(record: Record, call: Call) -> Any:
    sizes = sizes_of(call.tensors[0])
    dim = call.kwargs.get("dim", *call.args[1:2]) if call.kwargs or call.args[1:] else None
    return sizes if dim is None else sizes[dim]


def _view(record: Record, call: Call) -> Any:
    sizes = numbers_in((*call.args[1:], *call.kwargs.values()))
    result = _move(record, call)
    if not _follows(record, result, sizes):
        _hold(record, call)
    return result


def _expand(record: Record, call: Call) -> Any:
    """A tensor repeated to a size that is written down, or read off another one."""
    x = call.tensors[0]
    sizes = sizes_of(call.tensors[1]) if call.kind == "expandas" else numbers_in((*call.args[1:], *call.kwargs.values()))
    result = x.expand(call.shape)
    one = x.reshape((1,) * (len(sizes) - x.dim()) + tuple(x.shape))
    for dim, size in enumerate(sizes):
        if isinstance(size, Width) and one.shape[dim] == 1:
            if varies(result, dim) or len(size.ids) != size or not (small(x) == x.flatten()[0]).all():
                return NotImplemented
            record.fix(x, reason=f"is repeated by {call.name}")
            shape = [-1 if each == dim else 1 for each in range(len(sizes))]
            return _numbers(record, size.ids.reshape(shape), call.name).expand(call.shape)
    fits = [
        _in_step(record, size, along(result, dim)) if isinstance(size, Width) else not varies(result, dim) or size == -1
        for dim, size in enumerate(sizes)
    ]
    if not all(fits):
        _hold(record, call)
    return result


def _zeros(record: Record, call: Call) -> Any:
    """New zeros; as many as a tensor has channels where their number was read off it."""
    sizes = numbers_in((*call.args[len(call.tensors) :], *call.kwargs.get("size", ())))
    result = torch.zeros(call.shape, dtype=torch.int64)
    for dim, size in enumerate(sizes):
        if isinstance(size, Width) and len(size.ids) == size:
            result = result + size.ids.reshape([-1 if each == dim else 1 for each in range(result.dim())])
        elif isinstance(size, Width):
            record.fix(size.ids, reason=f"is counted by {call.name}")
    return result


def _item(record: Record, call: Call) -> Any:
    """A part of a tensor or of a tuple."""
    x, index = call.args
    if not isinstance(x, Tensor):
        return x[index]
    parts = index if isinstance(index, tuple) else (index,)
    if not all(part is None or part is Ellipsis or isinstance(part, int | slice) for part in parts):
        return NotImplemented
    named = sum(part is not None and part is not Ellipsis for part in parts)
    dim = 0
    for part in parts:
        if part is Ellipsis:
            dim += x.dim() - named
        elif part is not None:
            if part != slice(None) and _is_held(x, dim):
                _hold(record, call)
            dim += 1
    return _move(record, call)


def _move_by_width(record: Record, call: Call) -> Any:
    place = DIMENSION.get(call.kind, 0)
    dim = call.kwargs.get("dim", call.args[place] if len(call.args) > place else 0)
    if not place or _is_held(call.tensors[0], dim):
        _hold(record, call)
    return _move(record, call)


def _unknown(record: Record, call: Call) -> Any:
    record.fix(*call.tensors, reason=f"passes {call.name}, which mixes channels or is unknown")
    return record.unknown(call.described, reason=f"comes out of {call.name}")


EFFECTS: Mapping[str, Callable[[Record, Call], Any]] = {
    **dict.fromkeys(ZERO_STAYS_ZERO, _keeps_zero),
    **dict.fromkeys(ZERO_BECOMES_NUMBER, _makes_numbers),
    **dict.fromkeys(BY_VALUE, _by_value),
    "zeroslike": lambda record, call: small(call.tensors[0]).abs().expand(call.shape),
    "where": _choice,
    "maskedfill": _filled,
    **dict.fromkeys(WINDOWS, _windows),
    **dict.fromkeys(SUMS, _sum),
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(QUOTIENTS, _quotient),
    **dict.fromkeys(("pad", "constantpad1d", "constantpad2d", "constantpad3d"), _padding),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(DEVIATIONS, _deviation),
    **dict.fromkeys(JOINS, _join),
    **dict.fromkeys(MOVES, _move),
    "size": _size,
    **dict.fromkeys(VIEWS, _view),
    **dict.fromkeys(("expand", "expandas"), _expand),
    **dict.fromkeys(ZEROS, _zeros),
    "getitem": _item,
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


def _numbers(record: Record, x: Ids, name: str) -> Ids:
    """The same channels, no longer 0 where their filters are; what was always 0 is a number that may not go."""
    ids = -small(x).abs()
    if bool((zero := ids == 0).any()):
        ids[zero] = record.fresh((1,), reason=f"a constant of {name}")
    return ids.expand(x.shape)


def _resized(record: Record, x: Ids, shape: tuple[int, ...]) -> Ids:
    """The same channels in another shape."""
    return copied(x) if tuple(x.shape) == shape or x.dim() < 3 else spread(by_channel(record, x), shape)


def _met(a: Ids, b: Ids) -> tuple[Ids, Ids]:
    """Both with the same shape, without the pixels that are repetitions in both."""
    a, b = torch.broadcast_tensors(small(a), small(b))
    return a, b


def _together(record: Record, tensors: Sequence[Ids]) -> Ids:
    """The channels of tensors that meet number by number, without repetitions of pixels."""
    ids, *others = map(small, tensors)
    for other in others:
        if one := _one_for_all(record, ids, other, "a comparison"):
            ids = one[1]
        else:
            ids, other = _met(ids, other)
            record.unite(ids, other)
    return ids


def _one_for_all(record: Record, a: Ids, b: Ids, name: str) -> tuple[Ids, Ids] | None:
    """The tensor whose one channel meets all of the other one, and that other one; it stays, and ties nothing."""
    for one, other in ((a, b), (b, a)):
        single = one.numel() == 1 or one.dim() > 1 and one.shape[1] == 1 and small(one).numel() == 1
        if single and other.dim() > 1 and other.shape[1] > 1 and other.dim() >= one.dim():
            record.fix(one, reason=f"meets all channels at once in {name}")
            return one, other
    return None


def _follows(record: Record, result: Any, sizes: tuple[Any, ...]) -> bool:
    """True if a view to `sizes` has its channels along one dimension, whose size is left open or counts them."""
    if not isinstance(result, Tensor) or len(sizes) != result.dim():
        return False
    channels = [dim for dim in range(result.dim()) if varies(result, dim)]
    if len(channels) > 1 or any(isinstance(size, Width) and dim not in channels for dim, size in enumerate(sizes)):
        return False
    for dim in channels:
        if sizes[dim] != -1 and not _in_step(record, sizes[dim], along(result, dim)):
            return False
    return True


def _in_step(record: Record, size: Any, ids: Ids) -> bool:
    """True if a size falls in step with these channels; the number of another tensor's channels ties them to those."""
    if isinstance(size, Width) and size.in_step and len(size.ids) == len(ids) == size and not counted(size, ids):
        record.unite(size.ids, ids)
        return True
    return counted(size, ids)


def _is_held(x: Ids, dim: int) -> bool:
    """True for dimensions of which no part can be taken alone: channels, and images, without which channels come first."""
    return dim % x.dim() == 0 or varies(x, dim)


def _hold(record: Record, call: Call) -> None:
    """Nothing that an operation reads may go."""
    record.fix(*call.tensors, reason=f"passes {call.name}, which depends on the width")


def _joined(run: Callable[..., Ids], tensors: Sequence[Ids], dim: int = 0) -> Ids:
    """A concatenation; the pixels of channels that are each of one piece stay repetitions."""
    pieces = [small(x) for x in tensors]
    if dim == 1 and all(x.shape[2:].numel() == 1 for x in pieces):
        return run(pieces, dim).expand(-1, -1, *tensors[0].shape[2:])
    return run(tensors, dim)
