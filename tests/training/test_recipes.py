"""Schedules, optimizers and named recipes: their numbers, and that every one of them trains, stops and goes on."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from recorder import recorded
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from models.activation import drop_activation, rrelu
from runners.command.checks import whole
from runners.data.fake import fake
from runners.data.splits import Splits, load
from runners.storage.resume import Checkpoints
from runners.training import schedule, state
from runners.training.engine import Engine
from runners.training.fit import Fitted, fit
from runners.training.recipe import Recipe, check_recipe
from runners.training.state import Training
from support import ROOT

Change = Callable[[nn.Module], nn.Module]
OPTIMIZERS = sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml"))
STEPS = sorted(path.stem for path in (ROOT / "conf" / "schedule").glob("steps_*.yaml"))


@cache
def composed(*overrides: str) -> dict[str, Any]:
    """The parts of a config that make a training, as plain values."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", list(overrides))
    found = OmegaConf.to_container(OmegaConf.masked_copy(config, ["recipe", "finetune", "optimizer"]), resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


@pytest.mark.parametrize("rise", ["linear", "cosine"])
def test_one_cycle_is_that_of_pytorch(rise: Literal["linear", "cosine"]) -> None:
    epochs, steps, peak, start, end = 4, 40, 0.3, 0.04, 4e-6
    ours = partial(schedule.one_cycle, rise=rise, peak=peak, start=start, end=end)
    update = SGD([torch.zeros(1, requires_grad=True)], lr=1)
    # Theirs ends with the last of its steps, at 40, and has its peak one step early.
    share = (peak * steps + 1) / (steps + 1)
    theirs = OneCycleLR(
        update,
        2.0,
        steps + 1,
        pct_start=share,
        anneal_strategy="cos" if rise == "cosine" else "linear",
        div_factor=1 / start,
        final_div_factor=start / end,
        cycle_momentum=False,
    )
    for step in range(steps + 1):
        if rise == "cosine" or step <= peak * steps:  # the fall is a cosine in either case
            assert 2 * ours(step * epochs / steps, epochs) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9), step
        update.step()
        theirs.step()


# by hand: the peak is 1, halfway down a cosine is the mean of 1 and the end
def test_one_cycle_by_hand() -> None:
    cycle = partial(schedule.one_cycle, rise="linear", peak=0.25, start=0.2, end=0.1)
    found = [cycle(time, 8) for time in (0, 1, 2, 5, 8)]
    assert found == pytest.approx([0.2, 0.6, 1, 0.55, 0.1], abs=1e-12)
    assert cycle(0, 0) == 0.2, "no epochs"


@pytest.mark.parametrize("name", STEPS)
def test_milestones_are_those_of_the_name(name: str) -> None:
    found = whole(f"schedule/{name}.yaml")
    assert found["milestones"] == [int(number) for number in re.findall(r"\d+", name)]
    assert found["_target_"] == "runners.training.schedule.steps"
    assert found["gamma"] == (0.2 if name.endswith("_fifth") else 0.1)


def optimizer_of(name: str) -> Callable[..., Optimizer]:
    return instantiate(composed(f"optimizer={name}")["optimizer"], _convert_="object")


def test_sgd_changes_no_recipe() -> None:
    rates = {section: composed()[section]["lr"] for section in ("recipe", "finetune")}
    assert rates == {"recipe": 0.03, "finetune": 0.005}
    assert composed("optimizer=sgd") == composed()


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "sgd"])
def test_an_optimizer_brings_its_rate_and_the_command_line_wins(name: str) -> None:
    found, given = composed(f"optimizer={name}"), composed(f"optimizer={name}", "recipe.lr=0.3", "finetune.lr=0.2")
    assert found["recipe"]["lr"] == pytest.approx(10 * found["finetune"]["lr"])
    assert (given["recipe"]["lr"], given["finetune"]["lr"]) == (0.3, 0.2)
    for section in ("recipe", "finetune"):
        assert found[section] | {"lr": None} == composed()[section] | {"lr": None}, "nothing but the rate"
    if name != "asgd":  # the same as SGD's
        assert found["recipe"]["lr"] == optimizer_of(name)([torch.zeros(1)]).defaults["lr"], "PyTorch's"


def blank() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.4), nn.Flatten(), nn.Linear(96, 3))


def data() -> Splits:
    shape = {"num_images": 30, "channels": 2, "image_size": 6, "num_classes": 3}
    return load(
        fake, {**shape, "score_share": 0.5, "mean": (0.5,) * 2, "std": (0.2,) * 2, "seed": 0, "crop_padding": 1, "flip": True}
    )


def train(folder: Path, name: str, engine: Engine, change: Change = lambda network: network) -> Fitted:
    """A training by the named optimizer, at its rate, of a network that is changed first."""
    given = Recipe(3, 8, composed(f"optimizer={name}")["recipe"]["lr"], 1e-3, partial(schedule.cosine, warmup_epochs=1))
    network, checkpoints, optimizer = change(blank()), Checkpoints(folder), optimizer_of(name)
    return fit(network, data(), checkpoints, recipe=given, optimizer=optimizer, engine=engine, seed=3, label="train")


def same(a: Fitted, b: Fitted) -> bool:
    ours, theirs = a[0].state_dict(), b[0].state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items()) and a[1].equals(b[1])


def goes_on(folder: Path, run: Callable[[Path], Fitted]) -> bool:
    """True if a training that is killed after six steps, of twelve, ends with the bits of one that is not."""
    whole, done, original = run(folder / "whole"), 0, state.Keeper.after_step

    def after_step(self: state.Keeper) -> None:
        nonlocal done
        original(self)
        done += 1
        if done == 6:
            raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(state.Keeper, "after_step", after_step)
        with pytest.raises(InterruptedError):
            run(folder / "killed")
    assert Checkpoints(folder / "killed").load() is not None
    assert not torch.equal(whole[0].get_parameter("0.weight"), blank().get_parameter("0.weight"))
    return same(whole, run(folder / "killed"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_by_any_optimizer_that_is_killed_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    assert goes_on(tmp_path, lambda folder: train(folder, name, Engine("fp32")))


RANDOM: dict[str, Change] = {
    "rrelu": partial(rrelu, lower=1 / 8, upper=1 / 3),
    "drop_activation": partial(drop_activation, keep=0.7, only=["*"]),
}


@pytest.mark.parametrize("change", RANDOM.values(), ids=RANDOM)
def test_so_does_one_with_random_activations_and_its_steps_can_be_replayed(change: Change, tmp_path: Path) -> None:
    assert goes_on(tmp_path, lambda folder: train(folder, "sgd", Engine("fp32"), change))
    launched, replayed = (
        train(tmp_path / name, "sgd", Engine("fp32", capture=capture), change)
        for name, capture in {"launched": None, "replayed": recorded}.items()
    )
    assert same(launched, replayed) and not same(launched, train(tmp_path / "plain", "sgd", Engine("fp32")))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rate_in_a_tensor_is_followed_as_a_number_is(name: str) -> None:
    make, rates = optimizer_of(name), (0.02, 0.01, 0.001, 0.03)
    found = []
    for held in (True, False):
        torch.manual_seed(0)
        weights = [torch.randn(4, 3, requires_grad=True), torch.randn(5, requires_grad=True)]
        lr: Any = torch.tensor(rates[0]) if held else rates[0]
        update = make(weights, lr=lr, weight_decay=0.01)
        for rate in rates:
            for group in update.param_groups:
                group["lr"] = group["lr"].fill_(rate) if held else rate
            for weight in weights:
                weight.grad = torch.randn_like(weight)
            update.step()
        found.append(torch.cat([weight.detach().flatten() for weight in weights]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_check_before_training_takes_every_optimizer(name: str) -> None:
    values = composed(f"optimizer={name}")
    check_recipe(instantiate(values["recipe"]), optimizer_of(name), "recipe", 50_000)


# The others count on the host, unless they run on a GPU: see below.
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adagrad"])
def test_steps_by_kernels_of_all_parameters_can_be_replayed(name: str, tmp_path: Path) -> None:
    launched = train(tmp_path / "launched", name, Engine("fp32"))
    assert same(launched, train(tmp_path / "replayed", name, Engine("fp32", capture=recorded)))


@pytest.mark.parametrize("name", ["asgd", "adamax", "adadelta"])
def test_steps_on_a_gpu_never_wait_for_it(name: str) -> None:
    """On imitations of tensors of a GPU, which have no values, whatever asks for one fails."""
    make = optimizer_of(name)

    def step(*, as_trained: bool) -> None:
        with FakeTensorMode():
            weight = torch.zeros(3, 4, device="cuda", requires_grad=True)
            update = make([weight], lr=0.1, weight_decay=1e-4)
            rate = torch.zeros((), device="cuda")
            training = Training({}, {"network": update}, rate, torch.zeros(2))
            training._share_the_rate()
            for group in update.param_groups:
                group["capturable"] &= as_trained
            weight.grad = torch.zeros(3, 4, device="cuda")
            update.step()

    step(as_trained=True)
    with pytest.raises(DataDependentOutputException):
        step(as_trained=False)


@dataclass(frozen=True)
class Printed:
    """A recipe as its source prints it: images a step, weight decay, and the rate from each of these epochs on."""

    epochs: int
    batch_size: int
    weight_decay: float
    rates: Mapping[int, float]
    augment: bool = True


TENTHS, FIFTHS = (0.1, 0.01, 0.001, 0.0001), (0.1, 0.02, 0.004, 0.0008)
SVHN_FIFTHS = (0.01, 0.002, 0.0004)


def falling(rates: Sequence[float], *milestones: int) -> dict[int, float]:
    """The rates between milestones."""
    return dict(zip((0, *milestones), rates, strict=False))


# Sources: A is the ICLR'21 submission, table 64 (no learning rate; the upstream default); D is Liang et al. 2020, tables 6-8;
# the others are authors' training code.
PRINTED = {
    "cifar": Printed(180, 128, 1e-4, falling(TENTHS, 82, 164)),  # A
    "finetune": Printed(40, 64, 1e-4, {0: 0.001}),  # rethinking, not printed in A
    "imagenet": Printed(90, 256, 1e-4, falling(TENTHS, 30, 60)),  # He et al. 2016 and PyTorch's code
    "imagenet_120": Printed(120, 256, 1e-4, falling(TENTHS, 30, 60, 90)),  # A, and D table 7
    "bearpaw_resnet": Printed(164, 128, 1e-4, falling(TENTHS, 81, 122)),
    "bearpaw_vgg": Printed(164, 128, 5e-4, falling(TENTHS, 81, 122)),
    "bearpaw_wrn": Printed(200, 128, 5e-4, falling(FIFTHS, 60, 120, 160)),
    "bearpaw_resnext": Printed(300, 128, 5e-4, falling(TENTHS, 150, 225)),
    "bearpaw_densenet": Printed(300, 64, 1e-4, falling(TENTHS, 150, 225)),
    "dropact_resnet": Printed(164, 128, 1e-4, falling(TENTHS, 81, 122)),  # D table 6
    "dropact_wrn": Printed(200, 128, 5e-4, falling(FIFTHS, 80, 120, 160)),
    "dropact_resnext": Printed(300, 128, 5e-4, falling(TENTHS, 150, 225)),
    "dropact_vgg19bn": Printed(200, 128, 1e-4, falling(TENTHS, 80, 140)),
    "dropact_densenet_190_40": Printed(300, 32, 1e-4, falling(TENTHS, 150, 225)),
    "dropact_densenet_100_12": Printed(300, 64, 1e-4, falling(TENTHS, 150, 225)),
    "dropact_svhn_wrn": Printed(160, 128, 5e-4, falling(SVHN_FIFTHS, 80, 120), augment=False),  # D table 8
    "dropact_svhn_resnext": Printed(100, 128, 5e-4, falling(TENTHS, 40, 70), augment=False),
    "dropact_svhn_densenet": Printed(40, 64, 1e-4, falling(TENTHS, 20, 30), augment=False),
    "rethinking": Printed(160, 64, 1e-4, falling(TENTHS, 80, 120)),
    "slimming": Printed(160, 64, 1e-4, falling(TENTHS, 80, 120)),
}


@pytest.mark.parametrize("name", PRINTED)
def test_a_named_recipe_is_that_of_its_source(name: str) -> None:
    recipe: Recipe = instantiate(composed(f"recipe={name}", "dataset=cifar10")["recipe"])
    printed = PRINTED[name]
    assert (recipe.epochs, recipe.batch_size, recipe.augment) == (printed.epochs, printed.batch_size, printed.augment)
    assert recipe.weight_decay == pytest.approx(printed.weight_decay, rel=1e-12)
    starts = [*printed.rates, printed.epochs]
    for first, following in pairwise(starts):
        for time in (first, (first + following) / 2, following - 1e-6):
            assert recipe.rate(time) == pytest.approx(printed.rates[first], rel=1e-9), time
    assert (recipe.policy, recipe.erase, recipe.mix, recipe.label_smoothing) == (None, None, None, 0)
    assert (recipe.penalty is not None) == (name == "slimming")


def test_every_recipe_is_compared_with_its_source_or_says_that_it_is_ours() -> None:
    for path in (ROOT / "conf" / "recipe").glob("*.yaml"):
        assert path.stem in PRINTED or path.stem == "base" or path.read_text().startswith("# Ours"), path.stem


def test_the_schedule_of_any_recipe_can_be_replaced() -> None:
    found = composed("recipe=dropact_wrn", "dataset=cifar10", "schedule@recipe.schedule=cosine")["recipe"]["schedule"]
    assert found["_target_"] == "runners.training.schedule.cosine" and "gamma" not in found


def test_slimming_has_its_strength() -> None:
    assert composed("recipe=slimming", "dataset=cifar10")["recipe"]["penalty"]["strength"] == 1e-4
