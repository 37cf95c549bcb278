"""The protocol of a task: one training step, what it adds up, and the columns that tables make of that."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.optim import Optimizer

from runners.data.source import Batch, TrainingBatch

Forward = Callable[..., Tensor]
# The name of the network, and of its optimizer, where a task has only one.
NETWORK = "network"


class Task(Protocol):
    """Everything that training and measuring know of what is learnt.

    Networks have names (`network`, or `generator` and `critic`), and each optimizer has the name of the network that it
    updates. A task keeps no state: all that a step changes lies in networks, optimizers and the returned sums.
    """

    @property
    def n_sums(self) -> int:
        """The numbers that a training step adds up; the first is a loss, which must stay finite."""
        ...

    @property
    def compared(self) -> Sequence[str]:
        """Columns of `quality` that studies of many networks note; the first is the one that networks are compared by."""
        ...

    @property
    def history_columns(self) -> Sequence[str]:
        """Columns of a history beside `epoch` and `lr`; names begin with `train_` or `test_`."""
        ...

    def step(
        self, networks: Mapping[str, Forward], optimizers: Mapping[str, Optimizer], batch: TrainingBatch, *, precision: str
    ) -> Float[Tensor, " sums"]:
        """Changes the weights once, and returns what is summed over the images of an epoch, left on the device.

        The step may be captured and replayed: it waits for nothing and reads no number of Python's that changes.
        """
        ...

    def count(self, networks: Mapping[str, nn.Module], batch: Batch) -> Float64[Tensor, " counts"]:
        """The numbers of one batch, in eval mode, that are summed over a split; the first is a loss."""
        ...

    def quality(self, counts: Sequence[float], n_images: int) -> dict[str, Any]:
        """The columns of accuracy.csv, out of the counts summed over a split; names of counts begin with `n_`."""
        ...

    def history(self, sums: Sequence[float], n_images: int, tested: Mapping[str, Any]) -> dict[str, float]:
        """The values of `history_columns` for an epoch, out of its sums and the quality on the test split."""
        ...

    def best(self, history: pd.DataFrame) -> dict[str, Any]:
        """The columns of accuracy.csv for the epoch that looks best on the test split; empty values without an epoch."""
        ...


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a step's forward passes and losses are computed; fp32 changes nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
