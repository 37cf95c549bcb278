"""The pass over the scoring images: what it costs, what it leaves alone, where it looks, and what has no row."""

import logging
from collections import OrderedDict
from functools import cache, partial

import pandas as pd
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from analysis.ensemble import Ensemble
from criteria.activation import APoZ, Entropy, FisherRatio, HRank
from criteria.batchnorm import bn_beta, bn_gamma
from criteria.control import random
from criteria.criterion import Criterion, MeanOverImages
from criteria.gradient import TaylorGate, TaylorPerBatch, snip, taylor_l1
from criteria.inputs import Wanda
from criteria.layer import Activations, BatchNorm, Gradients, Scores, Weights
from criteria.norm import fermat, gm, l1, l2
from models.cifar_resnet import Kind, cifar_resnet
from runners.data.resident import Images
from runners.process.errors import ConfigError, NumericalError
from runners.scoring import observation
from runners.scoring.score import Ranking, check_rankable, score
from runners.scoring.sites import find_batchnorm, find_sites, paper_numbers
from runners.selection.select import Rule, select
from runners.tracing.channels import follow, trace_channels
from support import names, raises_line

ALL: dict[str, Criterion] = {
    "l1": l1,
    "gm": gm,
    "bn_gamma": bn_gamma,
    "taylor_l1": taylor_l1,
    "snip": snip,
    "per_batch": TaylorPerBatch(norm=1),
    "gate": TaylorGate(),
    "apoz": APoZ(),
    "entropy": Entropy(),
    "hrank": HRank(images=8),
    "wanda": Wanda(),
    "fisher_ratio": FisherRatio(),
}


def images(n: int = 20, channels: int = 3, size: int = 8) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(n) % 10, (0.5,) * channels, (0.25,) * channels)


def scored(network: nn.Module, criteria: dict[str, Criterion], given: Images, batch_size: int = 8) -> pd.DataFrame:
    channels = trace_channels(network, given.normalise(given.pixels[:1]))
    return score(network, channels, criteria, given, batch_size=batch_size)


class Counter:
    """Counts what passes a module."""

    def __init__(self, module: nn.Module) -> None:
        self.images: list[int] = []
        self.hook = module.register_forward_hook(lambda module, args, output: self.images.append(len(output)))


@pytest.mark.parametrize(
    ("criteria", "batches", "backward"),
    (
        ({"l1": l1, "bn_gamma": bn_gamma, "gm": gm}, [], 0),
        ({"apoz": APoZ(), "hrank": HRank()}, [8, 8, 4], 0),
        ({"wanda": Wanda(), "fisher_ratio": FisherRatio()}, [8, 8, 4], 0),
        ({"gate": TaylorGate(), "apoz": APoZ()}, [8, 8, 4], 3),
        (ALL, [8, 8, 4], 3),
    ),
)
def test_one_pass_serves_all_and_goes_back_only_if_somebody_asks(
    criteria: dict[str, Criterion], batches: list[int], backward: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, calls = cifar_resnet(depth=8, num_classes=10), []
    grad = torch.autograd.grad
    monkeypatch.setattr(observation.torch.autograd, "grad", lambda *args, **kwargs: calls.append(1) or grad(*args, **kwargs))
    given = images()
    channels = trace_channels(network, given.normalise(given.pixels[:1]))
    counter = Counter(network.conv1)
    table = score(network, channels, criteria, given, batch_size=8)
    assert counter.images == batches and len(calls) == backward
    assert set(table["criterion"]) == set(criteria)


def test_the_network_stays_as_it_is() -> None:
    network = cifar_resnet(depth=8, num_classes=10).train()
    network.layer2.eval()
    network.conv1.weight.requires_grad_(False)
    network.linear.weight.grad = torch.ones_like(network.linear.weight)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    table = scored(network, ALL, images())
    assert (table[(table["criterion"] == "taylor_l1") & (table["layer"] == "conv1")]["score"] > 0).all(), "frozen, and scored"
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items()), "also BatchNorm's statistics"
    assert [module.training for module in network.modules()] == modes
    assert [name for name, value in network.named_parameters() if not value.requires_grad] == ["conv1.weight"]
    assert [name for name, value in network.named_parameters() if value.grad is not None] == ["linear.weight"]
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())


def test_modes_are_put_back_after_a_failure() -> None:
    network = cifar_resnet(depth=8, num_classes=10).train()
    with torch.no_grad():
        network.linear.weight[:] = float("inf")
    with raises_line(NumericalError, "loss"):
        scored(network, {"apoz": APoZ()}, images())
    assert network.training and network.layer1.training


def test_scores_are_those_of_eval_mode() -> None:
    network = cifar_resnet(depth=8, num_classes=10)
    pd.testing.assert_frame_equal(scored(network.eval(), ALL, images()), scored(network.train(), ALL, images()))


def test_what_is_kept_does_not_grow_with_the_batches() -> None:
    network = cifar_resnet(depth=8, num_classes=10).eval()
    criteria = {name: ALL[name] for name in ("per_batch", "gate", "apoz", "entropy", "hrank")}
    sizes = {}
    for n in (16, 48):
        seen = observation.observe(network, ["conv1"], criteria, images(n), gradients=True, batch_size=8)  # pyright: ignore[reportArgumentType]
        sizes[n] = {name: sum(part.numel() for part in seen.states["conv1", name]) for name in criteria}
        assert seen.n_images == n and list(seen.gradients) == ["conv1"]
    assert sizes[16].pop("entropy") == 16 * 16 and sizes[48].pop("entropy") == 48 * 16
    assert sizes[16] == sizes[48] == dict.fromkeys(sizes[16], 2 * 16)


def without_batchnorm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 10))


def test_a_layer_that_lacks_what_a_criterion_needs_has_no_row() -> None:
    network, given = without_batchnorm(), images()
    table = scored(network, {"bn_gamma": bn_gamma, "l1": l1}, given)
    assert table.groupby("criterion")["layer"].unique().map(list).to_dict() == {"bn_gamma": ["2"], "l1": ["0", "2"]}
    channels = trace_channels(network, given.normalise(given.pixels[:1]))
    with raises_line(ConfigError, "'bn_gamma'", 0):
        select(table, "bn_gamma", channels, Rule(ratio=0.5))


class TimesGamma(MeanOverImages):
    """Mean output right behind the layer, times the scale of the BatchNorm that reads it."""

    site = "conv_out"

    def score(self, batch: Activations) -> Tensor:
        return batch.averages

    def finish(self, state: Tensor, layer: BatchNorm) -> Scores:  # pyright: ignore[reportIncompatibleMethodOverride]
        return state[0] / state[1] * layer.gamma.double()


class TimesSlope(MeanOverImages):
    """1, times the sum of gradient times weight."""

    def score(self, batch: Activations) -> Tensor:
        return torch.ones_like(batch.averages)

    def finish(self, state: Tensor, layer: Gradients) -> Scores:  # pyright: ignore[reportIncompatibleMethodOverride]
        return state[0] / state[1] * layer.sums[0].abs()


def test_a_data_criterion_sees_the_layer_at_the_end() -> None:
    network, given = without_batchnorm().eval(), images()
    gamma = torch.tensor([1.0, 2, -3, 0.5])
    with torch.no_grad():
        network.get_parameter("3.weight").copy_(gamma)
        means = network.get_submodule("2")(network.get_submodule("0")(given.normalise(given.pixels)).relu()).mean((0, 2, 3))
    criteria: dict[str, Criterion] = {"gamma": TimesGamma(), "slope": TimesSlope(), "snip": snip}
    table = scored(network, criteria, given)
    by_name = {str(name): part for name, part in table.groupby("criterion")}
    # The first layer has no BatchNorm, and no row.
    assert set(by_name["gamma"]["layer"]) == {"2"}
    assert by_name["gamma"]["score"].tolist() == pytest.approx((means * gamma).tolist(), rel=1e-5)
    pd.testing.assert_series_equal(by_name["slope"]["score"], by_name["snip"]["score"], check_index=False, rtol=1e-12)
    alone = scored(network, {"slope": TimesSlope()}, given)
    pd.testing.assert_frame_equal(alone, by_name["slope"].reset_index(drop=True))
    channels = trace_channels(network, given.normalise(given.pixels[:1]))
    with raises_line(ConfigError, "'gamma'", 0, "BatchNorm"):
        check_rankable(network, channels, criteria, "gamma")


def test_batchnorm_without_scale_is_none() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), nn.Flatten(), nn.Linear(216, 10))
    assert set(scored(network, {"bn_beta": bn_beta, "l1": l1}, images())["criterion"]) == {"l1"}


def test_no_row_at_all_is_an_empty_table() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(216, 10))
    table = scored(network, {"bn_beta": bn_beta}, images())
    assert list(table.columns) == ["layer", "index", "criterion", "filter", "score"] and len(table) == 0


def test_criteria_that_need_images_say_so() -> None:
    network = without_batchnorm()
    channels = trace_channels(network, torch.zeros(1, 3, 8, 8))
    assert len(score(network, channels, {"l1": l1, "random": partial(random, seed=0)})) == 2 * (6 + 4)
    for criterion in (APoZ(), snip):
        with raises_line(TypeError, "images"):
            score(network, channels, {"it": criterion})


def infinite(layer: Weights) -> Scores:
    return layer.filters.sum(1) / 0


def test_scores_that_are_not_finite_are_refused_by_name() -> None:
    with raises_line(NumericalError, "'infinite'", 0):
        scored(without_batchnorm(), {"l1": l1, "infinite": infinite}, images())


def test_what_a_layer_lacks_is_known_before_anything_is_trained() -> None:
    network = without_batchnorm()
    channels = trace_channels(network, torch.zeros(1, 3, 8, 8))
    criteria: dict[str, Ranking] = {"l1": l1, "bn_gamma": bn_gamma, "both": Ensemble(["l1", "bn_gamma"]), "l2": l2}
    for fine in ("l1", "l2"):
        check_rankable(network, channels, criteria, fine)
    for lacking in ("bn_gamma", "both"):
        with raises_line(ConfigError, f"'{lacking}'", 0, "BatchNorm"):
            check_rankable(network, channels, criteria, lacking)


def test_the_residual_of_the_medians_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        scored(without_batchnorm(), {"l1": l1}, images())
        assert not caplog.messages
        scored(without_batchnorm(), {"fermat": fermat}, images())
    (message,) = caplog.messages
    assert names(message, "2 layers") and caplog.records[0].levelname == "INFO"
    assert 0 <= float(message.split()[-2]) <= 1e-9


def test_a_residual_that_is_too_large_is_a_warning(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("criteria.median.WEISZFELD_STEPS", 1)
    monkeypatch.setattr("criteria.median.NEWTON_STEPS", 0)
    scored(without_batchnorm(), {"fermat": fermat}, images())
    assert caplog.records[0].levelname == "WARNING" and names(caplog.messages[0], 1e-09)


def site_of(network: nn.Module, layer: str) -> list[str]:
    """The site behind the activation function: a module, or an operation."""
    traced = follow(network.eval())
    return [str(node.target if node.op == "call_module" else node.name) for node in find_sites(traced, layer)["post_act"]]


def vgg16() -> nn.Module:
    """torchvision's, without its heavy classifier."""
    features = make_layers(cfgs["D"], batch_norm=False)
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), linear=nn.Linear(512, 10)))


@cache
def network_of(name: str) -> nn.Module:
    if name == "vgg16":
        return vgg16()
    if name == "cifar_resnet":
        return cifar_resnet(depth=8, num_classes=10)
    return timm.create_model(name) if name.startswith("efficientnet") else torchvision.models.get_model(name)


@pytest.mark.parametrize(
    ("network", "layer", "site"),
    (
        ("cifar_resnet", "conv1", ["relu"]),
        ("cifar_resnet", "layer1.0.conv1", ["layer1.0.relu1"]),
        ("cifar_resnet", "layer1.0.conv2", ["layer1.0.bn2"]),
        ("resnet18", "layer2.0.conv1", ["layer2.0.relu"]),
        ("resnet18", "layer2.0.downsample.0", ["layer2.0.downsample.1"]),
        ("densenet121", "features.denseblock1.denselayer1.conv1", ["features.denseblock1.denselayer1.relu2"]),
        ("densenet121", "features.denseblock1.denselayer1.conv2", ["features.denseblock1.denselayer1.conv2"]),
        ("mobilenet_v2", "features.2.conv.1.0", ["features.2.conv.1.2"]),
        ("mobilenet_v2", "features.2.conv.2", ["features.2.conv.3"]),
        ("vgg16", "features.0", ["features.1"]),
        # A BatchNorm of timm with its activation inside.
        ("efficientnet_b0", "conv_stem", ["bn1"]),
    ),
)
def test_the_site_behind_the_activation(network: str, layer: str, site: list[str]) -> None:
    assert site_of(network_of(network), layer) == site


@pytest.mark.parametrize(
    ("name", "size", "layer", "batchnorm"),
    (
        ("cifar_resnet", 8, "layer2.0.conv2", "layer2.0.bn2"),
        ("resnet18", 32, "layer2.0.downsample.0", "layer2.0.downsample.1"),
        ("mobilenet_v2", 32, "features.2.conv.1.0", "features.2.conv.1.1"),
        ("densenet121", 32, "features.denseblock1.denselayer1.conv1", "features.denseblock1.denselayer1.norm2"),
        ("efficientnet_b0", 32, "blocks.1.0.conv_pw", "blocks.1.0.bn1"),
        ("efficientnet_b0", 32, "blocks.1.0.se.conv_expand", None),
        ("vgg16", 32, "features.0", None),
    ),
)
def test_the_batchnorm_behind_a_layer(name: str, size: int, layer: str, batchnorm: str | None) -> None:
    network = network_of(name)
    channels = trace_channels(network, torch.zeros(1, 3, size, size))
    found = find_batchnorm(follow(network.eval()), channels, layer)
    if batchnorm is None:
        assert found is None
    else:
        assert found is not None and found.gamma.data_ptr() == network.get_parameter(f"{batchnorm}.weight").data_ptr()
        assert len(found.gamma) == len(found.beta) == len(channels.writes[layer])


def test_the_batchnorm_behind_a_concatenation_is_read_from_where_the_layer_lies_in_it() -> None:
    # DenseNet: the second layer's first BatchNorm reads 64 channels of the stem, then 32 of the first layer.
    block = "features.denseblock1"
    network = network_of("densenet121")
    norm = network.get_submodule(f"{block}.denselayer2.norm1")
    with torch.no_grad():
        norm.weight.copy_(torch.arange(96.0))  # pyright: ignore[reportCallIssue]
    channels = trace_channels(network, torch.zeros(1, 3, 32, 32))
    found = find_batchnorm(follow(network.eval()), channels, f"{block}.denselayer1.conv2")
    assert found is not None and found.gamma.tolist() == list(range(64, 96))


class PreActivation(nn.Module):
    """conv1 feeds a BatchNorm and a sum; conv2 only the sum, and the BatchNorm behind that reads more than conv2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.bn2, self.linear = nn.BatchNorm2d(4), nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        x = x + self.conv2(self.bn1(x).relu())
        return self.linear(self.bn2(x).relu().mean((2, 3)))


def test_a_batchnorm_behind_a_sum_is_not_that_of_a_layer() -> None:
    table = scored(PreActivation(), {"bn_gamma": bn_gamma}, images())
    assert set(table["layer"]) == {"conv1"}
    assert site_of(PreActivation(), "conv1") == ["relu"] and site_of(PreActivation(), "conv2") == ["conv2"]


# Specification, section 2.3: rows of the papers' tables.
@pytest.mark.parametrize(
    ("name", "rows", "with_shortcuts"), (("resnet18", 17, 20), ("resnet34", 33, 36), ("resnet50", 49, 53), ("vgg16", 13, 13))
)
def test_paper_numbers(name: str, rows: int, with_shortcuts: int) -> None:
    network = network_of(name)
    channels = trace_channels(network, torch.zeros(1, 3, 32, 32))
    numbers = paper_numbers(network, channels)
    assert list(numbers.values()) == list(range(1, rows + 1))
    assert len(paper_numbers(network, channels, count_shortcuts=True)) == with_shortcuts
    twelfth = {"resnet18": "layer3.1.conv1", "vgg16": "features.26"}
    assert numbers.get(twelfth.get(name, ""), 12) == 12
    if name == "vgg16":
        assert numbers["features.2"] == 2 and numbers["features.5"] == 3


@pytest.mark.parametrize(("shortcut", "rows"), (("pad", 19), ("conv", 19)))
def test_paper_numbers_of_a_cifar_resnet(shortcut: Kind, rows: int) -> None:
    network = cifar_resnet(depth=20, num_classes=10, shortcut=shortcut)
    channels = trace_channels(network, torch.zeros(1, 3, 16, 16))
    assert len(paper_numbers(network, channels)) == rows
    assert len(channels.convolutions) == rows + (2 if shortcut == "conv" else 0)


def test_transposed_grouped_and_depthwise_convolutions_have_a_row_for_each_output_channel() -> None:
    network = nn.Sequential(
        nn.ConvTranspose2d(3, 6, 3, groups=3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.Conv2d(6, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(144, 10),
    )
    table = scored(network, ALL, images())
    assert table.groupby(["criterion", "layer"]).size().unstack().loc["gate"].to_dict() == {"0": 6, "3": 6, "4": 4}
    # The filter of the transposed convolution's output channel 3: the kernel from input channel 1 to its second output.
    kernel = network.get_parameter("0.weight").detach()[1, 1]
    row = table[(table["criterion"] == "l1") & (table["layer"] == "0") & (table["filter"] == 3)]
    assert float(row["score"].item()) == pytest.approx(float(kernel.abs().sum()), rel=1e-6)


def test_linear_layers_have_a_table_of_their_own() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10)
    )
    given = images()
    channels = trace_channels(network, given.normalise(given.pixels[:1]))
    table = score(network, channels, ALL, given, layers=channels.linear)
    sizes = table.groupby(["layer", "index", "criterion"]).size().to_dict()
    last = {("5", 2, name): 10 for name in ALL if name != "bn_gamma"}
    assert sizes == {("2", 1, name): 12 for name in ALL} | last
    # Twenty images in eval mode: the share of positive outputs behind the ReLU.
    with torch.no_grad():
        share = (network.eval()[:5](given.normalise(given.pixels)) > 1e-4).double().mean(0)
    found = table[(table["layer"] == "2") & (table["criterion"] == "apoz")]["score"]
    assert found.tolist() == pytest.approx(share.tolist(), rel=1e-12) and 0 < share.min() < share.max()


def one_too_few(layer: Weights) -> Scores:
    return layer.filters.sum(1)[1:]


def test_one_score_a_filter() -> None:
    with raises_line(ConfigError, "'short'", "(5,)", "6 filters"):
        scored(without_batchnorm(), {"short": one_too_few}, images())
