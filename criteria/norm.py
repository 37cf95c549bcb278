"""Criteria from the size of a filter, from its distance to the others and from its angle to them."""

import torch

from criteria.layer import Scores, Weights


def l1(layer: Weights) -> Scores:
    """L1 norm of each filter.  [weight units]

    Source:
        Li et al. 2017, "Pruning filters for efficient ConvNets", section 3.1.
    """
    return layer.filters.abs().sum(1)


def l2(layer: Weights) -> Scores:
    """L2 norm of each filter.  [weight units]

    Source:
        He et al. 2018, "Soft filter pruning", equation 2 with p = 2.
    """
    return layer.filters.norm(dim=1)


def gm(layer: Weights) -> Scores:
    """Sum of the Euclidean distances from each filter to all filters of its layer.  [weight units]

    A stand-in for the distance to the geometric median, which it does not compute; `fermat` does.

    Source:
        He et al. 2019, "Filter pruning via geometric median" (FPGM), equation 7.
    """
    return layer.distance_sums.clone()


def fermat(layer: Weights) -> Scores:
    """Distance from each filter to the Fermat point (geometric median) of its layer.  [weight units]

    Source:
        Huang et al. 2021, "Rethinking the pruning criteria for convolutional neural network", table 1.
    """
    return (layer.filters - layer.median.point).norm(dim=1)


def repr(layer: Weights) -> Scores:
    """Minus the mean overlap (absolute cosine) of each filter with the others of its layer.  [-1..0]

    Size does not count: a filter of zeros overlaps with none, and scores 0, the highest. The mean divides by the number of
    all filters of the layer, this one included, as in the paper.

    Source:
        Prakash et al. 2019, "RePr: improved training of convolutional filters", equation 2.
    """
    lengths = layer.filters.norm(dim=1)
    inverse = torch.where(lengths > 0, 1 / lengths, 0)
    overlap = (layer.products * inverse[:, None] * inverse).fill_diagonal_(0)
    return -overlap.abs().mean(1)


def lamp(layer: Weights) -> Scores:
    """Squared norm of each filter as a share of the squared norms of all filters at least as large.  [0..1]

    In one layer the order is that of `l2`; the scores of different layers can be compared as they are. Equal filters
    score alike (the paper numbers them through). A filter of zeros scores 0.

    Source:
        Lee et al. 2021, "Layer-adaptive sparsity for the magnitude-based pruning": the LAMP score, with filters in place
        of weights.
    """
    squares, order = layer.filters.square().sum(1).sort()
    not_less = squares.flip(0).cumsum(0).flip(0)[torch.searchsorted(squares, squares)]
    return torch.zeros_like(squares).index_put((order,), torch.where(squares > 0, squares / not_less, 0))


def whc(layer: Weights) -> Scores:
    """Norm of each filter times the sum over the others of their norm times one minus |cosine|.  [squared weight units]

    Large for a filter that is large and dissimilar to large filters.

    Source:
        Chen, Sun & Huang 2023, "WHC: weighted hybrid criterion for filter pruning on convolutional neural networks";
        written out, a sum of |F_j| |F_k| - |F_j . F_k|.
    """
    lengths = layer.filters.norm(dim=1)
    dissimilar = (lengths[:, None] * lengths - layer.products.abs()).clamp(min=0).fill_diagonal_(0)
    return dissimilar.sum(1)
