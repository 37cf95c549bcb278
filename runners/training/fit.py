"""Training, and fine-tuning, which is the same thing started elsewhere."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import pandas as pd
import torch
from torch import nn
from torch.optim import Optimizer

from runners.data.counter import fold
from runners.data.resident import augmented_epochs
from runners.data.splits import Splits
from runners.errors import ConfigError
from runners.storage.resume import Checkpoints
from runners.training.evaluate import evaluate
from runners.training.progress import Progress
from runners.training.state import Keeper, Training
from runners.training.step import train_step

log = logging.getLogger(__name__)
Fit = Callable[[nn.Module, Splits, Checkpoints], tuple[nn.Module, pd.DataFrame]]
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
    checkpoints: Checkpoints,
    *,
    recipe: Recipe,
    optimizer: Callable[..., Optimizer],
    precision: str,
    seed: int,
    label: str,
) -> tuple[nn.Module, pd.DataFrame]:
    """A trained copy of `network`, its weights those after the last epoch, and one row an epoch (`HISTORY_COLUMNS`).

    The test split is measured after every epoch and chooses nothing. The images' order and augmentation depend on
    `seed`, `label` and the epoch alone; so does the generator that layers such as dropout use. A training that was
    killed goes on from its last checkpoint, to the same bits.

    Args:
        checkpoints: written at the end of every epoch, every `CHECKPOINT_SECONDS`, and when the run is asked to stop.
        precision: `fp32`, or `bf16` for autocast around fp32 weights.

    Raises:
        NumericalError: the loss or a weight is not finite; no such state is ever saved.
        Preempted: a signal asked for the end; the state is saved.
        ResourceError: the device is out of memory.
    """
    training = Training.start(network, optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay)
    draw = augmented_epochs(splits.train, batch_size=recipe.batch_size, crop_padding=recipe.crop_padding, flip=recipe.flip)
    n_steps = math.ceil(len(splits.train) / recipe.batch_size)
    stream = fold(seed, *label.encode())
    if recipe.epochs:
        rates = [recipe.lr * recipe.schedule(time, recipe.epochs) for time in (0.0, recipe.epochs / 2, recipe.epochs - 1e-9)]
        shown = ", ".join(f"{rate:.3g}" for rate in rates)
        log.info(
            f"{label}: {recipe.epochs} epochs, batch {recipe.batch_size}, {precision}, learning rate {shown} (start, middle, "
            "end)"
        )
    if saved := checkpoints.load():
        training.restore(saved)
        log.info(f"{label}: goes on from epoch {training.epoch + 1}, step {training.step} of {n_steps}")
    keeper = Keeper(training, checkpoints, f"{label!r} ({recipe.epochs} epochs, batch {recipe.batch_size})")
    with Progress(label, recipe.epochs, len(splits.train), done=training.epoch) as progress:
        while training.epoch < recipe.epochs:
            if training.step == 0:
                torch.manual_seed(fold(stream, training.epoch))
            training.network.train()
            with keeper.explain_out_of_memory():
                for x, labels in draw(stream, training.epoch, training.step):
                    rate = recipe.lr * recipe.schedule(training.epoch + training.step / n_steps, recipe.epochs)
                    training.totals += train_step(training.network, training.update, x, labels, lr=rate, precision=precision)
                    training.step += 1
                    keeper.after_step()
                    progress.batch(len(labels))
            loss, top1 = (training.totals / len(splits.train)).tolist()
            keeper.check_finite()
            quality = evaluate(training.network, splits.test)
            values = (training.epoch + 1, training.update.param_groups[0]["lr"], loss, 100 * top1, quality.top1_pct)
            training.end_epoch(dict(zip(HISTORY_COLUMNS, values, strict=True)))
            progress.epoch(training.epoch, loss_nats=loss, train_top1_pct=100 * top1, test_top1_pct=quality.top1_pct)
            if training.epoch < recipe.epochs:
                keeper.save()
    return training.network.eval(), pd.DataFrame(training.rows, columns=HISTORY_COLUMNS)
