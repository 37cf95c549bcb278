"""The effect of every kind of operation on the ids of channels; of those that are not known, and of changes in place."""

from typing import Any

import torch

from runners.tracing.arithmetic import ARITHMETIC
from runners.tracing.call import Call, memory
from runners.tracing.movement import MOVEMENT
from runners.tracing.record import Ids, Record, small

EFFECTS = {**ARITHMETIC, **MOVEMENT}


def effect(record: Record, call: Call) -> Any:
    """The ids of what an operation gives; of operations that are not known, new ids that may not go."""
    found = EFFECTS.get(call.kind, _unknown)(record, call)
    return _unknown(record, call) if found is NotImplemented else found


def _unknown(record: Record, call: Call) -> Any:
    record.fix(*call.tensors, reason=f"passes {call.name}, which mixes channels or is unknown")
    return record.unknown(call.described, reason=f"comes out of {call.name}")


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
