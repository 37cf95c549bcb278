"""BatchNorm statistics of a changed network, estimated anew."""

from copy import deepcopy
from math import ceil

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from runners.data.resident import Images


def recalibrate(network: nn.Module, images: Images, *, batch_size: int = 500) -> nn.Module:
    """A copy of `network` whose BatchNorm means and variances are those of `images`; no weight changes.

    The images pass once, without augmentation, in batches of equal size (to one image), whose statistics count
    alike. No BatchNorm: the copy is the same network.
    """
    recalibrated = deepcopy(network)
    n_batches = ceil(len(images) / batch_size)
    pixels = images.pixels.tensor_split(n_batches)
    device = images.labels.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)  # layers such as dropout draw the same every time
        update_bn((images.normalise(batch) for batch in pixels), recalibrated)
    return recalibrated.eval()
