"""Criteria from the gradient of the loss: the cost of removing a filter, to first order."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float64
from torch import Tensor

from criteria.criterion import MeanOverImages, Site
from criteria.layer import BatchGradients, Gates, Gradients, Scores


def taylor_l1(layer: Gradients) -> Scores:
    """L1 norm of gradient times weight of each filter.  [nats]

    The gradient is that of the mean loss over the whole split; `taylor_l1_per_batch` averages the score instead.

    Source:
        Molchanov et al. 2017, "Pruning convolutional neural networks for resource efficient inference", section 2.2; on
        weights as in Huang et al. 2021, section 4. Divided by its sum it is SNIP's sensitivity (Lee et al. 2019).
    """
    return layer.sums[1]


def taylor_l2(layer: Gradients) -> Scores:
    """L2 norm of gradient times weight of each filter.  [nats]

    Source:
        As `taylor_l1`.
    """
    return layer.sums[2].sqrt()


def snip(layer: Gradients) -> Scores:
    """Absolute derivative of the mean loss by a gate of 1 that multiplies the whole filter.  [nats]

    Contributions of the filter's weights cancel before the absolute value, unlike in `taylor_l1`. Close to 0 for every
    filter that BatchNorm without bias reads: the loss does not change with its size.

    Source:
        van Amersfoort et al. 2020, "Single shot structured pruning before training" (3SP): the connection sensitivity of
        SNIP (Lee et al. 2019) with one gate a filter.
    """
    return layer.sums[0].abs()


@dataclass(frozen=True)
class TaylorPerBatch(MeanOverImages):
    """Mean over batches of the norm of gradient times weight of each filter.  [nats]

    Depends on the size of the batches, `score_batch_size`; a smaller last one counts by its images.

    Args:
        norm: 1 or 2, of `taylor_l1` and `taylor_l2`.

    Source:
        Huang et al. 2021, section 4, which does not say whether gradients or scores are averaged.
    """

    norm: Literal[1, 2]

    def score(self, batch: BatchGradients) -> Float64[Tensor, "1 out"]:
        """The norm for the whole batch, which stands for all its images."""
        return (batch.sums[1] if self.norm == 1 else batch.sums[2].sqrt())[None]


@dataclass(frozen=True)
class TaylorGate(MeanOverImages):
    """Mean over images of the squared derivative of the loss by a gate on each feature map.  [nats^2]

    The paper squares the gradient of each mini-batch, and so depends on its size; this is its limit of one image a batch,
    which Liu et al. 2021 ("Group Fisher pruning") use as the Fisher information of the gate.

    Source:
        Molchanov et al. 2019, "Importance estimation for neural network pruning": the squared first-order criterion, with
        gates behind BatchNorm.
    """

    site: Site = "post_act"

    def score(self, batch: Gates) -> Float64[Tensor, "images out"]:
        """The squares."""
        return batch.slopes.double().square()
