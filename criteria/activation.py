"""Criteria from the output of a convolution."""

from dataclasses import dataclass
from math import pi
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from criteria.criterion import DataCriterion, MeanOverImages, Site
from criteria.layer import CHUNK, Activations, Scores

# Of the logarithm of the quadrature's variable. The error of the trapezoidal rule falls as exp(-pi^2 / STEP).
STEP = 0.5
NODES = torch.arange(-22, 20, STEP, dtype=torch.float64)
# A singular value that is taken for zero; its square is still a number.
SMALLEST = 1e-100


@dataclass(frozen=True)
class APoZ(MeanOverImages):
    """Share of output positions whose magnitude exceeds `threshold`: of the **non**-zeros.  [0..1]

    Source:
        NeurIPS'21, appendix K. Hu et al. 2016, "Network trimming", count the zeros and prune the highest: the same order.
        The appendix divides by the number of inputs; this divides by that of outputs, so that layers compare.
    """

    chunk: ClassVar[int | None] = CHUNK
    threshold: Annotated[float, Ge(0)] = 1e-4
    site: Site = "post_act"

    def score(self, batch: Activations) -> Float[Tensor, "images out h w"]:
        """1 at each position that exceeds the threshold, 0 at the others."""
        # Ones and zeros as numbers, in place: a sum of booleans is slow.
        return batch.maps.abs().gt_(self.threshold)


@dataclass(frozen=True)
class Entropy(DataCriterion):
    """Entropy of the histogram of each channel's mean output over the images.  [nats]

    `bins` of equal width span each channel's own range; 0 for a channel that never changes.

    Source:
        Luo & Wu 2017, "An entropy-based pruning method for CNN compression", section 3.2: 100 bins.
    """

    joins: ClassVar[bool] = True
    bins: Annotated[int, Ge(2)] = 100
    site: Site = "post_act"

    def reduce(self, batch: Activations) -> Float[Tensor, "images out"]:
        """The mean outputs themselves: their range is known only at the end."""
        return batch.averages

    def finish(self, state: Float[Tensor, "images out"]) -> Scores:
        """Entropy, channel by channel."""
        averages = state.double()
        low, high = averages.aminmax(dim=0)
        width = torch.where(high > low, high - low, 1)
        place = ((averages - low) / width * self.bins).nan_to_num(0).long().clamp(0, self.bins - 1)
        counts = torch.zeros(self.bins, state.shape[1], dtype=torch.float64, device=state.device)
        share = counts.scatter_add_(0, place, torch.ones_like(averages)) / len(averages)
        return torch.where((high - low).isfinite(), torch.special.entr(share).sum(0), torch.nan)


@dataclass(frozen=True)
class FisherRatio(DataCriterion):
    """Between-class over within-class variance of each channel's mean output.  [1]

    With m_c and n_c the mean and the number of the images of class c, m the mean of all N images,

        between = sum over c of n_c (m_c - m)^2 / N,    within = sum over images of (x - m_c)^2 / N.

    Both divide by N (ddof 0), so that they add up to the variance of all images; times (N - C) / (C - 1), C the number of
    classes among the images, the ratio is the F statistic of analysis of variance. A class with one image adds nothing to
    the variance within. A channel that never changes scores 0; one that differs between classes alone scores 2^52, which is
    the highest score there is.

    Source:
        Fisher 1936, "The use of multiple measurements in taxonomic problems", for one measurement.
    """

    joins: ClassVar[bool] = True
    images: Annotated[int, Ge(1)] | None = None
    site: Site = "post_act"

    def reduce(self, batch: Activations) -> Float[Tensor, "images out_and_label"]:
        """The mean outputs, and the label as a last column."""
        return torch.cat([batch.averages, batch.labels[:, None].to(batch.averages)], dim=1)

    def finish(self, state: Float[Tensor, "images out_and_label"]) -> Scores:
        """The ratio, channel by channel."""
        x, labels = state[:, :-1].double(), state[:, -1]
        _, which, sizes = labels.unique(return_inverse=True, return_counts=True)
        x = x - x[0]  # so that a channel that never changes is exactly 0
        means = x.new_zeros(len(sizes), x.shape[1]).index_add_(0, which, x) / sizes[:, None]
        between = sizes.double() @ (means - x.mean(0)).square()
        within = (x - means[which]).square().sum(0)
        floor = torch.finfo(torch.float64).eps * between
        return torch.where(between == 0, 0, between / torch.maximum(within, floor))


@dataclass(frozen=True)
class HRank(MeanOverImages):
    """Mean rank of each channel's feature maps, as matrices.  [1]

    Source:
        Lin et al. 2020, "HRank: filter pruning using high-rank feature map": the average rank over 500 images.
    """

    images: Annotated[int, Ge(1)] | None = 500
    site: Site = "post_act"

    def score(self, batch: Activations) -> Int64[Tensor, "images out"]:
        """The ranks of one image's feature maps."""
        return torch.linalg.matrix_rank(batch.maps)


@dataclass(frozen=True)
class CHIP(MeanOverImages):
    """Mean loss of nuclear norm when a channel's feature map is set to zero: its independence.  [activation units]

    Source:
        Sui et al. 2021, "CHIP: channel independence-based pruning for compact neural networks": the change of the nuclear
        norm by one channel, over 640 images.
        Computed from one decomposition an image in place of one for every channel; see `nuclear_losses`.
    """

    chunk: ClassVar[int | None] = CHUNK
    images: Annotated[int, Ge(1)] | None = 640
    site: Site = "post_act"

    def score(self, batch: Activations) -> Float64[Tensor, "images out"]:
        """The losses of one image's feature maps."""
        return nuclear_losses(batch.maps.flatten(2).double())


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
