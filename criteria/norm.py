"""Criteria from the size of a filter and from its distance to the others."""

from criteria.layer import Scores, Weights
from criteria.median import geometric_median


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
    return layer.distances.sum(1)


def fermat(layer: Weights) -> Scores:
    """Distance from each filter to the Fermat point (geometric median) of its layer.  [weight units]

    Source:
        Huang et al. 2021, "Rethinking the pruning criteria for convolutional neural network", table 1.
    """
    return (layer.filters - geometric_median(layer).point).norm(dim=1)
