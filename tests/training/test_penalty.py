"""Penalties on the gradients against autograd of the written-out loss, alone and inside a training."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
from recorder import recorded
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from runners.data.fake import fake
from runners.data.splits import Splits, load
from runners.process.counter import fold
from runners.storage.resume import Checkpoints
from runners.training import schedule
from runners.training.engine import Engine
from runners.training.fit import Fitted, fit
from runners.training.penalty import Penalty, l1, near_zero, slimming
from runners.training.recipe import Recipe
from support import augmented_epochs


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(96, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    found = nn.Sequential(*layers)
    nn.init.normal_(found.get_parameter("1.weight"))
    return found


def norm(penalised: nn.Module, *names: str) -> Tensor:
    return torch.stack([penalised.get_parameter(name).abs().sum() for name in names]).sum()


WRITTEN_OUT: list[tuple[Callable[..., None], tuple[str, ...]]] = [
    (l1, ("0.weight", "3.weight", "5.weight")),
    (slimming, ("1.weight",)),  # the scale of BatchNorm1d is not among them
]


@pytest.mark.parametrize(("penalty", "names"), WRITTEN_OUT)
def test_gradients_are_those_of_the_written_out_loss(penalty: Callable[..., None], names: tuple[str, ...]) -> None:
    ours, theirs = network().double(), network().double()
    x, labels = torch.randn(7, 3, 6, 6, dtype=torch.float64), torch.arange(7) % 4
    F.cross_entropy(ours(x), labels).backward()
    penalty(ours, strength=0.03)
    (F.cross_entropy(theirs(x), labels) + 0.03 * norm(theirs, *names)).backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-12, msg=name)


def test_zeros_and_parameters_without_a_gradient_are_left_alone() -> None:
    given = network()
    with torch.no_grad():
        given.get_parameter("0.weight").zero_()
    given.get_parameter("3.weight").requires_grad_(False)
    given(torch.randn(7, 3, 6, 6)).sum().backward()
    before = deepcopy([parameter.grad for parameter in given.parameters()])
    l1(given, strength=1.0)
    after = [parameter.grad for parameter in given.parameters()]
    changed = [name for (name, _), a, b in zip(given.named_parameters(), before, after, strict=True) if not same_grad(a, b)]
    assert changed == ["5.weight"]


def same_grad(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def data() -> Splits:
    shape = {"num_images": 30, "channels": 3, "image_size": 6, "num_classes": 4}
    return load(
        fake, {**shape, "score_share": 0.5, "mean": (0.5,) * 3, "std": (0.2,) * 3, "seed": 0, "crop_padding": 1, "flip": True}
    )


def train(folder: Path, penalty: Penalty | None, *, epochs: int = 2, capture: bool = False) -> Fitted:
    recipe = Recipe(epochs, 10, 0.05, 1e-3, schedule.constant, penalty=penalty)
    optimizer = partial(SGD, momentum=0.9, fused=True)
    engine = Engine("fp32", capture=recorded if capture else None)
    return fit(network(), data(), Checkpoints(folder), recipe=recipe, optimizer=optimizer, engine=engine, seed=0, label="train")


@pytest.mark.parametrize(("penalty", "names"), WRITTEN_OUT)
def test_a_training_equals_a_plain_loop(penalty: Callable[..., None], names: tuple[str, ...], tmp_path: Path) -> None:
    splits, expected, stream = data(), network(), fold(0, *b"train")
    update = SGD(expected.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    epochs = augmented_epochs(splits.train, batch_size=10, crop_padding=1, flip=True)
    for epoch in range(2):
        for x, labels in epochs(stream, epoch):
            update.zero_grad()
            (F.cross_entropy(expected(x), labels) + 0.02 * norm(expected, *names)).backward()
            update.step()
    found, history = train(tmp_path / "with", partial(penalty, strength=0.02))
    for (name, ours), theirs in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)
    without = train(tmp_path / "without", None)[0]
    assert not torch.allclose(without.get_parameter(names[0]), found.get_parameter(names[0]), atol=1e-4)
    assert "train_loss_nats" in history, "the loss alone, as without a penalty"


@pytest.mark.parametrize("penalty", [l1, slimming])
def test_a_replayed_step_holds_the_penalty(penalty: Callable[..., None], tmp_path: Path) -> None:
    given = partial(penalty, strength=0.02)
    launched, replayed = (train(tmp_path / str(capture), given, epochs=4, capture=capture)[0] for capture in (False, True))
    for ours, theirs in zip(launched.state_dict().values(), replayed.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_training_with_a_penalty_ends_with_the_share_near_zero(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        found, _ = train(tmp_path / "strong", partial(slimming, strength=0.3), epochs=8)
    n_small = int((found.get_parameter("1.weight").abs() < 0.01).sum())
    assert f"train: {n_small} of 6 scales of BatchNorm" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        train(tmp_path / "none", None)
    assert "scales" not in caplog.text


def test_shares_by_hand() -> None:
    given = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 1))
    with torch.no_grad():
        for name, values in {"0.weight": [0.0099, -0.5], "1.weight": [0.0, -0.0101], "2.weight": [-0.001, 0.002]}.items():
            given.get_parameter(name).copy_(torch.tensor(values).view_as(given.get_parameter(name)))
    assert near_zero(given) == "1 of 2 scales of BatchNorm and 3 of 4 weights are below 0.01 in size"
    assert near_zero(nn.Flatten()).startswith("0 of 0 ")
