"""Quality of networks on a split, in the numbers of their task."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from runners.data.source import Source
from runners.process.errors import NumericalError
from runners.tasks.classification import CLASSIFICATION
from runners.tasks.task import NETWORK, Task

BATCH_SIZE = 500


def evaluate(
    network: nn.Module, images: Source, task: Task = CLASSIFICATION, *, batch_size: int = BATCH_SIZE
) -> dict[str, Any]:
    """The task's quality of a network, in eval mode and fp32; the network's mode is put back.

    Raises:
        NumericalError: as `measure`.
    """
    return measure({NETWORK: network}, images, task, batch_size=batch_size)


@torch.inference_mode()
def measure(
    networks: Mapping[str, nn.Module],
    images: Source,
    task: Task,
    *,
    batch_size: int = BATCH_SIZE,
    after_batch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The task's quality of `networks`, in eval mode and fp32; the modes of the networks are put back.

    Args:
        after_batch: called after every batch; it may end the measurement by an exception.

    Raises:
        NumericalError: the loss is not finite, and an accuracy counted from such outputs would look like one.
    """
    modes = {name: network.training for name, network in networks.items()}
    for network in networks.values():
        network.eval()
    counts = torch.zeros((), dtype=torch.float64, device=images.labels.device)
    for batch in images.batches(batch_size):
        counts = counts + task.count(networks, batch)
        after_batch()
    for name, network in networks.items():
        network.train(modes[name])
    found = counts.tolist()
    if not counts[0].isfinite():
        raise NumericalError(
            f"the network's loss on {len(images):,} images is {found[0]}; all numbers must stay finite; lower the learning "
            "rate, or look at the weights that were given"
        )
    return task.quality(found, len(images))
