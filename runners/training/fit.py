"""Training of one network or of several together; fine-tuning is the same, started elsewhere."""

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim import Optimizer

from runners.data.source import Steps
from runners.data.splits import Splits
from runners.measuring.evaluate import measure
from runners.process.counter import fold
from runners.storage.resume import Checkpoints
from runners.storage.stages import Watch, unwatched
from runners.tasks.classification import CLASSIFICATION
from runners.tasks.task import NETWORK, Forward, Task
from runners.training.engine import Engine, own_stream
from runners.training.penalty import Penalty, near_zero
from runners.training.progress import Progress
from runners.training.rates import Rates
from runners.training.recipe import Recipe
from runners.training.state import Keeper, Training

log = logging.getLogger(__name__)
Fitted = tuple[nn.Module, pd.DataFrame]
Fit = Callable[[nn.Module, Splits, Checkpoints], Fitted]


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
    """A trained copy of `network`, a classifier, as it is after the last epoch, and its history: `fit_networks` of one.

    Raises:
        UserError: as `fit_networks`.
    """
    found, history = fit_networks(
        {NETWORK: network},
        splits,
        checkpoints,
        task=replace(CLASSIFICATION, label_smoothing=recipe.label_smoothing),
        recipe=recipe,
        optimizers={NETWORK: optimizer},
        engine=engine,
        seed=seed,
        label=label,
        watch=watch,
    )
    return found[NETWORK], history


def fit_networks(
    networks: Mapping[str, nn.Module],
    splits: Splits,
    checkpoints: Checkpoints,
    *,
    task: Task,
    recipe: Recipe,
    optimizers: Mapping[str, Callable[..., Optimizer]],
    engine: Engine,
    seed: int,
    label: str,
    watch: Watch = unwatched,
) -> tuple[dict[str, nn.Module], pd.DataFrame]:
    """Trained copies of `networks`, and their history: `epoch`, `lr` and the task's columns, one row an epoch.

    The test split is measured after every epoch and chooses nothing. The images' order and augmentation depend on
    `seed`, `label` and the epoch alone; so does the generator that layers such as dropout use. A training that was
    killed goes on from its last checkpoint, to the same bits.

    Args:
        checkpoints: written at the end of every epoch, now and then between, and when the run is asked to stop.
        optimizers: by the name of the network that each updates; a network without one is updated by none.
        watch: is shown every row of the history as soon as there is one, those before a resumption too.

    Raises:
        NumericalError: the loss or a weight is not finite; no such state is ever saved.
        Preempted: a signal asked for the end; the state is saved.
        ResourceError: the device is out of memory.
    """
    rate = torch.tensor(recipe.lr, device=splits.train.labels.device)
    training = Training.start(networks, optimizers, lr=rate, weight_decay=recipe.weight_decay, n_sums=task.n_sums)
    _penalise(training, recipe.penalty)
    stream = fold(seed, *label.encode())
    batches = splits.train.steps(recipe.batch_size, stream=stream, changes=recipe.changes)
    n_steps, n_images = len(batches.sizes), len(splits.train)
    rates = Rates(n_steps, rate.device)
    _announce(label, recipe, engine)
    if saved := checkpoints.load():
        training.restore(saved)
        log.info(f"{label}: goes on from epoch {training.epoch + 1}, step {training.step} of {n_steps}")
    for row in training.rows:
        watch(row)
    training.train()
    forwards = {name: engine.forward(network) for name, network in training.networks.items()}
    step = partial(_step, training, forwards, task, batches, rates, precision=engine.precision)
    steps = {size: engine.repeated(partial(step, size=size)) for size in set(batches.sizes)}
    keeper = Keeper(training, checkpoints, f"{label!r} ({recipe.epochs} epochs, batch {recipe.batch_size})")
    done = training.epoch + training.step / n_steps
    with own_stream(rate.device), closing(Progress(label, recipe.epochs, n_images, done=done)) as progress:
        while training.epoch < recipe.epochs:
            planned = [recipe.rate(training.epoch + number / n_steps) for number in range(n_steps)]
            rates.begin(planned, position=training.step)
            batches.begin(training.epoch, position=training.step)
            if training.step == 0:
                torch.manual_seed(fold(stream, training.epoch))
            training.train()
            for size in batches.sizes[training.step :]:
                with keeper.explain_out_of_memory():
                    batches.load()
                    steps[size]()
                training.step += 1
                keeper.after_step()
                progress.batch(size)
            keeper.check_finite()
            tested = measure(training.networks, splits.test, task, after_batch=keeper.after_step)
            values = task.history(training.totals.tolist(), n_images, tested)
            training.end_epoch({"epoch": training.epoch + 1, "lr": planned[-1], **values})
            watch(training.rows[-1])
            progress.epoch(training.epoch, values)
            if training.epoch < recipe.epochs:
                keeper.save()
    if recipe.penalty:
        for name, network in training.networks.items():
            log.info(f"{label}: {near_zero(network)} ({name})")
    history = pd.DataFrame(training.rows, columns=["epoch", "lr", *task.history_columns])
    return {name: network.eval() for name, network in training.networks.items()}, history


def _penalise(training: Training, penalty: Penalty | None) -> None:
    """Adds to the gradients of every network right before its optimizer reads them, whatever task called it."""
    if penalty:
        for name, optimizer in training.optimizers.items():
            optimizer.register_step_pre_hook(partial(_add, penalty, training.networks[name]))


def _add(penalty: Penalty, network: nn.Module, *_: Any) -> None:
    penalty(network)


def _step(
    training: Training,
    forwards: Mapping[str, Forward],
    task: Task,
    batches: Steps,
    rates: Rates,
    *,
    size: int,
    precision: str,
) -> None:
    """The next step, on `size` images: work on the device alone, which reads all that changes in tensors."""
    batch = batches.draw(size)
    rates.next_into(training.lr)
    training.totals += task.step(forwards, training.optimizers, batch, precision=precision)


def _announce(label: str, recipe: Recipe, engine: Engine) -> None:
    if not recipe.epochs:
        return
    rates = ", ".join(f"{recipe.rate(time):.3g}" for time in (0.0, recipe.epochs / 2, recipe.epochs - 1e-9))
    steps = f"batch {recipe.batch_size}, {engine.arithmetic}, learning rate {rates} (start, middle, end)"
    log.info(f"{label}: {recipe.epochs} epochs, {steps}")
