"""Cutout: a square of every image is erased."""

from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Bool, Int64
from torch import Tensor

from runners.augmenting.draws import Draws, Normalised

DOWN, RIGHT = range(2)


def cutout(x: Normalised, draws: Draws, *, length: Annotated[int, Ge(1)]) -> Normalised:
    """Images with one square of zeros each, the mean colour.

    Its centre is a uniform pixel of the image, so that part of the square may lie outside.

    Args:
        length: pixels of a side; of an even one, the centre is the first pixel of the second half.

    Raises:
        ValueError: the square covers all of every image.

    Source:
        DeVries and Taylor 2017, "Improved regularization of convolutional neural networks with Cutout", section 3.
    """
    height, width = x.shape[2:]
    if (length + 1) // 2 >= max(height, width):
        raise ValueError(f"length={length} erases all of every {height}x{width} image; try length={max(height, width) // 2}")
    rows = _covered(height, draws.integers(height, DOWN) - length // 2, length)
    columns = _covered(width, draws.integers(width, RIGHT) - length // 2, length)
    square = (rows[:, :, None] & columns[:, None, :])[:, None]
    return x.clone().masked_fill_(square, 0)  # a copy, since masked_fill would lose channels-last


def _covered(size: int, first: Int64[Tensor, " images"], length: int) -> Bool[Tensor, "images size"]:
    """The places of a row of `size` among the `length` ones from `first` on, which may be negative."""
    offset = torch.arange(size, device=first.device) - first[:, None]
    return (offset >= 0) & (offset < length)
