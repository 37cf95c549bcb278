"""One step of training."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer


def train_step(
    network: nn.Module,
    update: Optimizer,
    x: Float[Tensor, "images channels h w"],
    labels: Int64[Tensor, " images"],
    *,
    lr: float,
    precision: str,
) -> Float[Tensor, " 2"]:
    """Forward, backward, update; the summed loss in nats and the right answers, left on the device."""
    for group in update.param_groups:
        group["lr"] = lr
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = network(x)
        loss = F.cross_entropy(logits, labels)
    update.zero_grad(set_to_none=True)
    loss.backward()
    update.step()
    with torch.no_grad():
        return torch.stack([loss * len(labels), (logits.argmax(1) == labels).sum()])
