"""How good a network is on a split."""

from dataclasses import dataclass
from math import nan

import torch
from torch import nn
from torch.nn import functional as F

from runners.data.resident import Images
from runners.process.errors import NumericalError

TOP5_FROM_CLASSES = 100


@dataclass(frozen=True)
class Quality:
    """Accuracy and loss over one split; `top5_pct` is nan below 100 classes, where it says little."""

    n_images: int
    n_correct: int
    top1_pct: float
    top5_pct: float
    loss_nats: float


@torch.inference_mode()
def evaluate(network: nn.Module, images: Images, *, batch_size: int = 500) -> Quality:
    """Top-1 and top-5 accuracy and mean cross-entropy, in eval mode and fp32; the network's mode is put back.

    Raises:
        NumericalError: the loss is not finite, and an accuracy counted from such outputs would look like one.
    """
    was_training = network.training
    network.eval()
    device = images.labels.device
    correct, among_five = torch.zeros((2,), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    num_classes = 0
    for x, labels in images.batches(batch_size):
        logits = network(x)
        num_classes = logits.shape[1]
        loss += F.cross_entropy(logits, labels, reduction="sum").double()
        correct += (logits.argmax(1) == labels).sum()
        if num_classes >= TOP5_FROM_CLASSES:
            among_five += (logits.topk(5).indices == labels[:, None]).sum()
    network.train(was_training)
    n = len(images)
    if not loss.isfinite():
        raise NumericalError(
            f"the network's loss on {n:,} images is {float(loss)}; all numbers must stay finite; lower the learning rate, or "
            "look at the weights that were given"
        )
    return Quality(
        n_images=n,
        n_correct=int(correct),
        top1_pct=100 * int(correct) / n,
        top5_pct=100 * int(among_five) / n if num_classes >= TOP5_FROM_CLASSES else nan,
        loss_nats=float(loss) / n,
    )
