"""Criteria from the input of a layer."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float64
from torch import Tensor

from criteria.criterion import DataCriterion
from criteria.layer import CHUNK, Inputs, Scores, Weights


@dataclass(frozen=True)
class Wanda(DataCriterion):
    """Sum over a filter's weights of their size times the norm of their input channel.  [weight units x activation units]

    score_j = sum over c, k of |W_jck| * sqrt(sum over images and positions of x_c^2), with x_c the input channel c without
    its padding. If two channels have the norms 3 and 10, the filter (2, 0) scores 6 and the filter (0, -1) scores 10, although
    `l1` has them the other way round. Norms grow with the square root of the number of images, alike for all filters.

    Source:
        Sun et al. 2023, "A simple and effective pruning approach for large language models", equation 1, scores single
        weights of linear layers. The sum over a whole filter, and over positions of a feature map, is ours.
    """

    images: Annotated[int, Ge(1)] | None = None

    def reduce(self, batch: Inputs) -> Float64[Tensor, " in"]:
        """Squared norm of each input channel."""
        return torch.stack([chunk.double().square().sum((0, 2, 3)) for chunk in batch.maps.split(CHUNK)]).sum(0)

    def finish(self, state: Float64[Tensor, " in"], layer: Weights) -> Scores:
        """Weights times norms: the filters of one group of a convolution read that group's channels."""
        sizes = layer.filters.abs().view(*layer.weight.shape[:2], -1).sum(2)
        groups = len(state) // sizes.shape[1]
        return (sizes.unflatten(0, (groups, -1)) @ state.sqrt().view(groups, -1, 1)).flatten()
