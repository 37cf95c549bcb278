"""Initialisations and activations by their formulas; that all are pruned exactly is tested for every YAML in test_changes."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from exactness import images, randomised, share_of_free_groups
from models import init
from models.activation import DropActivation, drop_activation, rrelu
from models.cifar_resnet import cifar_resnet
from runners.pruning.passing import MEANS
from runners.pruning.proof import prove
from runners.pruning.remove import remove
from runners.tracing.channels import trace_channels
from support import raises_line

Change = Callable[[nn.Module], nn.Module]


def layers() -> nn.Sequential:
    """Many weights, few of them a filter: 400 filters on 100 channels, 3 x 5."""
    return nn.Sequential(nn.Conv2d(100, 400, (3, 5)), nn.Linear(7, 7))


# scheme, standard deviation by hand: sqrt(2 / fan_in), sqrt(2 / fan_out), sqrt(2 / (fan_in + fan_out)); 1,500 and 6,000
FANS = {"fan_in": 1500, "fan_out": 6000}
SCHEMES: list[tuple[str, dict[str, Any], float]] = [
    *(("kaiming", {"mode": mode, "gain": math.sqrt(2)}, math.sqrt(2 / fan)) for mode, fan in FANS.items()),
    ("kaiming", {"mode": "fan_in", "gain": 3.0}, 3 / math.sqrt(1500)),
    ("xavier", {"gain": 1.0}, math.sqrt(2 / 7500)),
    ("xavier", {"gain": 2.0}, 2 * math.sqrt(2 / 7500)),
]


@pytest.mark.parametrize("shape", ["normal", "uniform"])
@pytest.mark.parametrize(("scheme", "options", "deviation"), SCHEMES)
def test_deviations_are_those_of_the_formula(shape: str, scheme: str, options: dict[str, Any], deviation: float) -> None:
    torch.manual_seed(0)
    network = layers()
    others = [network.get_parameter(name) for name in ("0.bias", "1.weight", "1.bias")]
    untouched = [parameter.clone() for parameter in others]
    assert getattr(init, f"{scheme}_{shape}")(network, **options) is network
    weight = network.get_parameter("0.weight").detach().double()
    # 600,000 weights: the deviation of a deviation is 0.1 %, of a mean 0.13 %.
    assert float(weight.std()) == pytest.approx(deviation, rel=0.005)
    assert abs(float(weight.mean())) < 0.007 * deviation
    bound, reached = math.sqrt(3) * deviation, float(weight.abs().max())
    assert (0.9999 * bound < reached <= bound * (1 + 1e-6)) if shape == "uniform" else reached > 4 * deviation
    assert all(torch.equal(a, b) for a, b in zip(untouched, others, strict=True))


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("shape", ["normal", "uniform"])
def test_kaiming_is_that_of_pytorch_for_relu(shape: str, mode: Any) -> None:
    expected = torch.empty(6, 4, 3, 3)
    network = nn.Sequential(nn.Conv2d(4, 6, 3))
    torch.manual_seed(0)
    getattr(nn.init, f"kaiming_{shape}_")(expected, mode=mode, nonlinearity="relu")
    torch.manual_seed(0)
    getattr(init, f"kaiming_{shape}")(network, mode=mode, gain=math.sqrt(2))
    assert torch.equal(network.get_parameter("0.weight"), expected)


def test_drop_activation_by_definition() -> None:
    torch.manual_seed(0)
    module, x, g = DropActivation(0.7), *torch.randn(2, 200, 500, dtype=torch.float64)
    leaf, positive = x.clone().requires_grad_(), x >= 0
    y = module(leaf)
    [grad] = torch.autograd.grad(y, leaf, g)
    assert torch.equal(y[positive], x[positive]) and torch.equal(grad[positive], g[positive])
    cut = y[~positive] == 0
    assert torch.equal(y[~positive][~cut], x[~positive][~cut]), "a negative number is cut off or stays as it is"
    assert torch.equal(grad[~positive], g[~positive] * ~cut), "the same mask on the way back"
    # 50,000 negative numbers: the deviation of their share is 0.002.
    assert float(cut.double().mean()) == pytest.approx(0.7, abs=0.009)
    again = module(x)
    assert not torch.equal(again, y) and torch.equal(again[positive], y[positive]), "drawn anew"
    assert torch.equal(module.eval()(x), torch.where(positive, x, (1 - 0.7) * x))


@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_drop_activation_at_its_ends(keep: float) -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 3.0], requires_grad=True)
    module = DropActivation(keep)
    y = module(x)
    y.sum().backward()
    assert y.tolist() == [-2 * (1 - keep), 0, 0, 3] == module.eval()(x).tolist()
    assert x.grad is not None and x.grad.tolist() == [1 - keep, 1, 1, 1]


# Liang et al. 2020, property 2, as evaluated in our specification 8.4: for a standard normal number, variance while training,
# variance in eval mode, and their ratio, of which the paper prints .9377 at .95.
@pytest.mark.parametrize(("keep", "training", "ratio"), [(0.95, 0.381363, 0.937723), (0.9, None, 0.89313), (0.5, None, 0.824)])
def test_variances_of_drop_activation(keep: float, training: float | None, ratio: float) -> None:
    x = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    module = DropActivation(keep)
    drawn, mean = module(x).double(), module.eval()(x).double()
    assert float(mean.var() / drawn.var()) == pytest.approx(ratio, abs=0.002)
    assert training is None or float(drawn.var()) == pytest.approx(training, abs=0.002)
    # The same mean in both modes: p / sqrt(2 pi), as E max(x, 0) = -E min(x, 0) = 1 / sqrt(2 pi).
    for found in (drawn, mean):
        assert float(found.mean()) == pytest.approx(keep / math.sqrt(2 * math.pi), abs=0.002)


def test_rrelu_by_definition() -> None:
    network = rrelu(nn.Sequential(nn.ReLU()), lower=1 / 8, upper=1 / 3)
    x = torch.full((100_000,), -1.0, dtype=torch.float64)
    torch.manual_seed(0)
    slopes = -network.train()(x)
    assert 1 / 8 <= slopes.min() < 0.1251 and 0.3332 < slopes.max() <= 1 / 3
    # Uniform: deviation (1/3 - 1/8) / sqrt(12) = 0.0601, that of the mean 0.0002.
    assert float(slopes.mean()) == pytest.approx(11 / 48, abs=0.0008)
    assert float(slopes.std()) == pytest.approx((1 / 3 - 1 / 8) / math.sqrt(12), rel=0.01)
    assert network.eval()(x)[0] == pytest.approx(-11 / 48, rel=1e-12)
    with raises_line(ValueError, "lower=0.5", "upper=0.1"):
        rrelu(nn.Sequential(nn.ReLU()), lower=0.5, upper=0.1)


RANDOM: dict[str, Change] = {
    "rrelu": partial(rrelu, lower=1 / 8, upper=1 / 3),
    "drop_activation": partial(drop_activation, keep=0.95, only=["*"]),
}


@pytest.mark.parametrize("name", RANDOM)
def test_removal_under_random_activations_is_proven_in_training_mode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = randomised(RANDOM[name](cifar_resnet(depth=8, num_classes=10))), images(8, torch.float32, n=4)
    channels = trace_channels(network, x[:1])
    removed = share_of_free_groups(channels, share=0.5)
    smaller = remove(network, channels, removed)
    before = torch.get_rng_state()
    assert prove(network, smaller, channels, removed, x) < 1e-9
    assert torch.equal(torch.get_rng_state(), before)
    for draw in (torch.ops.aten.rrelu_with_noise, torch.ops.aten.bernoulli_):
        monkeypatch.delitem(MEANS, draw)  # pyright: ignore[reportArgumentType]
    with raises_line(Exception, "training"):  # both networks would draw other numbers
        prove(network, smaller, channels, removed, x)


@pytest.mark.parametrize("change", RANDOM.values(), ids=RANDOM)
def test_random_activations_leave_the_graph_that_the_scores_read(change: Change) -> None:
    """Every layer that is ranked with ReLUs is ranked with these."""
    plain, changed = cifar_resnet(depth=8, num_classes=10), change(cifar_resnet(depth=8, num_classes=10))
    example = images(8, torch.float32, n=1)
    whole, found = (trace_channels(network.eval(), example) for network in (plain, changed))
    assert [whole.obstacle(layer) for layer in whole.convolutions] == [found.obstacle(each) for each in found.convolutions]
    relus = sum(type(module) is nn.ReLU for module in plain.modules())
    assert relus == sum(isinstance(module, nn.RReLU | DropActivation) for module in changed.modules()) > 0


def test_drop_activation_in_the_last_stages_only() -> None:
    network = drop_activation(torchvision.models.resnet18(), keep=0.95, only=["layer3.*", "layer4.*"])
    found = [name for name, module in network.named_modules() if isinstance(module, DropActivation)]
    assert found == [f"layer{stage}.{block}.relu" for stage in (3, 4) for block in (0, 1)]
    assert sum(type(module) is nn.ReLU for module in network.modules()) == 5, "the stem's and four blocks'"
    with raises_line(ValueError, "layer9.*", "layer2.1.relu"):
        drop_activation(network, keep=0.95, only=["layer9.*"])


def test_a_mask_is_drawn_of_pytorchs_generator_alone() -> None:
    module, x = DropActivation(0.5), -torch.ones(64)

    def drawn() -> Tensor:
        torch.manual_seed(5)
        return module(x)

    assert torch.equal(drawn(), drawn()) and F.relu(-drawn()).sum() not in (0, 64)
