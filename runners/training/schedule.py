"""Learning-rate schedules: the factor on the base rate at a time measured in epochs."""

from collections.abc import Sequence
from math import cos, pi
from typing import Annotated

from annotated_types import Ge, Gt


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
