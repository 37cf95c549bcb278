"""The first layer at which a smaller network and the masked one part, in order of execution."""

from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from runners.pruning.passing import Pass, tensors_in
from runners.tracing.channels import Channels, Removed

SMALL = 1e-6  # what is smaller is compared as if it were as large
INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True)
class Seen:
    """A tensor that went into a module, or came out; `dim` is that of its channels."""

    name: str
    side: str
    dim: int
    value: Tensor


@dataclass(frozen=True)
class Parting:
    """The place at which two networks first differ, and the last layer before it that lost filters."""

    where: str
    pruned: str


def relative_difference(expected: Tensor, found: Tensor) -> float:
    """Largest difference, as a share of the largest number in `expected`; the same nan or infinity is no difference."""
    if expected.shape != found.shape:
        return inf
    expected, found = expected.cpu(), found.cpu()  # not every device has float64
    if not expected.is_complex():
        expected, found = expected.double(), found.double()
    same = (expected == found) | (expected.isnan() & found.isnan())
    if same.all():
        return 0.0
    apart = (expected - found).abs().masked_fill(same, 0).nan_to_num(nan=inf, posinf=inf).max()
    largest = expected.abs().nan_to_num(nan=0, posinf=0).max()
    return float(apart / largest.clamp(min=SMALL))


def parting(
    masked: nn.Module, smaller: nn.Module, channels: Channels, removed: Removed, passed: Pass, tolerance: float
) -> Parting:
    """The first layer whose input or output is another one in `smaller`, of the channels that it keeps."""
    names = {
        name
        for name, module in masked.named_modules()
        if name in channels.reads or any(value is not None for value in module._parameters.values())
    }
    kept = _kept_channels(channels, removed)
    found = _trail(smaller, passed, names)
    pruned = [layer for layer, filters in removed.items() if filters]
    until, name = pruned[0], ""
    for number, seen in enumerate(_trail(masked, passed, names)):
        name = seen.name
        if seen.side == OUTPUT and name in pruned:
            until = name
        other = found[number] if number < len(found) else None
        if other is None or (other.name, other.side) != (name, seen.side) or _apart(seen, other, kept) > tolerance:
            return Parting(f"the {seen.side} of {name}", until)
    return Parting(f"what comes after {name}", until)


def _apart(expected: Seen, found: Seen, kept: Mapping[tuple[str, str], Tensor]) -> float:
    """The difference of what is left of one tensor."""
    value, index = expected.value, kept.get((expected.name, expected.side))
    if index is not None and value.dim() > expected.dim and value.shape[expected.dim] == len(index):
        value = value[:, index] if expected.dim == 1 else value[..., index]
    return relative_difference(value, found.value)


def _kept_channels(channels: Channels, removed: Removed) -> dict[tuple[str, str], Bool[Tensor, " channels"]]:
    """(module, side) -> true for the channels that stay, of every module whose channels are known."""
    gone = [channels.writes[layer][list(filters)] for layer, filters in removed.items()]
    groups = {(name, INPUT): read for name, read in channels.reads.items()}
    groups |= {(name, OUTPUT): channels.writes.get(name, read) for name, read in channels.reads.items()}
    return {place: torch.from_numpy(~np.isin(each, np.concatenate(gone))) for place, each in groups.items()}


def _trail(network: nn.Module, passed: Pass, names: Collection[str]) -> list[Seen]:
    """All that passes through the modules of these names, as far as the network gets."""
    trail: list[Seen] = []

    def note(at: tuple[str, str, int], value: Any) -> None:
        # A copy, since what comes next may change it in place.
        trail.extend(Seen(*at, tensor.to("cpu", copy=True)) for tensor in tensors_in(value))

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            if name in names:
                dim = -1 if isinstance(module, nn.Linear) else 1
                before = partial(lambda at, module, inputs: note(at, inputs), (name, INPUT, dim))
                after = partial(lambda at, module, inputs, output: note(at, output), (name, OUTPUT, dim))
                hooks.callback(module.register_forward_pre_hook(before).remove)
                hooks.callback(module.register_forward_hook(after).remove)
        with suppress(Exception):  # whatever ended it ends it again, and the trail says where
            passed(network)
    return trail
