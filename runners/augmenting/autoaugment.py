"""AutoAugment: every image of a batch is changed by a sub-policy of its own, on the device."""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from jaxtyping import Float, Int64
from torch import Tensor

from runners.augmenting.draws import Draws, Pixels
from runners.augmenting.operations import NOTHING, Operation, Tables, apply, operation, tables
from runners.augmenting.policies import POLICIES

SUB_POLICY, USED, SIGN = 0, (1, 2), (3, 4)


def autoaugment(
    pixels: Pixels,
    draws: Draws,
    *,
    learnt_on: Literal["cifar10", "svhn", "imagenet"],
    fill: Annotated[int, Ge(0), Le(255)],
) -> Pixels:
    """Images after the two operations of a sub-policy each; every operation is used by its probability, its sign is drawn.

    To the bit what torchvision's AutoAugment (nearest neighbours) makes of each image alone from the same draws.

    Args:
        learnt_on: the data set by which the sub-policies were found.
        fill: value of pixels that come from outside the image.

    Raises:
        ValueError: images have neither one channel nor three.

    Source:
        Cubuk et al. 2019, "AutoAugment: Learning augmentation strategies from data", section 3 and the appendix; magnitudes
        and signs as in torchvision.
    """
    if pixels.shape[1] not in (1, 3):
        raise ValueError(f"autoaugment changes images of 1 or 3 channels, and these have {pixels.shape[1]}")
    channels, height, width = pixels.shape[1:]
    which = draws.integers(len(POLICIES[learnt_on]), SUB_POLICY)
    pixels = pixels.contiguous()
    for place in _places(learnt_on, (channels, height, width), fill, pixels.device):
        used = draws.uniform(place.used) <= place.chances.index_select(0, which)
        signed = place.rows.index_select(0, which).gather(1, draws.integers(2, place.sign)[:, None])[:, 0]
        pixels = apply(pixels, signed * used, place.tables)
    return pixels


@dataclass(frozen=True)
class Place:
    """The first or the second operations of all sub-policies.

    Args:
        used: number of the draw that is compared with the probabilities.
        sign: number of the draw of signs, 0 for a negative one.
        rows: of the operations in the tables, by sub-policy and sign; row 0 does nothing.
    """

    used: int
    sign: int
    chances: Float[Tensor, " policies"]
    rows: Int64[Tensor, "policies 2"]
    tables: Tables


@cache
def _places(learnt_on: str, shape: tuple[int, int, int], fill: int, device: torch.device) -> list[Place]:
    """Both places of a policy for images of `shape`; kept, since captured steps read them."""
    steps = [[pair[place] for pair in POLICIES[learnt_on]] for place in range(2)]
    return [_place(*each, shape, fill, device) for each in zip(steps, USED, SIGN, strict=True)]


def _place(
    steps: list[tuple[str, float, int]], used: int, sign: int, shape: tuple[int, int, int], fill: int, device: torch.device
) -> Place:
    _, height, width = shape
    signed = [
        [operation(name, level, negative=negative, height=height, width=width) for negative in (True, False)]
        for name, _, level in steps
    ]
    distinct: list[Operation] = list(dict.fromkeys([NOTHING, *sum(signed, [])]))
    rows = torch.tensor([[distinct.index(each) for each in pair] for pair in signed], device=device)
    chances = torch.tensor([probability for _, probability, _ in steps], device=device)
    return Place(used, sign, chances, rows, tables(distinct, shape, fill=fill, device=device))
