"""BatchNorm statistics of a changed network, estimated anew."""

from collections.abc import Iterator
from copy import deepcopy
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from runners.data.source import Source


def recalibrate(network: nn.Module, images: Source, *, batch_size: int = 500) -> nn.Module:
    """A copy of `network` whose BatchNorm means and variances are those of `images`; no weight changes.

    The images pass once, without augmentation, in batches of equal size (to one image), whose statistics count
    alike. No BatchNorm: the copy is the same network.
    """
    recalibrated = deepcopy(network)
    device = images.labels.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)  # layers such as dropout draw the same every time
        update_bn(_equal_batches(images, batch_size), recalibrated)
    return recalibrated.eval()


def _equal_batches(images: Source, batch_size: int) -> Iterator[Float[Tensor, "images channels h w"]]:
    """The images in as few batches as `batch_size` allows, larger ones first: 10 images by 4 are 4, 3, 3."""
    n_batches = ceil(len(images) / batch_size)
    small, n_larger = divmod(len(images), n_batches)
    given = (x for x, _ in images.batches(batch_size))
    waiting = next(given)
    for number in range(n_batches):
        size = small + (number < n_larger)
        if len(waiting) < size:
            # Joined as they lie in memory, channels last: another memory format would round differently.
            waiting = torch.cat([x.permute(0, 2, 3, 1) for x in (waiting, next(given))]).permute(0, 3, 1, 2)
        yield waiting[:size]
        waiting = waiting[size:]
