"""Criteria from the BatchNorm that reads a convolution."""

from criteria.layer import BatchNorm, Scores


def bn_gamma(layer: BatchNorm) -> Scores:
    """Absolute scale that the BatchNorm behind the layer gives each channel.  [1]

    Source:
        Liu et al. 2017, "Learning efficient convolutional networks through network slimming", section 3.
    """
    return layer.gamma.detach().double().abs()


def bn_beta(layer: BatchNorm) -> Scores:
    """Absolute shift that the BatchNorm behind the layer gives each channel.  [activation units]

    A large negative shift scores high too, although the output behind a ReLU is then mostly zero.

    Source:
        Huang et al. 2021, "Rethinking the pruning criteria for convolutional neural network", section 4.
    """
    return layer.beta.detach().double().abs()
