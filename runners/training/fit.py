"""Training, and fine-tuning, which is the same thing started elsewhere."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from torch import nn
from torch.optim import Optimizer

from runners.data.counter import fold
from runners.data.resident import Draw, augmentation
from runners.data.splits import Splits
from runners.measuring.evaluate import evaluate
from runners.storage.resume import Checkpoints
from runners.training.engine import Engine
from runners.training.lanes import Steps, together
from runners.training.progress import Progress
from runners.training.recipe import Recipe
from runners.training.state import Keeper, Training
from runners.training.step import Plan, planned_step
from runners.training.tensorboard import Watch, unwatched

log = logging.getLogger(__name__)
Fitted = tuple[nn.Module, pd.DataFrame]
Fit = Callable[[nn.Module, Splits, Checkpoints], Fitted]
HISTORY_COLUMNS = ["epoch", "lr", "train_loss_nats", "train_top1_pct", "test_top1_pct"]


@dataclass(frozen=True)
class Start:
    """One of several trainings of networks of one shape on the same data.

    Args:
        checkpoints: written at the end of every epoch, now and then between, and when the run is asked to stop.
        watch: is shown every row of the history.
    """

    network: nn.Module
    checkpoints: Checkpoints
    seed: int
    watch: Watch = unwatched


def fit(
    network: nn.Module,
    splits: Splits,
    checkpoints: Checkpoints,
    *,
    recipe: Recipe,
    optimizer: Callable[..., Optimizer],
    engine: Engine,
    seed: int,
    label: str,
    watch: Watch = unwatched,
) -> Fitted:
    """A trained copy of `network`, its weights those after the last epoch, and one row an epoch (`HISTORY_COLUMNS`).

    The test split is measured after every epoch and chooses nothing. The images' order and augmentation depend on
    `seed`, `label` and the epoch alone; so does the generator that layers such as dropout use. A training that was
    killed goes on from its last checkpoint, to the same bits.

    Args:
        watch: is shown every row of the history as soon as there is one, those before a resumption too.

    Raises:
        NumericalError: the loss or a weight is not finite; no such state is ever saved.
        Preempted: a signal asked for the end; the state is saved.
        ResourceError: the device is out of memory.
    """
    start = Start(network, checkpoints, seed, watch)
    return fit_together([start], splits, recipe=recipe, optimizer=optimizer, engine=engine, label=label)[0]


def fit_together(
    starts: Sequence[Start],
    splits: Splits,
    *,
    recipe: Recipe,
    optimizer: Callable[..., Optimizer],
    engine: Engine,
    label: str,
) -> list[Fitted]:
    """What `fit` gives for each of `starts`, to the same bits; on a GPU all of them train side by side.

    Raises:
        Exception: as `fit`; on a GPU, the first after the others have ended.
    """
    draw = augmentation(splits.train, crop_padding=recipe.crop_padding, flip=recipe.flip)
    works = [_train(start, splits, draw, recipe, optimizer, engine, label) for start in starts]
    return together(works, splits.train.labels.device)


def _train(
    start: Start,
    splits: Splits,
    draw: Draw,
    recipe: Recipe,
    optimizer: Callable[..., Optimizer],
    engine: Engine,
    label: str,
) -> Steps[Fitted]:
    """One training, which pauses after every step."""
    rate = torch.tensor(recipe.lr, device=splits.train.labels.device)
    training = Training.start(start.network, partial(optimizer, lr=rate, weight_decay=recipe.weight_decay))
    plan = Plan.blank(len(splits.train), recipe.batch_size, rate.device)
    n_steps = len(plan.sizes)
    stream = fold(start.seed, *label.encode())
    _announce(label, recipe, engine)
    if saved := start.checkpoints.load():
        training.restore(saved)
        log.info(f"{label}: goes on from epoch {training.epoch + 1}, step {training.step} of {n_steps}")
    for row in training.rows:
        start.watch(row)
    forward = engine.forward(training.network.train())
    step = partial(planned_step, training, forward, draw, plan, precision=engine.precision)
    steps = {size: engine.repeated(partial(step, size=size)) for size in set(plan.sizes)}
    keeper = Keeper(training, start.checkpoints, f"{label!r} ({recipe.epochs} epochs, batch {recipe.batch_size})")
    with Progress(label, recipe.epochs, len(splits.train), done=training.epoch) as progress:
        while training.epoch < recipe.epochs:
            rates = [recipe.rate(training.epoch + number / n_steps) for number in range(n_steps)]
            plan.begin(stream, training.epoch, rates=rates, position=training.step)
            if training.step == 0:
                torch.manual_seed(fold(stream, training.epoch))
            training.network.train()
            for size in plan.sizes[training.step :]:
                with keeper.explain_out_of_memory():
                    steps[size]()
                training.step += 1
                keeper.after_step()
                progress.batch(size)
                yield
            loss, top1 = (training.totals / len(splits.train)).tolist()
            keeper.check_finite()
            quality = evaluate(training.network, splits.test)
            values = (training.epoch + 1, rates[-1], loss, 100 * top1, quality.top1_pct)
            training.end_epoch(dict(zip(HISTORY_COLUMNS, values, strict=True)))
            start.watch(training.rows[-1])
            progress.epoch(training.epoch, loss_nats=loss, train_top1_pct=100 * top1, test_top1_pct=quality.top1_pct)
            if training.epoch < recipe.epochs:
                keeper.save()
    return training.network.eval(), pd.DataFrame(training.rows, columns=HISTORY_COLUMNS)


def _announce(label: str, recipe: Recipe, engine: Engine) -> None:
    if not recipe.epochs:
        return
    rates = ", ".join(f"{recipe.rate(time):.3g}" for time in (0.0, recipe.epochs / 2, recipe.epochs - 1e-9))
    steps = f"batch {recipe.batch_size}, {engine.arithmetic}, learning rate {rates} (start, middle, end)"
    log.info(f"{label}: {recipe.epochs} epochs, {steps}")
