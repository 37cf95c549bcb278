"""One step of training: work on the device alone, which reads all that changes from step to step in tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from runners.data.resident import Draw, epoch_order, epoch_words
from runners.training.engine import Forward
from runners.training.state import Training


@dataclass(frozen=True)
class Plan:
    """What the steps of an epoch read: tensors that stay where they are, since a captured step knows only their places.

    Args:
        order: the images, in this epoch's order.
        words: what this epoch's crops and mirror images are drawn from.
        rates: the learning rate of every step.
        position: steps of this epoch that are finished.
    """

    batch_size: int
    order: Int64[Tensor, " images"]
    words: Int64[Tensor, " 3"]
    rates: Float[Tensor, " steps"]
    position: Int64[Tensor, " 1"]

    @staticmethod
    def blank(n_images: int, batch_size: int, device: torch.device) -> "Plan":
        """Room for the plan of any epoch."""
        order, words, position = (torch.zeros(size, dtype=torch.int64, device=device) for size in (n_images, 3, 1))
        return Plan(batch_size, order, words, torch.zeros(ceil(n_images / batch_size), device=device), position)

    @property
    def sizes(self) -> list[int]:
        """How many images each step takes; the last may take fewer."""
        full, rest = divmod(len(self.order), self.batch_size)
        return [self.batch_size] * full + [rest] * (rest > 0)

    def begin(self, stream: int, epoch: int, *, rates: Sequence[float], position: int) -> None:
        """Writes the plan of an epoch of which `position` steps are finished."""
        self.order.copy_(epoch_order(len(self.order), stream, epoch, self.order.device))
        self.words.copy_(epoch_words(stream, epoch))
        self.rates.copy_(torch.tensor(rates))
        self.position.fill_(position)


def planned_step(training: Training, forward: Forward, draw: Draw, plan: Plan, *, size: int, precision: str) -> None:
    """The next step of the plan, on `size` images."""
    place = plan.position * plan.batch_size + torch.arange(size, device=plan.position.device)
    x, labels = draw(plan.order.index_select(0, place), plan.words)
    training.lr.copy_(plan.rates.index_select(0, plan.position)[0])
    training.totals += train_step(forward, training.update, x, labels, precision=precision)
    plan.position.add_(1)


def train_step(
    forward: Forward,
    update: Optimizer,
    x: Float[Tensor, "images channels h w"],
    labels: Int64[Tensor, " images"],
    *,
    precision: str,
) -> Float[Tensor, " 2"]:
    """Forward, backward, update; the summed loss in nats and the right answers, left on the device."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = forward(x)
        loss = F.cross_entropy(logits, labels)
    update.zero_grad(set_to_none=True)
    loss.backward()
    update.step()
    with torch.no_grad():
        return torch.stack([loss * len(labels), (logits.argmax(1) == labels).sum()])
