"""Effects of operations that make other numbers: functions of single numbers, of several tensors, of neighbours and sums."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from runners.tracing.call import Call, as_numbers, resized
from runners.tracing.operations import (
    BY_VALUE,
    DEVIATIONS,
    PRODUCTS,
    QUOTIENTS,
    REDUCTIONS,
    SUMS,
    WINDOWS,
    ZERO_BECOMES_NUMBER,
    ZERO_STAYS_ZERO,
    numbers_in,
    operands,
    pads_with_own,
)
from runners.tracing.record import Ids, Record, copied, small
from runners.tracing.widths import varies


def _keeps_zero(record: Record, call: Call) -> Ids:
    return copied(call.tensors[0])


def _makes_numbers(record: Record, call: Call) -> Ids:
    return as_numbers(record, call.tensors[0], call.name)


def _by_value(record: Record, call: Call) -> Any:
    """Functions of every number alone that are 0 at 0 or not, as it turns out when they are called."""
    ids = _together(record, call.tensors)
    stays = all(bool((x >= 0).all()) for x in call.tensors) and not _at_zero(call)
    return ids.abs().expand(call.shape) if stays else as_numbers(record, ids, call.name).expand(call.shape)


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
    return ids.abs().expand(call.shape) if stays else as_numbers(record, ids, call.name).expand(call.shape)


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
    values = resized(record, x, call.shape)
    return (values, as_numbers(record, values, call.name)) if isinstance(call.described, tuple) else values


def _sum(record: Record, call: Call) -> Ids:
    a, b = operands(call.args, call.kwargs)
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        tensor, number = (a, b) if isinstance(a, Tensor) else (b, a)
        return copied(tensor) if isinstance(number, int | float) and number == 0 else as_numbers(record, tensor, call.name)
    if one := _one_for_all(record, a, b, call.name):
        return as_numbers(record, one[1], call.name).expand(call.shape)
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
    record.scale(a, b)
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
    return as_numbers(record, x, call.name) if value else x


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
    ids = resized(record, low, call.shape)
    return (ids, as_numbers(record, ids, call.name)) if isinstance(call.described, tuple) else ids


def _deviation(record: Record, call: Call) -> Any:
    """Standard deviation, variance or norm along dimensions that are named."""
    named = [each for each in call.args[1:2] if call.kind != "norm" and not isinstance(each, bool)]
    dim = call.kwargs.get("dim", *named) if named or "dim" in call.kwargs else None
    if dim is None:
        return NotImplemented
    return _reduction(record, replace(call, args=(call.tensors[0], dim), kwargs={"keepdim": call.kwargs.get("keepdim", False)}))


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


ARITHMETIC: Mapping[str, Callable[[Record, Call], Any]] = {
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
}
