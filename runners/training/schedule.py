"""Learning-rate schedules: the factor on the base rate at a time measured in epochs."""

from collections.abc import Sequence
from math import cos, pi
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

Share = Annotated[float, Ge(0), Le(1)]


def steps(time: float, epochs: int, *, milestones: Sequence[Annotated[float, Ge(0)]], gamma: Annotated[float, Gt(0)]) -> float:
    """`gamma` to the power of the milestones passed.  [factor]"""
    return gamma ** sum(time >= milestone for milestone in milestones)


def constant(time: float, epochs: int) -> float:
    """Always one.  [factor]"""
    return 1.0


def cosine(time: float, epochs: int, *, warmup_epochs: Annotated[float, Ge(0)]) -> float:
    """A linear rise over `warmup_epochs`, then half a cosine down to zero.  [factor]"""
    if time < warmup_epochs:
        return time / warmup_epochs
    return (1 + cos(pi * (time - warmup_epochs) / max(epochs - warmup_epochs, 1e-9))) / 2


def one_cycle(
    time: float,
    epochs: int,
    *,
    rise: Literal["linear", "cosine"],
    peak: Annotated[float, Gt(0), Lt(1)],
    start: Share,
    end: Share,
) -> float:
    """A rise from `start` to one over a share `peak` of the epochs, then half a cosine down to `end`.  [factor]

    Source:
        Smith 2018, "A disciplined approach to neural network hyper-parameters: part 1", section 4, whose fall is linear; the
        cosine is that of PyTorch's OneCycleLR. Momentum stays as it is.
    """
    share = time / max(epochs, 1e-9)
    if share >= peak:
        return _between(1.0, end, _half_cosine((share - peak) / (1 - peak)))
    return _between(start, 1.0, share / peak if rise == "linear" else _half_cosine(share / peak))


def _half_cosine(share: float) -> float:
    """From 0 at 0 to 1 at 1, level at both ends."""
    return (1 - cos(pi * share)) / 2


def _between(first: float, last: float, share: float) -> float:
    return first + (last - first) * share
