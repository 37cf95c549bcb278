"""The interface of a split of a data set to training and measuring, wherever its images lie."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from jaxtyping import Float, Int64
from torch import Tensor

from runners.augmenting.changes import Changes
from runners.augmenting.draws import Targets

Batch = tuple[Float[Tensor, "images channels h w"], Int64[Tensor, " images"]]
TrainingBatch = tuple[Float[Tensor, "images channels h w"], Targets]


class Steps(Protocol):
    """The training batches of one run, epoch after epoch.

    `draw` is work on the device alone, of fixed shapes, so that a training step that was captured can be replayed. What must
    come from the host is fetched by `load`, which is never captured.
    """

    @property
    def sizes(self) -> Sequence[int]:
        """Images of every step of an epoch; the last may have fewer."""
        ...

    def begin(self, epoch: int, *, position: int) -> None:
        """Starts an epoch of which `position` steps are finished (a training that goes on)."""
        ...

    def load(self) -> None:
        """Puts what the next step needs where `draw` finds it; nothing for images that lie on the device."""
        ...

    def draw(self, size: int) -> TrainingBatch:
        """The batch of the next step: changed, normalised, on the device."""
        ...


class Source(Protocol):
    """Labelled images: a split of a data set."""

    @property
    def labels(self) -> Int64[Tensor, " images"]:
        """The label of every image, on the device."""
        ...

    @property
    def example(self) -> Float[Tensor, "1 channels h w"]:
        """One normalised image on the device, for tracing and timing."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All images once, in their own order, normalised and not augmented; the last batch may be smaller."""
        ...

    def steps(self, batch_size: int, *, stream: int, changes: Changes) -> Steps:
        """Training batches whose order and changes are functions of `stream` and the epoch alone."""
        ...
