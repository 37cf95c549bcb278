"""Numbers that a network reads off a tensor's shape and that follow the number of its channels.

y = conv(x)           y: 1 x 8 x 32 x 32, with the ids 1 to 8 along dimension 1
y.shape               (1, Width(8), 32, 32): the 8 counts those channels, the 32 do not
y.shape[1] * 4        Width(32), in step: half of the channels would make half of it
y.shape[1] ** -0.5    WidthFloat(0.35): changes in another way; whoever computes with it holds the channels
"""

from typing import Any

import torch

from runners.tracing.record import Ids


class Width(int):
    """A whole number that depends on how many of the channels `ids` there are; `in_step`: as many times as they are."""

    ids: Ids
    in_step: bool


class WidthFloat(float):
    """Any other number that depends on how many of the channels `ids` there are."""

    ids: Ids
    in_step = False


def width(number: float | int, ids: Ids, *, in_step: bool) -> Width | WidthFloat:
    """A number with the channels that it depends on."""
    if isinstance(number, int):
        whole = Width(number)
        whole.ids, whole.in_step = ids, in_step
        return whole
    other = WidthFloat(number)
    other.ids = ids
    return other


def widths_in(found: Any) -> list[Width | WidthFloat]:
    """All numbers in nested arguments that depend on channels."""
    if isinstance(found, Width | WidthFloat):
        return [found]
    if isinstance(found, slice):
        found = (found.start, found.stop, found.step)
    parts = found if isinstance(found, tuple | list) else found.values() if isinstance(found, dict) else ()
    return [number for part in parts for number in widths_in(part)]


def varies(x: Ids, dim: int) -> bool:
    """True if there are several channels along a dimension."""
    return x.shape[dim] > 1 and x.stride(dim) != 0 and not bool((x == x.narrow(dim, 0, 1)).all())


def along(x: Ids, dim: int) -> Ids:
    """The channels along a dimension, at the first place of all others."""
    return x.movedim(dim, 0).reshape(x.shape[dim], -1)[:, 0]


def sizes_of(x: Ids) -> tuple[int, ...]:
    """The shape of a tensor; a dimension of channels has a `Width`."""
    return tuple(
        width(size, along(x, dim).abs(), in_step=True) if varies(x, dim) else size  # type: ignore[misc]
        for dim, size in enumerate(x.shape)
    )


def counted(number: Any, channels: Ids) -> bool:
    """True if `number` falls in step with these channels: each of them counts equally often in it and among them."""
    if not (isinstance(number, Width) and number.in_step):
        return False
    (theirs, n_theirs), (ours, n_ours) = (torch.unique(ids.abs(), return_counts=True) for ids in (number.ids, channels))
    return torch.equal(theirs, ours) and bool((n_ours * n_theirs[0] == n_theirs * n_ours[0]).all())
