"""A task of two networks that are trained against each other, and sources that hold no pixels in memory.

A generator turns noise into images, and a critic tells them from real ones (Goodfellow et al. 2014), each with an optimizer
of its own: what `fit_networks` has to do for any such task.
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from recorder import recorded
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from runners.augmenting.changes import Changes
from runners.data.fake import fake
from runners.data.resident import Images
from runners.data.source import Batch, TrainingBatch
from runners.data.splits import Splits, load
from runners.measuring.accuracy import accuracy
from runners.measuring.evaluate import evaluate, measure
from runners.measuring.recalibrate import _equal_batches, recalibrate
from runners.process import interruption
from runners.process.counter import fold
from runners.process.errors import NumericalError
from runners.process.interruption import Preempted
from runners.storage import resume
from runners.storage.resume import Checkpoints
from runners.tasks.task import Forward
from runners.training import schedule
from runners.training.engine import Engine
from runners.training.fit import fit, fit_networks
from runners.training.recipe import Recipe
from support import augmented_epochs

RECIPE = Recipe(3, 16, 0.02, 1e-3, partial(schedule.cosine, warmup_epochs=1))
OPTIMIZERS = {"generator": partial(Adam, fused=True), "critic": partial(SGD, momentum=0.9, fused=True)}
WIDTH = 4


@dataclass(frozen=True)
class Game:
    """The critic's step, then the generator's; on the test split the critic's loss on real images counts."""

    n_sums: int = 2
    compared: Sequence[str] = ("critic_nats",)
    history_columns: Sequence[str] = ("train_critic_nats", "train_generator_nats", "test_critic_nats")

    def step(
        self, networks: Mapping[str, Forward], optimizers: Mapping[str, Optimizer], batch: TrainingBatch, *, precision: str
    ) -> Tensor:
        x = batch[0]
        generator, critic = networks["generator"], networks["critic"]
        made = generator(torch.randn(len(x), WIDTH, device=x.device)).view(x.shape)
        told = F.softplus(-critic(x)).mean() + F.softplus(critic(made.detach())).mean()
        update(optimizers["critic"], told)
        fooled = F.softplus(-critic(made)).mean()
        update(optimizers["generator"], fooled)
        return torch.stack([told.detach(), fooled.detach()]) * len(x)

    def count(self, networks: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        return F.softplus(-networks["critic"](batch[0])).sum().double()[None]

    def quality(self, counts: Sequence[float], n_images: int) -> dict[str, Any]:
        return {"critic_nats": counts[0] / n_images, "n_images": n_images}

    def history(self, sums: Sequence[float], n_images: int, tested: Mapping[str, Any]) -> dict[str, float]:
        values = (sums[0] / n_images, sums[1] / n_images, tested["critic_nats"])
        return dict(zip(self.history_columns, values, strict=True))

    def best(self, history: pd.DataFrame) -> dict[str, Any]:
        return {}


def update(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def data(channels: int = 2) -> Splits:
    shape = {"num_images": 50, "channels": channels, "image_size": 6, "num_classes": 3, "crop_padding": 1, "flip": True}
    return load(fake, shape | {"score_share": 0.5, "mean": (0.5,) * channels, "std": (0.2,) * channels, "seed": 0})


def players() -> dict[str, nn.Module]:
    torch.manual_seed(1)
    critic = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(80, 1))
    return {"generator": nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, 72)), "critic": critic}


Played = tuple[dict[str, nn.Module], pd.DataFrame]


def play(folder: Path, *, engine: Engine | None = None, task: Game | None = None) -> Played:
    return fit_networks(
        players(),
        data(),
        Checkpoints(folder),
        task=task or Game(),
        recipe=RECIPE,
        optimizers=OPTIMIZERS,
        engine=engine or Engine("fp32"),
        seed=3,
        label="play",
    )


def weights(played: Played) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, net in played[0].items() for key, value in net.state_dict().items()}


def same(a: Played, b: Played) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours) and a[1].equals(b[1])


def test_two_networks_learn_what_a_plain_loop_learns(tmp_path: Path) -> None:
    found, history = play(tmp_path)
    splits, networks = data(), players()
    networks["critic"].to(memory_format=torch.channels_last)  # as in `fit`: dropout draws in the order of memory
    optimizers: dict[str, Optimizer] = {
        "generator": Adam(networks["generator"].parameters(), weight_decay=1e-3),
        "critic": SGD(networks["critic"].parameters(), momentum=0.9, weight_decay=1e-3),
    }
    stream = fold(3, *b"play")
    epochs = augmented_epochs(splits.train, batch_size=16, crop_padding=1, flip=True)
    rows = []
    for epoch in range(3):
        torch.manual_seed(fold(stream, epoch))
        networks["critic"].train()
        sums, rate = torch.zeros(2), 0.0
        for step, batch in enumerate(epochs(stream, epoch)):
            rate = 0.02 * schedule.cosine(epoch + step / 4, 3, warmup_epochs=1)
            for optimizer in optimizers.values():
                optimizer.param_groups[0]["lr"] = rate
            sums += Game().step(networks, optimizers, batch, precision="fp32")
        networks["critic"].eval()
        with torch.no_grad():
            tested = F.softplus(-networks["critic"](splits.test.normalise(splits.test.pixels))).mean()
        rows.append([epoch + 1, rate, *(sums / 50).tolist(), float(tested)])
    assert list(history) == ["epoch", "lr", *Game().history_columns]
    assert history.to_numpy() == pytest.approx(torch.tensor(rows).double().numpy(), rel=1e-5)
    for name, network in networks.items():
        for key, value in network.state_dict().items():
            assert torch.allclose(found[name].state_dict()[key], value, rtol=1e-5, atol=1e-6), (name, key)


def test_networks_that_were_given_stay_as_they_were(tmp_path: Path) -> None:
    given = players()
    settings = {"task": Game(), "recipe": RECIPE, "optimizers": OPTIMIZERS, "engine": Engine("fp32")}
    found, _ = fit_networks(given, data(), Checkpoints(tmp_path), **settings, seed=3, label="play")
    blank = players()
    assert all(not torch.equal(*pair) for pair in zip(given["critic"].parameters(), found["critic"].parameters(), strict=True))
    assert all(
        torch.equal(value, blank[n].state_dict()[key]) for n, net in given.items() for key, value in net.state_dict().items()
    )


@dataclass(frozen=True)
class Signalled(Game):
    """A game during whose step number `at` SIGTERM comes."""

    at: int = 0
    done: list[int] | None = None

    def step(
        self, networks: Mapping[str, Forward], optimizers: Mapping[str, Optimizer], batch: TrainingBatch, *, precision: str
    ) -> Tensor:
        assert self.done is not None
        self.done.append(1)
        if len(self.done) == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(networks, optimizers, batch, precision=precision)


@dataclass(frozen=True)
class SignalledInTest(Signalled):
    """A game during whose measurement number `at` of the test split SIGTERM comes."""

    def step(
        self, networks: Mapping[str, Forward], optimizers: Mapping[str, Optimizer], batch: TrainingBatch, *, precision: str
    ) -> Tensor:
        return Game.step(self, networks, optimizers, batch, precision=precision)

    def count(self, networks: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        assert self.done is not None
        self.done.append(1)
        if len(self.done) == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().count(networks, batch)


@pytest.fixture
def listening() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    interruption.listen()
    yield
    interruption.listen()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("at", [1, 4, 6, 9])  # four steps an epoch
def test_two_networks_that_are_stopped_go_on_to_the_same_bits(at: int, tmp_path: Path, listening: None) -> None:
    whole = play(tmp_path / "whole")
    with pytest.raises(Preempted):
        play(tmp_path / "stopped", task=Signalled(at=at, done=[]))
    saved = Checkpoints(tmp_path / "stopped").load()
    assert saved is not None and 4 * saved["epoch"] + saved["step"] == at
    interruption.listen()
    assert same(whole, play(tmp_path / "stopped"))


@pytest.mark.parametrize("at", [1, 3])  # the last one ends the training
def test_a_signal_is_obeyed_while_the_test_split_is_measured(at: int, tmp_path: Path, listening: None) -> None:
    whole = play(tmp_path / "whole")
    with pytest.raises(Preempted):
        play(tmp_path / "stopped", task=SignalledInTest(at=at, done=[]))
    saved = Checkpoints(tmp_path / "stopped").load()
    assert saved is not None and (saved["epoch"], saved["step"]) == (at - 1, 4)
    interruption.listen()
    assert same(whole, play(tmp_path / "stopped"))


@pytest.mark.parametrize("forgotten", ["networks", "optimizers", "generators", "totals"])
@pytest.mark.parametrize("name", ["generator", "critic"])
def test_without_any_part_of_its_state_it_would_not(forgotten: str, name: str, tmp_path: Path, listening: None) -> None:
    whole = play(tmp_path / "whole")
    for at, folder in ((5, "early"), (6, "stopped")):
        interruption.listen()
        with pytest.raises(Preempted):
            play(tmp_path / folder, task=Signalled(at=at, done=[]))
    interruption.listen()
    early, saved = (Checkpoints(tmp_path / folder).load() for folder in ("early", "stopped"))
    assert early is not None and saved is not None
    part = saved[forgotten]
    if forgotten in ("networks", "optimizers"):
        part[name] = early[forgotten][name]
    else:
        saved[forgotten] = early[forgotten]
    Checkpoints(tmp_path / "stopped").save(saved)
    assert not same(whole, play(tmp_path / "stopped"))


def test_a_game_is_captured_and_replayed_to_the_same_bits(tmp_path: Path) -> None:
    captured = []

    def capture(step: Callable[[], None]) -> Callable[[], None]:
        captured.append(step)
        return recorded(step)

    assert same(play(tmp_path / "a"), play(tmp_path / "b", engine=Engine("fp32", capture=capture)))
    assert len(captured) == 1, "the last batch of each epoch has come three times only"


def test_a_loss_that_is_no_number_ends_a_game(tmp_path: Path) -> None:
    with pytest.raises(NumericalError):
        fit_networks(
            players(),
            data(),
            Checkpoints(tmp_path),
            task=Game(),
            recipe=replace(RECIPE, lr=1e38, schedule=schedule.constant),
            optimizers=OPTIMIZERS,
            engine=Engine("fp32"),
            seed=3,
            label="play",
        )


def test_a_table_has_the_columns_of_its_task() -> None:
    class Alone(Game):
        def count(self, networks: Mapping[str, nn.Module], batch: Batch) -> Tensor:
            return F.softplus(-networks["network"](batch[0])).sum().double()[None]

    critic = players()["critic"]
    table = accuracy({"trained": critic}, data(), {}, task=Alone())
    assert table["critic_nats"][0] == measure({"network": critic}, data().test, Alone())["critic_nats"]
    assert table["n_images"][0] == 50 and not {"top1_pct", "best_epoch"} & set(table)


def one(channels: int = 2) -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.4), nn.Flatten(), nn.Linear(96, 3))
    return nn.Sequential(*layers)


def test_a_state_of_the_earlier_form_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: None) -> None:
    def train(folder: Path) -> Played:
        optimizer, engine = partial(SGD, momentum=0.9, fused=True), Engine("fp32")
        given = {"recipe": RECIPE, "optimizer": optimizer, "engine": engine, "seed": 3, "label": "train"}
        network, history = fit(one(), data(), Checkpoints(folder), **given, watch=stop_at_second)
        return {"network": network}, history

    def stop_at_second(row: Mapping[Any, Any]) -> None:
        if row["epoch"] == stopping:
            os.kill(os.getpid(), signal.SIGTERM)

    stopping = 0
    whole = train(tmp_path / "whole")
    stopping = 1
    with pytest.raises(Preempted):
        train(tmp_path / "stopped")
    stopping = 0
    interruption.listen()
    saved = Checkpoints(tmp_path / "stopped").load()
    assert saved is not None and (saved["epoch"], saved["step"]) == (1, 1)
    # Version 1 held one network under `network` and one optimizer under `update`.
    earlier = saved | {"network": saved["networks"]["network"], "update": saved["optimizers"]["network"]}
    del earlier["networks"], earlier["optimizers"]
    Checkpoints(tmp_path / "stopped").clear()
    with monkeypatch.context() as patch:
        patch.setattr(resume, "VERSION", 1)
        Checkpoints(tmp_path / "stopped").save(earlier)
    assert same(whole, train(tmp_path / "stopped"))


@dataclass(frozen=True)
class Elsewhere:
    """Images of which only batches come to memory, as of files."""

    inner: Images

    @property
    def labels(self) -> Tensor:
        return self.inner.labels

    @property
    def example(self) -> Tensor:
        return self.inner.example

    def __len__(self) -> int:
        return len(self.inner)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        return self.inner.batches(batch_size)

    def steps(self, batch_size: int, *, stream: int, changes: Changes) -> Any:
        return self.inner.steps(batch_size, stream=stream, changes=changes)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("batch_size", [50, 16, 7, 3])
def test_measuring_asks_a_source_for_batches_only(batch_size: int, channels: int) -> None:
    images, network = data(channels).train, one(channels).eval()
    quality = evaluate(network, images, batch_size=50)
    assert evaluate(network, Elsewhere(images), batch_size=batch_size)["n_correct"] == quality["n_correct"]
    found, expected = recalibrate(network, Elsewhere(images), batch_size=batch_size), deepcopy(network)
    parts = [images.normalise(part) for part in images.pixels.tensor_split(-(-50 // batch_size))]
    torch.manual_seed(0)
    torch.optim.swa_utils.update_bn(iter(parts), expected)
    for key, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key
    equal = zip(_equal_batches(Elsewhere(images), batch_size), parts, strict=True)
    assert all(ours.stride() == theirs.stride() for ours, theirs in equal if len(theirs) > 1)
