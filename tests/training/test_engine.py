"""Steps that are captured or compiled: the same numbers as steps that are launched one by one.

A CUDA graph replays the kernels of one step on the tensors they ran on, and nothing of the Python around them. Here a
recorder does so with the operations of a CPU, and refuses what a graph refuses; marked `gpu`, the same tests run with the
graphs themselves.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from recorder import recorded
from torch import nn
from torch.optim import SGD, Adam

from models.cifar_resnet import cifar_resnet
from models.cifar_vgg import cifar_vgg_bn
from runners.data.fake import fake
from runners.data.splits import Splits, load
from runners.process.errors import ConfigError
from runners.pruning.zero import zero
from runners.storage.resume import Checkpoints
from runners.tracing.channels import trace_channels
from runners.training import engine as engine_module
from runners.training import schedule, state
from runners.training.engine import Capture, Engine, Work, cuda_graph, no_draws_on_the_cpu
from runners.training.fit import Fitted, fit
from runners.training.recipe import Recipe
from support import raises_line

# Seven steps an epoch, the last of two images: its own capture, in the fourth epoch.
RECIPE = Recipe(6, 8, 0.05, 1e-3, partial(schedule.cosine, warmup_epochs=1))
VGG = partial(cifar_vgg_bn, depth=11)


@dataclass(frozen=True)
class Place:
    """A device, and what replays its steps."""

    device: torch.device
    capture: Capture


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "cpu":
        return Place(torch.device("cpu"), recorded)
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    return Place(torch.device("cuda"), cuda_graph)


def data(device: torch.device) -> Splits:
    shape = {"num_images": 50, "channels": 2, "image_size": 6, "num_classes": 3}
    return load(
        fake, {**shape, "score_share": 0.5, "mean": (0.5,) * 2, "std": (0.2,) * 2, "seed": 0, "crop_padding": 1, "flip": True}
    ).to(device)


def blank(device: torch.device) -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.4), nn.Flatten(), nn.Linear(96, 3))
    return nn.Sequential(*layers).to(device)


SGD_MOMENTUM = partial(SGD, momentum=0.9, fused=True)
Optimizer = Callable[..., torch.optim.Optimizer]


def train(
    folder: Path,
    device: torch.device,
    engine: Engine,
    *,
    network: nn.Module | None = None,
    optimizer: Optimizer = SGD_MOMENTUM,
    recipe: Recipe = RECIPE,
) -> Fitted:
    return fit(
        network or blank(device),
        data(device),
        Checkpoints(folder),
        recipe=recipe,
        optimizer=optimizer,
        engine=engine,
        seed=3,
        label="train",
    )


def same(a: Fitted, b: Fitted) -> bool:
    ours, theirs = a[0].state_dict(), b[0].state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items()) and a[1].equals(b[1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", [SGD_MOMENTUM, partial(Adam, fused=True)])
def test_replayed_steps_give_the_bits_of_launched_ones(
    precision: str, optimizer: Optimizer, place: Place, tmp_path: Path
) -> None:
    if place.device.type == "cuda" and optimizer is not SGD_MOMENTUM:
        optimizer = partial(Adam, fused=True, capturable=True)
    captures: list[Work] = []

    def capture(step: Work) -> Work:
        captures.append(step)
        return place.capture(step)

    launched = train(tmp_path / "launched", place.device, Engine(precision), optimizer=optimizer)
    replayed = train(tmp_path / "replayed", place.device, Engine(precision, capture=capture), optimizer=optimizer)
    assert len(captures) == 2, "one for full batches and one for the last"
    assert same(launched, replayed)
    assert launched[1]["lr"].nunique() == RECIPE.epochs, "the schedule moved while steps were replayed"
    assert all(value.dtype != torch.bfloat16 for value in replayed[0].state_dict().values()), "weights stay in fp32"


@pytest.mark.parametrize("make", [partial(cifar_resnet, depth=8), partial(cifar_resnet, depth=8, shortcut="conv"), VGG])
def test_a_step_of_every_network_of_ours_can_be_captured(make: Callable[..., nn.Module], place: Place, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = make(num_classes=3, in_channels=2).to(place.device)
    recipe = replace(RECIPE, batch_size=25, epochs=2)
    engines = {"launched": Engine("bf16"), "replayed": Engine("bf16", capture=place.capture)}
    found = [train(tmp_path / name, place.device, engine, network=network, recipe=recipe) for name, engine in engines.items()]
    assert same(*found)


def test_an_optimizer_that_asks_the_device_for_the_rate_cannot_be_captured(place: Place, tmp_path: Path) -> None:
    # On a GPU a line for the user; the recorder only refuses.
    told, kind = {"cpu": ("host", RuntimeError), "cuda": ("cuda_graph=false", ConfigError)}[place.device.type]
    with pytest.raises(kind, match=told):
        train(tmp_path, place.device, Engine("fp32", capture=place.capture), optimizer=partial(SGD, foreach=True))


@pytest.mark.parametrize("step", [2, 4, 10, 30])
def test_a_captured_training_that_is_killed_goes_on_to_the_same_bits(
    step: int, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine("fp32", capture=place.capture)
    whole = train(tmp_path / "whole", place.device, engine)
    done, original = 0, state.Keeper.after_step

    def after_step(self: state.Keeper) -> None:
        nonlocal done
        original(self)
        done += 1
        if done == step:
            raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(state, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(state.Keeper, "after_step", after_step)
        with pytest.raises(InterruptedError):
            train(tmp_path / "killed", place.device, engine)
    assert same(whole, train(tmp_path / "killed", place.device, engine))


def test_the_recorder_freezes_what_a_graph_would_freeze() -> None:
    """The control: a step that reads a number of Python's repeats the first one."""
    total, rate = torch.zeros(1), [1.0]

    def step() -> None:
        total.add_(rate[0])

    replay = recorded(step)
    replay()
    rate[0] = 100.0
    replay()
    assert total.item() == 2.0

    def reads_back() -> None:
        total.add_(float(total))

    def copies_over() -> None:
        total.add_(torch.tensor([1.0]))

    for waits in (reads_back, copies_over):
        with pytest.raises(RuntimeError, match="host"):
            recorded(waits)


def test_steps_are_captured_after_the_warm_up_only() -> None:
    seen: list[str] = []
    step = Engine("fp32", capture=lambda work: lambda: seen.append("replayed")).repeated(lambda: seen.append("launched"))
    for _ in range(5):
        step()
    assert seen == ["launched"] * engine_module.WARM_UP + ["replayed"] * (5 - engine_module.WARM_UP)
    seen.clear()
    step = Engine("fp32").repeated(lambda: seen.append("launched"))
    for _ in range(5):
        step()
    assert seen == ["launched"] * 5


def test_a_capture_that_fails_says_why_and_not_how_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def graph(*_: object, **__: object) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    def step() -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    with raises_line(ConfigError, "(operation not permitted when stream is capturing)"):
        cuda_graph(step)
    with raises_line(ConfigError, "(operation failed due to a previous error"):
        cuda_graph(lambda: None)

    def too_large() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        cuda_graph(too_large)


@pytest.mark.parametrize("draw", [random.random, partial(torch.rand, 1)])
def test_random_numbers_of_the_cpu_cannot_be_captured(draw: Callable[[], object]) -> None:
    with raises_line(ConfigError, "cuda_graph=false"), no_draws_on_the_cpu():
        draw()
    with no_draws_on_the_cpu():
        torch.ones(3).sum()


def masked(network: nn.Module) -> nn.Module:
    """Filters 1 and 4 of the convolution at zero, for good."""
    return zero(network, trace_channels(network, data(next(network.parameters()).device).example), {"0": [1, 4]})


def test_masked_filters_stay_zero_whether_launched_or_replayed(place: Place, tmp_path: Path) -> None:
    network = masked(blank(place.device))
    launched = train(tmp_path / "launched", place.device, Engine("fp32"), network=network)
    replayed = train(tmp_path / "replayed", place.device, Engine("fp32", capture=place.capture), network=network)
    assert same(launched, replayed)
    weight = launched[0].get_parameter("0.weight")
    assert (weight[[1, 4]] == 0).all() and (weight[[0, 2, 3, 5]] != network.get_parameter("0.weight")[[0, 2, 3, 5]]).all()


@pytest.mark.slow
def test_a_compiled_network_learns_the_same_up_to_rounding(place: Place, tmp_path: Path) -> None:
    recipe = Recipe(2, 10, 0.05, 1e-3, schedule.constant)
    engines = {"plain": Engine("fp32"), "compiled": Engine("fp32", compiled=True), "again": Engine("fp32", compiled=True)}
    network = blank(place.device)
    network.register_module("3", nn.Identity())  # a compiled network draws its dropout in another way
    found = {
        name: train(tmp_path / name, place.device, engine, network=network, recipe=recipe) for name, engine in engines.items()
    }
    others = found["compiled"][0].state_dict()
    for name, value in found["plain"][0].state_dict().items():
        assert torch.allclose(value, others[name], rtol=1e-4, atol=1e-5), name
    pd.testing.assert_frame_equal(found["plain"][1], found["compiled"][1], rtol=1e-4)
    assert same(found["compiled"], found["again"])


def test_compiled_arithmetic_has_a_name_of_its_own() -> None:
    found = {Engine("fp32").arithmetic, Engine("bf16").arithmetic, Engine("fp32", compiled=True).arithmetic}
    assert found == {"fp32", "bf16", "fp32 compiled"}
    assert Engine("fp32", capture=recorded).arithmetic == "fp32"
