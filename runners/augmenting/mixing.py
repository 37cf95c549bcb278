"""Mixup and CutMix: every image of a batch is made of two, the second one from a random permutation of the batch."""

from functools import cache
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float, Int64
from scipy.special import betaincinv
from torch import Tensor

from runners.augmenting.draws import Draws, Mixture, Normalised

PARTNER, SHARE, MIXED, DOWN, RIGHT = range(5)
# Steps of the table of quantiles: the distribution function of what is drawn is off by less than one of them.
RESOLUTION = 2**14


def mixup(
    x: Normalised, labels: Int64[Tensor, " images"], draws: Draws, *, alpha: Annotated[float, Gt(0)]
) -> tuple[Normalised, Mixture]:
    """Weighted means of two images each: share * x + (1 - share) * partner, the share drawn from Beta(alpha, alpha).

    One share for the batch, and partners from a permutation of it, as in the authors' code; the paper draws pairs.

    Source:
        Zhang et al. 2018, "mixup: Beyond empirical risk minimization", equation 1; alpha 1 for CIFAR-10 (section 3.2), 0.2
        for ImageNet (section 3.1).
    """
    share, partner = beta(draws.once.uniform(SHARE), alpha), draws.permutation(PARTNER)
    weight = share[:, None, None, None]
    return x * weight + _selected(x, partner) * (1 - weight), _mixture(labels, partner, share)


def cutmix(
    x: Normalised,
    labels: Int64[Tensor, " images"],
    draws: Draws,
    *,
    alpha: Annotated[float, Gt(0)],
    probability: Annotated[float, Ge(0), Le(1)],
) -> tuple[Normalised, Mixture]:
    """Images with a box of their partner each, the same box in all images of the batch.

    The box has the image's shape and 1 - lambda of its area, lambda drawn from Beta(alpha, alpha); its centre is a uniform
    pixel, and what lies outside the image is cut off. The share of a label is the area that is left of its image.

    Args:
        probability: of a batch to be mixed at all.

    Source:
        Yun et al. 2019, "CutMix: Regularization strategy to train strong classifiers with localizable features", section
        3.1. Half the box's sides are rounded down, as in the authors' code, which mixes every second batch of CIFAR and
        every batch of ImageNet.
    """
    height, width = x.shape[2:]
    draw, partner = draws.once, draws.permutation(PARTNER)
    side = (1 - beta(draw.uniform(SHARE), alpha)).sqrt() * (draw.uniform(MIXED) < probability)
    rows = _around(height, draw.integers(height, DOWN), side)
    box = rows[:, None] & _around(width, draw.integers(width, RIGHT), side)
    return torch.where(box, _selected(x, partner), x), _mixture(labels, partner, (~box).sum()[None] / box.numel())


def beta(uniform: Float[Tensor, " n"], alpha: float) -> Float[Tensor, " n"]:
    """Draws of Beta(alpha, alpha) out of uniform ones in [0, 1): quantiles, straight lines between those of a table."""
    table, place = _quantiles(alpha, uniform.device), uniform * RESOLUTION
    below = place.long()
    low, high = table.index_select(0, below), table.index_select(0, below + 1)
    return low + (high - low) * (place - below)


@cache
def _quantiles(alpha: float, device: torch.device) -> Float[Tensor, " quantiles"]:
    """Quantiles of Beta(alpha, alpha) at 0, 1 / RESOLUTION, ..., 1."""
    found = betaincinv(alpha, alpha, np.linspace(0, 1, RESOLUTION + 1))
    return torch.from_numpy(found).float().to(device)


def _around(size: int, centre: Int64[Tensor, "1"], share: Float[Tensor, "1"]) -> Bool[Tensor, " size"]:
    """The places of a row of `size` in a box around `centre` that takes `share` of it."""
    place, half = torch.arange(size, device=centre.device), (share * size).long() // 2
    return (place >= centre - half) & (place < centre + half)


def _selected(x: Normalised, partner: Int64[Tensor, " images"]) -> Normalised:
    """Images in another order, in the memory format that they have."""
    return x.permute(0, 2, 3, 1).index_select(0, partner).permute(0, 3, 1, 2)


def _mixture(labels: Int64[Tensor, " images"], partner: Int64[Tensor, " images"], share: Float[Tensor, "1"]) -> Mixture:
    return Mixture(labels, labels.index_select(0, partner), share.expand(len(labels)))
