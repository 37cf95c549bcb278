"""Criteria from what a convolution puts out."""

from dataclasses import dataclass
from math import pi
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from criteria.layer import Activations, DataCriterion, Scores, Site

# Of the logarithm of the quadrature's variable. The error of the trapezoidal rule falls as exp(-pi^2 / STEP).
STEP = 0.5
NODES = torch.arange(-22, 20, STEP, dtype=torch.float64)
# Images at a time: what they take stays in the cache.
CHUNK = 16
# A singular value that is taken for zero; its square is still a number.
SMALLEST = 1e-100


@dataclass(frozen=True)
class APoZ(DataCriterion):
    """Share of output positions whose magnitude exceeds `threshold`: of the **non**-zeros.  [0..1]

    Source:
        NeurIPS'21, appendix K. Hu et al. 2016, "Network trimming", count the zeros and prune the highest: the same order.
        The appendix divides by the number of inputs; this divides by that of outputs, so that layers compare.
    """

    threshold: float = 1e-4
    site: Site = "post_act"

    def reduce(self, batch: Activations) -> Float64[Tensor, "2 out"]:
        """How many positions exceed the threshold, and how many there are."""
        # Ones and zeros as numbers, in place and few at a time: a sum of booleans, or of what leaves the cache, is slow.
        counts = [chunk.abs().gt_(self.threshold).sum((0, 2, 3)) for chunk in batch.maps.split(CHUNK)]
        count = torch.stack(counts).double().sum(0)
        images, _, height, width = batch.maps.shape
        return torch.stack([count, torch.full_like(count, images * height * width)])

    def finish(self, state: Float64[Tensor, "2 out"]) -> Scores:
        """The share."""
        return state[0] / state[1]


@dataclass(frozen=True)
class Entropy(DataCriterion):
    """Entropy of the histogram of each channel's mean output over the images.  [nats]

    `bins` of equal width span each channel's own range; 0 for a channel that never changes.

    Source:
        Luo & Wu 2017, "An entropy-based pruning method for CNN compression", section 3.2: 100 bins.
    """

    joins: ClassVar[bool] = True
    bins: int = 100
    site: Site = "post_act"

    def reduce(self, batch: Activations) -> Float[Tensor, "images out"]:
        """The mean outputs themselves: their range is known only at the end."""
        return batch.averages

    def finish(self, state: Float[Tensor, "images out"]) -> Scores:
        """Entropy, channel by channel."""
        averages = state.double()
        low, high = averages.aminmax(dim=0)
        width = torch.where(high > low, high - low, 1)
        place = ((averages - low) / width * self.bins).long().clamp(max=self.bins - 1)
        counts = torch.zeros(self.bins, state.shape[1], dtype=torch.float64, device=state.device)
        share = counts.scatter_add_(0, place, torch.ones_like(averages)) / len(averages)
        return torch.special.entr(share).sum(0)


@dataclass(frozen=True)
class HRank(DataCriterion):
    """Mean rank of each channel's feature maps, as matrices.  [1]

    Source:
        Lin et al. 2020, "HRank: filter pruning using high-rank feature map": the average rank over 500 images.
    """

    images: int | None = 500
    site: Site = "post_act"

    def reduce(self, batch: Activations) -> Float64[Tensor, "2 out"]:
        """Sum of the ranks, and how many images there are."""
        ranks = torch.linalg.matrix_rank(batch.maps).double().sum(0)
        return torch.stack([ranks, torch.full_like(ranks, len(batch.maps))])

    def finish(self, state: Float64[Tensor, "2 out"]) -> Scores:
        """Mean over images."""
        return state[0] / state[1]


@dataclass(frozen=True)
class CHIP(DataCriterion):
    """Mean loss of nuclear norm when a channel's feature map is set to zero: its independence.  [activation units]

    Source:
        Sui et al. 2021, "CHIP: channel independence-based pruning for compact neural networks": the change of the nuclear
        norm by one channel, over 640 images.
        Computed from one decomposition an image in place of one for every channel; see `nuclear_losses`.
    """

    images: int | None = 640
    site: Site = "post_act"

    def reduce(self, batch: Activations) -> Float64[Tensor, "2 out"]:
        """Sum of the losses, and how many images there are."""
        chunks = batch.maps.flatten(2).split(CHUNK)
        losses = torch.stack([nuclear_losses(chunk.double()).sum(0) for chunk in chunks]).sum(0)
        return torch.stack([losses, torch.full_like(losses, len(batch.maps))])

    def finish(self, state: Float64[Tensor, "2 out"]) -> Scores:
        """Mean over images."""
        return state[0] / state[1]


def nuclear_losses(rows: Float64[Tensor, "images out positions"]) -> Float64[Tensor, "images out"]:
    """Nuclear norm of each matrix, less that of the matrix without row j, for every j.

    With G = A A^T, the nuclear norm of A is tr sqrt(G), and leaving row j out leaves a principal submatrix whose
    determinant is det(G + s) times the diagonal of (G + s)^-1. From sqrt(x) = 1/pi * integral of x / (x + s) / sqrt(s) ds,
    by parts and with s = t^2,

        loss_j = -1/pi * integral from 0 to infinity of log(sum_k U_jk^2 t^2 / (lambda_k + t^2)) dt,

    where U and lambda are the eigenvectors and eigenvalues of G. The logarithm is smooth on a scale of log t, so that the
    trapezoidal rule takes 84 nodes to an error of 1e-8 of the largest singular value.
    """
    part, squares = _decomposed(rows)
    top = squares.amax(1).sqrt().clamp(min=SMALLEST)
    t = top[:, None] * NODES.to(top.device).exp()
    s = t.square()[:, None]
    total = squares[:, :, None] + s
    outside = (1 - part.sum(2, keepdim=True)).clamp(min=0)
    large, small = part @ (squares[:, :, None] / total), part @ (s / total) + outside
    # The argument of the logarithm is `small`, and one less `large`: each is exact where it is small.
    log = torch.where(large < 0.5, torch.log1p(-large.clamp(max=0.5)), small.log())
    return -(log @ t[:, :, None])[..., 0] * STEP / pi


def _decomposed(
    rows: Float64[Tensor, "images out positions"],
) -> tuple[Float64[Tensor, "images out rank"], Float64[Tensor, "images rank"]]:
    """Squared left singular vectors, and squared singular values; of two ways, the faster."""
    if rows.shape[1] > rows.shape[2]:
        left, values, _ = torch.linalg.svd(rows, full_matrices=False)
        return left.square(), values.square()
    squares, left = torch.linalg.eigh(rows @ rows.mT)
    return left.square(), squares.clamp(min=0)
