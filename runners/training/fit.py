"""Training, and fine-tuning, which is the same thing started elsewhere."""

import logging
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from runners.data.counter import fold
from runners.data.resident import augmented_epochs
from runners.data.splits import Splits
from runners.errors import ConfigError, NumericalError
from runners.training.evaluate import evaluate
from runners.training.progress import Progress

log = logging.getLogger(__name__)
Fit = Callable[[nn.Module, Splits], tuple[nn.Module, pd.DataFrame]]
HISTORY_COLUMNS = ["epoch", "lr", "train_loss_nats", "train_top1_pct", "test_top1_pct"]


@dataclass(frozen=True)
class Recipe:
    """How long and how to train.

    Args:
        lr: the learning rate that `schedule` multiplies.
        schedule: (time in epochs, epochs) -> factor, asked before every step.
        crop_padding: pixels of zeros around an image before it is cropped at random; 0 crops nothing.
        flip: mirror every second image, at random.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    schedule: Callable[[float, int], float]
    crop_padding: int
    flip: bool


def check_recipe(recipe: Recipe, optimizer: Callable[..., Optimizer], label: str, n_images: int) -> None:
    """Finds out before anything is trained what the first step, or the last batch, would stumble over.

    Raises:
        ConfigError: arguments that the optimizer or the schedule does not take, or a batch size that leaves a last batch
            of one image (BatchNorm needs two).
    """
    try:
        optimizer([torch.zeros(1, requires_grad=True)], lr=recipe.lr, weight_decay=recipe.weight_decay)
        recipe.schedule(0.0, recipe.epochs)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the optimizer or {label}.schedule cannot be used ({error}); their keys must fit the classes in their YAML; "
            "see --cfg job"
        ) from error
    if recipe.epochs and _last_batch(n_images, recipe.batch_size) == 1:
        better = next(size for size in count(recipe.batch_size + 1) if _last_batch(n_images, size) > 1)
        raise ConfigError(
            f"{label}.batch_size={recipe.batch_size} leaves a last batch of one image out of {n_images:,}; BatchNorm "
            f"needs two; choose {label}.batch_size={better}"
        )


def _last_batch(n_images: int, batch_size: int) -> int:
    return n_images % batch_size or batch_size


def fit(
    network: nn.Module,
    splits: Splits,
    *,
    recipe: Recipe,
    optimizer: Callable[..., Optimizer],
    seed: int,
    label: str,
) -> tuple[nn.Module, pd.DataFrame]:
    """A trained copy of `network`, its weights those after the last epoch, and one row an epoch (`HISTORY_COLUMNS`).

    The test split is measured after every epoch and chooses nothing. The images' order and augmentation depend on
    `seed`, `label` and the epoch alone; so does the generator that layers such as dropout use.

    Raises:
        NumericalError: the loss of an epoch is not finite.
    """
    train = splits.train
    network = deepcopy(network).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    update = optimizer(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    batches_of = augmented_epochs(train, batch_size=recipe.batch_size, crop_padding=recipe.crop_padding, flip=recipe.flip)
    steps_per_epoch = math.ceil(len(train) / recipe.batch_size)
    stream = fold(seed, *label.encode())
    rows: list[dict[str, Any]] = []
    if recipe.epochs:
        rates = [recipe.lr * recipe.schedule(time, recipe.epochs) for time in (0.0, recipe.epochs / 2, recipe.epochs - 1e-9)]
        shown = ", ".join(f"{rate:.3g}" for rate in rates)
        log.info(f"{label}: {recipe.epochs} epochs, batch {recipe.batch_size}, learning rate {shown} (start, middle, end)")
    with Progress(label, recipe.epochs, len(train)) as progress:
        for epoch in range(recipe.epochs):
            torch.manual_seed(fold(stream, epoch))
            rates = (
                recipe.lr * recipe.schedule(epoch + step / steps_per_epoch, recipe.epochs) for step in range(steps_per_epoch)
            )
            loss, top1 = _epoch(network, update, batches_of(stream, epoch), rates, progress)
            _check_finite(network, loss, f"epoch {epoch + 1} of {recipe.epochs} of {label!r}", recipe.lr)
            quality = evaluate(network, splits.test)
            values = (epoch + 1, update.param_groups[0]["lr"], loss, top1, quality.top1_pct)
            rows.append(dict(zip(HISTORY_COLUMNS, values, strict=True)))
            progress.epoch(epoch + 1, loss_nats=loss, train_top1_pct=top1, test_top1_pct=quality.top1_pct)
    return network.eval(), pd.DataFrame(rows, columns=HISTORY_COLUMNS)


def _check_finite(network: nn.Module, loss: float, when: str, lr: float) -> None:
    if not (math.isfinite(loss) and all(weight.isfinite().all() for weight in network.parameters())):
        raise NumericalError(
            f"the loss is {loss}, or a weight is infinite, in {when}; all must stay finite; lower the learning rate ({lr})"
        )


def _epoch(
    network: nn.Module,
    update: Optimizer,
    batches: Iterator[tuple[Tensor, Tensor]],
    rates: Iterator[float],
    progress: Progress,
) -> tuple[float, float]:
    """One pass; mean loss in nats and top-1 in percent. Nothing is read back from the device before the end."""
    network.train()
    totals: list[Tensor] = []
    n_images = 0
    for (x, labels), rate in zip(batches, rates, strict=True):
        for group in update.param_groups:
            group["lr"] = rate
        logits = network(x)
        loss = F.cross_entropy(logits, labels)
        update.zero_grad(set_to_none=True)
        loss.backward()
        update.step()
        with torch.no_grad():
            totals.append(torch.stack([loss * len(labels), (logits.argmax(1) == labels).sum()]))
        n_images += len(labels)
        progress.batch(len(labels))
    total_loss, total_correct = torch.stack(totals).sum(0).tolist()
    return total_loss / n_images, 100 * total_correct / n_images
