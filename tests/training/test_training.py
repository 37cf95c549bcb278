"""Training, measuring and recalibrating, against plain PyTorch."""

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from runners.data.fake import fake
from runners.data.resident import Images
from runners.data.splits import Splits, load
from runners.measuring.evaluate import evaluate
from runners.measuring.recalibrate import recalibrate
from runners.process.counter import fold
from runners.process.errors import ConfigError, NumericalError
from runners.storage.resume import Checkpoints
from runners.training import schedule
from runners.training.engine import Engine
from runners.training.fit import fit
from runners.training.recipe import Recipe, check_recipe
from support import augmented_epochs, raises_line

HISTORY_COLUMNS = ["epoch", "lr", "train_loss_nats", "train_top1_pct", "test_top1_pct"]
STEPS = partial(schedule.steps, milestones=[82, 164], gamma=0.1)
MOMENTUM = partial(SGD, momentum=0.9)


def data(num_classes: int = 4, num_images: int = 50) -> Splits:
    return load(
        fake,
        dict(
            num_images=num_images,
            channels=3,
            image_size=8,
            num_classes=num_classes,
            score_share=0.5,
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            seed=0,
            crop_padding=2,
            flip=True,
        ),
    )


def small(num_classes: int = 4, *, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, num_classes),
    )


def recipe(**changes: Any) -> Recipe:
    given: dict[str, Any] = {"epochs": 3, "batch_size": 16, "lr": 0.05, "weight_decay": 1e-3}
    given["schedule"] = partial(schedule.cosine, warmup_epochs=1)
    return Recipe(**{**given, **changes})


def train(network: nn.Module, given: Recipe, *, seed: int = 0, label: str = "train") -> tuple[nn.Module, pd.DataFrame]:
    with TemporaryDirectory() as folder:
        unfinished = Checkpoints(Path(folder))
        return fit(network, data(), unfinished, recipe=given, optimizer=MOMENTUM, engine=Engine("fp32"), seed=seed, label=label)


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# time, factor: milestones 82 and 164 of 180 epochs
@pytest.mark.parametrize(
    ("time", "factor"),
    [(0, 1), (81.999, 1), (82, 0.1), (82.5, 0.1), (163.999, 0.1), (164, 0.01), (179.99, 0.01)],
)
def test_steps_fall_at_the_milestones(time: float, factor: float) -> None:
    assert STEPS(time, 180) == pytest.approx(factor, rel=1e-12)
    assert schedule.steps(time, 180, milestones=[164, 82], gamma=0.1) == pytest.approx(factor, rel=1e-12), "in any order"


# epochs, warm-up, time, factor: (1 + cos(pi * share)) / 2 with shares 0, 1/4, 1/3, 1/2, 1 of the way after the warm-up
@pytest.mark.parametrize(
    ("epochs", "warmup", "time", "factor"),
    [
        (12, 0, 0, 1),
        (12, 0, 3, 0.8535533905932737),
        (12, 0, 6, 0.5),
        (12, 0, 12, 0),
        (7, 0, 3.5, 0.5),
        (7, 1, 0, 0),
        (7, 1, 0.25, 0.25),
        (7, 1, 1, 1),
        (7, 1, 3, 0.75),
        (7, 1, 7, 0),
        (12, 1.5, 0.75, 0.5),
        (12, 1.5, 6.75, 0.5),
        (1, 1, 0.5, 0.5),
        (1, 1, 1, 1),
        (1, 2, 0.5, 0.25),
    ],
)
def test_cosine_rises_and_falls(epochs: int, warmup: float, time: float, factor: float) -> None:
    assert schedule.cosine(time, epochs, warmup_epochs=warmup) == pytest.approx(factor, abs=1e-12)


def test_constant_is_one() -> None:
    assert {schedule.constant(time, 40) for time in (0.0, 0.5, 39.9)} == {1.0}


def slow_fit(network: nn.Module, splits: Splits, given: Recipe, seed: int, label: str) -> tuple[nn.Module, list[list[float]]]:
    """A plain loop over the same batches."""
    network = deepcopy(network)
    stream = fold(seed, *label.encode())
    epochs = augmented_epochs(splits.train, batch_size=given.batch_size, crop_padding=2, flip=True)
    n = len(splits.train)
    n_steps = -(-n // given.batch_size)
    update = SGD(network.parameters(), lr=given.lr, momentum=0.9, weight_decay=given.weight_decay)
    rows = []
    for epoch in range(given.epochs):
        torch.manual_seed(fold(stream, epoch))
        loss_sum, n_correct, rate = 0.0, 0, 0.0
        network.train()
        for step, (x, labels) in enumerate(epochs(stream, epoch)):
            rate = given.lr * given.schedule(epoch + step / n_steps, given.epochs)
            update.param_groups[0]["lr"] = rate
            update.zero_grad()
            logits = network(x)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            update.step()
            loss_sum += loss.item() * len(labels)
            n_correct += int((logits.argmax(1) == labels).sum())
        network.eval()
        with torch.no_grad():
            x = splits.test.normalise(splits.test.pixels)
            test_correct = int((network(x).argmax(1) == splits.test.labels).sum())
        rows.append([epoch + 1, rate, loss_sum / n, 100 * n_correct / n, 100 * test_correct / len(splits.test)])
    return network, rows


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_fit_equals_a_plain_loop(dropout: float) -> None:
    splits, given = data(), recipe()
    fitted, history = train(small(dropout=dropout), given, seed=5, label="finetune")
    expected, rows = slow_fit(small(dropout=dropout), splits, given, 5, "finetune")
    for (name, value), slow in zip(fitted.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.allclose(value, slow, rtol=1e-6, atol=1e-6), name
    assert list(history.columns) == HISTORY_COLUMNS
    assert history.to_numpy() == pytest.approx(torch.tensor(rows).double().numpy(), rel=1e-5)
    assert not fitted.training


def test_a_recipe_says_how_labels_are_smoothed() -> None:
    plain, smoothed = (train(small(), recipe(**changes))[0] for changes in ({}, {"label_smoothing": 0.2}))
    original = F.cross_entropy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "cross_entropy", partial(original, label_smoothing=0.2))
        expected, _ = slow_fit(small(), data(), recipe(), 0, "train")
    for (name, value), slow in zip(smoothed.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.allclose(value, slow, rtol=1e-6, atol=1e-6), name
    assert not same(state(plain), state(smoothed))


def test_fit_leaves_the_network_it_was_given_alone() -> None:
    network = small().eval()
    before = state(network)
    fitted, _ = train(network, recipe())
    assert same(before, state(network)) and not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not same(before, state(fitted))
    assert not {p.data_ptr() for p in network.parameters()} & {p.data_ptr() for p in fitted.parameters()}


def test_fit_is_the_same_bit_for_bit_for_the_same_seed_and_label_only() -> None:
    network, given = small(dropout=0.3), recipe()
    first, history = train(network, given)
    torch.manual_seed(99)  # the state of the process must not matter
    again, history_again = train(network, given)
    assert same(state(first), state(again)) and history.equals(history_again)
    assert not same(state(first), state(train(network, given, seed=1)[0]))
    assert not same(state(first), state(train(network, given, label="finetune")[0]))


def test_no_epochs_give_the_same_weights_and_an_empty_history() -> None:
    network = small()
    fitted, history = train(network, recipe(epochs=0))
    assert same(state(network), state(fitted)) and fitted is not network
    assert history.empty and list(history.columns) == HISTORY_COLUMNS


def test_fit_learns_what_there_is_to_learn() -> None:
    _, history = train(small(), recipe(epochs=20, augment=False))
    losses = history["train_loss_nats"]
    assert losses.iloc[0] > 1.0 and losses.iloc[-1] < 0.5 * losses.iloc[0]  # ln 4 is 1.39
    assert history["test_top1_pct"].iloc[-1] > 60
    assert history["epoch"].tolist() == list(range(1, 21))


@pytest.mark.parametrize("lr", [1e30, float("inf")])
def test_a_loss_that_is_no_number_ends_training_with_the_epoch_and_the_rate(lr: float) -> None:
    with raises_line(NumericalError, "epoch 1", "step", f"{lr:g}"):
        train(small(), recipe(lr=lr, schedule=schedule.constant))


def test_weights_that_are_no_numbers_after_the_very_last_step_are_not_handed_on() -> None:
    # One step: its loss is finite, and its update 3e38 * (gradient + 100 * weight) is not.
    given = recipe(epochs=1, batch_size=50, lr=3e38, weight_decay=100.0, schedule=schedule.constant)
    with pytest.raises(NumericalError):
        train(small(), given)


def test_check_recipe_refuses_what_the_first_step_would_stumble_over() -> None:
    check_recipe(recipe(), MOMENTUM, "recipe", 50)
    check_recipe(recipe(epochs=0, batch_size=7), MOMENTUM, "recipe", 50)
    cases: list[tuple[Recipe, Callable[..., Any], list[object]]] = [
        (recipe(batch_size=7), MOMENTUM, ["recipe.batch_size=7", 50]),
        (recipe(), partial(SGD, **{"beta": 1}), ["optimizer", "'beta'"]),
        (recipe(), partial(SGD, momentum=-1), ["optimizer", "momentum", -1]),
        (recipe(schedule=partial(schedule.cosine, **{"warm": 1})), MOMENTUM, ["recipe.schedule", "'warm'"]),
    ]
    for given, optimizer, told in cases:
        with raises_line(ConfigError, *told):
            check_recipe(given, optimizer, "recipe", 50)


def test_the_batch_size_that_check_recipe_advises_is_one_it_accepts() -> None:
    for n_images in range(3, 60):
        for batch_size in range(2, n_images):
            try:
                check_recipe(recipe(batch_size=batch_size), MOMENTUM, "recipe", n_images)
            except ConfigError as error:
                advised = int(str(error).rsplit("=", 1)[1])
                check_recipe(recipe(batch_size=advised), MOMENTUM, "recipe", n_images)


@pytest.mark.parametrize("num_classes", [4, 99, 100])
def test_evaluate_equals_a_plain_loop(num_classes: int) -> None:
    images = data(num_classes, num_images=230).test
    network = small(num_classes).train()
    with torch.no_grad():
        network(images.normalise(images.pixels))  # statistics other than 0 and 1
    before = state(network)
    quality = evaluate(network, images, batch_size=64)
    assert network.training and same(before, state(network))
    network.eval()
    losses, ranks = [], []
    with torch.no_grad():
        for pixels, label in zip(images.pixels, images.labels, strict=True):
            logits = network(images.normalise(pixels[None]))[0].double()
            losses.append(-logits.log_softmax(0)[label].item())
            ranks.append(int((logits > logits[label]).sum()))
    n_correct = sum(rank == 0 for rank in ranks)
    assert (quality["n_images"], quality["n_correct"]) == (230, n_correct)
    assert quality["top1_pct"] == 100 * n_correct / 230
    assert quality["loss_nats"] == pytest.approx(sum(losses) / 230, rel=1e-6)
    if num_classes < 100:
        assert math.isnan(quality["top5_pct"])
    else:
        assert quality["top5_pct"] == 100 * sum(rank < 5 for rank in ranks) / 230
        assert quality["top5_pct"] > quality["top1_pct"]


def test_evaluate_does_not_depend_on_the_batch_size_and_keeps_eval_mode() -> None:
    images, network = data(num_images=230).test, small().eval()
    found = [evaluate(network, images, batch_size=size) for size in (1, 7, 230, 500)]
    assert not network.training
    assert len({quality["n_correct"] for quality in found}) == 1
    assert all(quality["loss_nats"] == pytest.approx(found[0]["loss_nats"], rel=1e-6) for quality in found)


def one_batchnorm() -> tuple[nn.Sequential, Images]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(180, 4))
    nn.init.normal_(network.get_parameter("1.weight"))
    network.get_buffer("1.running_mean").fill_(7.0)
    return network, data().train


@pytest.mark.parametrize("batch_size", [50, 25, 20])
def test_recalibrated_statistics_are_those_of_the_images(batch_size: int) -> None:
    network, images = one_batchnorm()
    found = recalibrate(network, images, batch_size=batch_size)
    with torch.no_grad():
        x = network[0](images.normalise(images.pixels)).double()
    # Batches of equal size to one image: 50; 25, 25; 17, 17, 16. Their statistics count alike.
    parts = {50: [50], 25: [25, 25], 20: [17, 17, 16]}[batch_size]
    batches = [part.transpose(0, 1).flatten(1) for part in x.split(parts)]
    mean = torch.stack([batch.mean(1) for batch in batches]).mean(0)
    variance = torch.stack([batch.var(1, correction=1) for batch in batches]).mean(0)
    assert torch.allclose(found.get_buffer("1.running_mean").double(), mean, atol=1e-6)
    assert torch.allclose(found.get_buffer("1.running_var").double(), variance, rtol=1e-5)


def test_recalibration_changes_statistics_and_nothing_else() -> None:
    network, images = one_batchnorm()
    network.eval()
    before = state(network)
    found = recalibrate(network, images)
    after = state(found)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert same(before, state(network)) and not network.training and not found.training
    batchnorm = found.get_submodule("1")
    assert isinstance(batchnorm, nn.BatchNorm2d) and batchnorm.momentum == 0.1


def test_recalibration_without_batchnorm_is_a_copy() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    found = recalibrate(network, data().train)
    assert found is not network and same(state(network), state(found))


def test_recalibration_does_not_depend_on_the_random_state_of_the_process() -> None:
    # A trained network out of the store leaves another state than one just trained; the accuracies must agree.
    torch.manual_seed(0)
    network = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(180, 4))
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(state(recalibrate(network, data().train)))
    assert same(*found)
