"""Effects of operations that leave the numbers as they are and put them elsewhere: views, parts, joins, repetitions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from runners.tracing.call import Call, as_numbers, hold, memory
from runners.tracing.operations import DIMENSION, JOINS, MOVES, MOVES_BY_WIDTH, VIEWS, ZEROS, numbers_in
from runners.tracing.record import Ids, Record, small
from runners.tracing.widths import Width, along, counted, sizes_of, varies


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
        hold(record, call)
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
            return as_numbers(record, size.ids.reshape(shape), call.name).expand(call.shape)
    fits = [
        _in_step(record, size, along(result, dim)) if isinstance(size, Width) else not varies(result, dim) or size == -1
        for dim, size in enumerate(sizes)
    ]
    if not all(fits):
        hold(record, call)
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
                hold(record, call)
            dim += 1
    return _move(record, call)


def _move_by_width(record: Record, call: Call) -> Any:
    place = DIMENSION.get(call.kind, 0)
    dim = call.kwargs.get("dim", call.args[place] if len(call.args) > place else 0)
    if not place or _is_held(call.tensors[0], dim):
        hold(record, call)
    return _move(record, call)


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


def _joined(run: Callable[..., Ids], tensors: Sequence[Ids], dim: int = 0) -> Ids:
    """A concatenation; the pixels of channels that are each of one piece stay repetitions."""
    pieces = [small(x) for x in tensors]
    if dim == 1 and all(x.shape[2:].numel() == 1 for x in pieces):
        return run(pieces, dim).expand(-1, -1, *tensors[0].shape[2:])
    return run(tensors, dim)


MOVEMENT: Mapping[str, Callable[[Record, Call], Any]] = {
    **dict.fromkeys(JOINS, _join),
    **dict.fromkeys(MOVES, _move),
    "size": _size,
    **dict.fromkeys(VIEWS, _view),
    **dict.fromkeys(("expand", "expandas"), _expand),
    **dict.fromkeys(ZEROS, _zeros),
    "getitem": _item,
    **dict.fromkeys(MOVES_BY_WIDTH, _move_by_width),
}
