"""One operation of a network on ids, and what several effects do with its channels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
        """The shape of its output; of several outputs, of the first."""
        first = self.described[0] if isinstance(self.described, tuple) and self.described else self.described
        return tuple(getattr(first, "shape", ()))


def as_numbers(record: Record, x: Ids, name: str) -> Ids:
    """The same channels, no longer 0 where their filters are; what was always 0 is a number that may not go."""
    ids = -small(x).abs()
    if bool((zero := ids == 0).any()):
        ids[zero] = record.fresh((1,), reason=f"a constant of {name}")
    return ids.expand(x.shape)


def resized(record: Record, x: Ids, shape: tuple[int, ...]) -> Ids:
    """The same channels in another shape."""
    return copied(x) if tuple(x.shape) == shape or x.dim() < 3 else spread(by_channel(record, x), shape)


def memory(x: Ids) -> int:
    """The address that a tensor shares with its views."""
    return x.untyped_storage().data_ptr()


def hold(record: Record, call: Call) -> None:
    """Nothing that an operation reads may go."""
    record.fix(*call.tensors, reason=f"passes {call.name}, which depends on the width")
