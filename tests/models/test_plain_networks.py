"""Networks without residual sums: counts worked by hand and printed, initial weights, attention, widths, exact pruning."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from exactness import assert_removed_is_masked, images
from models.attention.se import SqueezeExcite, squeeze_excite
from models.cifar_alexnet import cifar_alexnet
from models.cifar_mobilenet import cifar_mobilenet
from models.cifar_vgg import CONVS_PER_STAGE, CifarVgg, Depth, StageEnd, cifar_vgg, cifar_vgg_bn, cifar_vgg_rethink
from models.densenet import DenseLayer, densenet_bc
from models.host import stages
from models.small import da_small, hp_small
from runners.command.gate import check
from runners.measuring.cost import cost
from runners.process.errors import ConfigError
from runners.tracing.channels import trace_channels
from support import ROOT, raises_line

DEPTHS: tuple[Depth, ...] = (11, 13, 16, 19)


def num_params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


@pytest.fixture(autouse=True, scope="module")
def resolvers() -> None:
    OmegaConf.register_new_resolver("root", lambda name: f"/nowhere/{name}", replace=True)
    OmegaConf.register_new_resolver("run_name", lambda: "run", replace=True)


def model_of(*overrides: str) -> dict[str, Any]:
    """The part `model` of a config, as plain values, if the gate lets the config pass."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["dataset=fake", *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return check(config)["model"]


# Filters of every convolution (Simonyan and Zisserman 2015, table 1, columns A, B, D, E).
COLUMNS = {
    11: [64, 128, 256, 256, 512, 512, 512, 512],
    13: [64, 64, 128, 128, 256, 256, 512, 512, 512, 512],
    16: [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512],
    19: [64, 64, 128, 128, *[256] * 4, *[512] * 8],
}
# With BatchNorm. 16 and 19: the training code the papers cite. By hand for 11: 9 (3 64 + 64 128 + 128 256 + 256 256 + 256 512
# + 3 512 512) = 9,217,728 weights, 64 + 128 + 2 256 + 4 512 = 2,752 biases, twice that of BatchNorm, 512 10 + 10 of the linear
# layer. 13 has 9 (64 64 + 128 128) = 184,320 weights and 64 + 128 filters more, of three parameters each.
VGG_BN = {11: 9_217_728 + 3 * 2_752 + 5_130, 13: 9_217_728 + 184_320 + 3 * 2_944 + 5_130, 16: 14_728_266, 19: 20_040_522}


@pytest.mark.parametrize("depth", DEPTHS)
def test_vgg_filters_and_parameters(depth: Depth) -> None:
    with torch.device("meta"):
        networks = {
            (classes, norm): factory(depth=depth, num_classes=classes)
            for classes in (10, 100)
            for norm, factory in (("bn", cifar_vgg_bn), ("", cifar_vgg))
        }
    for network in networks.values():
        assert [layer.out_channels for layer in convolutions(network)] == COLUMNS[depth]
    ten_less = 90 * 513
    of_norms = 2 * sum(COLUMNS[depth])
    assert {key: num_params(network) for key, network in networks.items()} == {
        (10, "bn"): VGG_BN[depth],
        (100, "bn"): VGG_BN[depth] + ten_less,
        (10, ""): VGG_BN[depth] - of_norms,
        (100, ""): VGG_BN[depth] + ten_less - of_norms,
    }


def test_other_counts_of_the_training_code() -> None:
    """Bearpaw's tables as recomputed from its code; MobileNet of kuangliu's code, worked by hand."""
    # (in + out) of every block: depthwise 9 in + 2 in, pointwise in out + 2 out; the stem 27 32 + 2 32; linear 1024 10 + 10.
    outputs = [64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
    inputs = [32, *outputs[:-1]]
    blocks = sum(11 * i + i * o + 2 * o for i, o in zip(inputs, outputs, strict=True))
    assert 928 + blocks + 10_250 == 3_217_226
    with torch.device("meta"):
        found = {
            "alexnet": [num_params(cifar_alexnet(num_classes=classes)) for classes in (10, 100)],
            "vgg19_bn": [num_params(cifar_vgg_bn(depth=19, num_classes=classes)) for classes in (10, 100)],
            "100-12": [num_params(densenet_bc(depth=100, growth=12, num_classes=classes)) for classes in (10, 100)],
            "190-40": [num_params(densenet_bc(depth=190, growth=40, num_classes=classes)) for classes in (10, 100)],
            "mobilenet": [num_params(cifar_mobilenet(num_classes=classes)) for classes in (10, 100)],
        }
    assert found == {
        "alexnet": [2_472_266, 2_495_396],
        "vgg19_bn": [20_040_522, 20_086_692],
        "100-12": [769_162, 800_032],
        "190-40": [25_624_430, 25_821_620],
        "mobilenet": [3_217_226, 3_217_226 + 90 * 1025],
    }


@pytest.mark.parametrize(
    ("factory", "printed"),
    [
        (lambda: cifar_vgg_bn(depth=19, num_classes=10), 398.1),
        (lambda: cifar_alexnet(num_classes=10), 15.0),
        (lambda: densenet_bc(depth=100, growth=12, num_classes=10), 287.9),
        # By hand: map sizes 32, then 16, 8, 4 and 2 from blocks 2, 4, 6 and 12 on; weights times positions.
        (
            lambda: cifar_mobilenet(num_classes=10),
            (1024 * (864 + 9 * 32 + 32 * 64) + 256 * (9 * 64 + 64 * 128 + 9 * 128 + 128**2)) / 1e6
            + (64 * (9 * 128 + 128 * 256 + 9 * 256 + 256**2) + 16 * (9 * 256 + 256 * 512 + 5 * (9 * 512 + 512**2))) / 1e6
            + (4 * (9 * 512 + 512 * 1024 + 9 * 1024 + 1024**2) + 10_240) / 1e6,
        ),
    ],
    ids=["vgg19_bn", "alexnet", "densenet", "mobilenet"],
)
def test_multiply_adds(factory: Callable[[], nn.Module], printed: float) -> None:
    found = cost(factory(), torch.zeros(1, 3, 32, 32), seconds=0.001).macs / 1e6
    assert found == pytest.approx(printed, abs=0.05)


@pytest.mark.parametrize(
    "network",
    [
        lambda: cifar_vgg_bn(depth=13, num_classes=10),
        lambda: cifar_vgg(depth=11, num_classes=10),
        lambda: densenet_bc(depth=40, growth=12, num_classes=10),
    ],
    ids=["vgg13_bn", "vgg11", "densenet"],
)
def test_initial_weights_of_the_training_code(network: Callable[[], nn.Module]) -> None:
    """N(0, 2 / (k k filters)), no bias: five standard errors of the mean and of the spread."""
    torch.manual_seed(0)
    for layer in convolutions(network()):
        weight = layer.weight.detach()
        n, expected = weight.numel(), math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
        assert float(weight.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * n))
        assert abs(float(weight.mean())) < 5 * expected / math.sqrt(n)
        assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize("factory", [cifar_alexnet, cifar_mobilenet])
def test_initial_weights_of_codes_that_set_none(factory: Callable[..., nn.Module]) -> None:
    """PyTorch's default: uniform within 1 / sqrt(weights of a filter)."""
    torch.manual_seed(0)
    for layer in convolutions(factory(num_classes=10)):
        limit = 1 / math.sqrt(layer.weight[0].numel())
        weight = layer.weight.detach()
        assert 0.9 * limit < float(weight.abs().max()) <= limit
        assert float(weight.std()) == pytest.approx(limit / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("vgg16_bn", {"_target_": "models.cifar_vgg.cifar_vgg_bn"}),
        ("vgg16_nobias", {"_target_": "models.cifar_vgg.cifar_vgg_bn", "conv_bias": False}),
        ("vgg16_rethink", {"_target_": "models.cifar_vgg.cifar_vgg_rethink"}),
    ],
)
def test_options_that_were_there_keep_their_keys(model: str, expected: dict[str, Any]) -> None:
    assert model_of(f"model={model}") == expected | {"depth": 16, "num_classes": 10, "in_channels": 3}


def test_parameter_names_of_vgg_are_those_of_torchvision() -> None:
    """Positions of conv, BN, ReLU and pooling in one sequence: they were these before attention had a place."""
    expected, position = [], 0
    for convs in CONVS_PER_STAGE[16]:
        for _ in range(convs):
            expected += [f"features.{position}.{part}" for part in ("weight", "bias")]
            of_norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
            expected += [f"features.{position + 1}.{part}" for part in of_norm]
            position += 3
        position += 1
    assert list(cifar_vgg_bn(depth=16, num_classes=10).state_dict()) == [*expected, "classifier.weight", "classifier.bias"]
    unbiased = [name for name in expected if name.split(".")[2] != "bias" or name.replace("bias", "running_var") in expected]
    hidden = [f"classifier.{layer}" for layer in ("0.weight", "0.bias")]
    rethink = list(cifar_vgg_rethink(depth=16, num_classes=10).state_dict())
    assert rethink[: len(unbiased) + 2] == unbiased + hidden and rethink[-1] == "classifier.3.bias"


def test_names_of_densenet_are_those_of_the_training_code() -> None:
    found = {name for name, _ in densenet_bc(depth=10, growth=4, num_classes=10).named_parameters()}
    layers = [f"dense{stage}.0.{part}" for stage in (1, 2, 3) for part in ("conv1.weight", "conv2.weight")]
    norms = [f"dense{stage}.0.bn{bn}.{part}" for stage in (1, 2, 3) for bn in (1, 2) for part in ("weight", "bias")]
    between = [f"trans{number}.{part}" for number in (1, 2) for part in ("bn1.weight", "bn1.bias", "conv1.weight")]
    assert found == {"conv1.weight", *layers, *norms, *between, "bn.weight", "bn.bias", "fc.weight", "fc.bias"}


def small_vgg(factory: Callable[..., CifarVgg]) -> CifarVgg:
    return factory(depth=11, num_classes=5, widths={number: width for number, width in enumerate([8] * 3 + [6] * 5, 1)})


SMALL: dict[str, Callable[[], nn.Module]] = {
    "vgg_bn": lambda: small_vgg(cifar_vgg_bn),
    "vgg": lambda: small_vgg(cifar_vgg),
    "vgg_rethink": lambda: small_vgg(cifar_vgg_rethink),
    "densenet": lambda: densenet_bc(depth=16, growth=4, num_classes=5),
    "vgg_bn with attention": lambda: squeeze_excite(small_vgg(cifar_vgg_bn), reduction=2),
    "vgg_rethink with attention": lambda: squeeze_excite(small_vgg(cifar_vgg_rethink), reduction=2),
    "densenet with attention": lambda: squeeze_excite(densenet_bc(depth=16, growth=4, num_classes=5), reduction=2),
    "alexnet": lambda: cifar_alexnet(num_classes=5),
    "mobilenet": lambda: cifar_mobilenet(num_classes=5),
    "da_small": lambda: da_small(num_classes=5),
    "hp_small": lambda: hp_small(num_classes=5),
}


# Layers that can lose filters without others losing theirs, where not all can: a depthwise convolution ties the layer before
# it to the next. Attention by squeezing only gives factors, and ties nothing.
FREE: dict[str, list[str]] = {"mobilenet": ["layers.12.conv2"]}


@pytest.mark.parametrize("name", SMALL)
def test_pruned_exactly(name: str) -> None:
    torch.manual_seed(0)
    network = SMALL[name]()
    channels = trace_channels(network.eval(), images(32, torch.float32, n=1))
    assert len(channels.convolutions) == len(convolutions(network))
    assert [layer for layer in channels.convolutions if not channels.obstacle(layer)] == FREE.get(
        name, list(channels.convolutions)
    )
    assert_removed_is_masked(network, 32, (torch.float64,))


ATTENTIONS = sorted(path.stem for path in (ROOT / "conf" / "model" / "attention").glob("*.yaml"))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", ["vgg_bn", "densenet"])
def test_pruned_exactly_with_every_attention(name: str, attention: str) -> None:
    torch.manual_seed(0)
    change = OmegaConf.load(ROOT / "conf" / "model" / "attention" / f"{attention}.yaml")
    network = instantiate(change, SMALL[name]())
    assert num_params(network) > num_params(SMALL[name]())
    assert_removed_is_masked(network, 32, (torch.float64,))


@pytest.mark.parametrize("size", [16, 28, 32, 64])
@pytest.mark.parametrize("name", ["vgg_bn", "vgg_rethink", "densenet", "alexnet", "mobilenet"])
def test_images_of_other_sizes(name: str, size: int) -> None:
    assert SMALL[name]().eval()(images(size, torch.float32)).shape == (2, 5)


def test_places_of_attention() -> None:
    """Behind the last ReLU of every stage of VGG; the new channels of every dense layer, of which each block is a stage."""
    vgg = cifar_vgg_bn(depth=16, num_classes=10)
    squeeze_excite(vgg, reduction=16)
    sequence = list(vgg.features)
    places = [position for position, module in enumerate(sequence) if isinstance(module, StageEnd)]
    assert places == [6, 13, 23, 33, 43] and all(type(sequence[place - 1]) is nn.ReLU for place in places)
    assert [host.weighed for stage in stages(vgg) for host in stage] == [64, 128, 256, 512, 512]
    assert len(stages(vgg)) == 4, "the last two count as one stage"
    dense = densenet_bc(depth=16, growth=4, num_classes=10)
    assert [[host.weighed for host in stage] for stage in stages(dense)] == [[4, 4]] * 3


def test_attention_of_vgg_weighs_before_pooling() -> None:
    class TopLeft(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            weights = torch.zeros_like(x)
            weights[:, :, 0, 0] = 3
            return x * weights

    end = StageEnd(3, nn.MaxPool2d(2, ceil_mode=True))
    x = images(5, torch.float32)
    torch.testing.assert_close(end(x), F.max_pool2d(x, 2, ceil_mode=True), rtol=0, atol=0)
    end.attention = TopLeft()
    expected = torch.zeros(2, 3, 3, 3)
    expected[:, :, 0, 0] = (3 * x[:, :, 0, 0]).clamp(min=0)
    torch.testing.assert_close(end(x), expected, rtol=0, atol=0)


def test_attention_of_densenet_weighs_the_new_channels() -> None:
    torch.manual_seed(0)
    layer, x = DenseLayer(6, 4).eval(), images(8, torch.float32).repeat(1, 2, 1, 1)
    plain = layer(x)
    layer.attention = SqueezeExcite(4, 2)
    assert torch.equal(layer(x)[:, :6], x) and torch.equal(plain[:, :6], x)
    torch.testing.assert_close(layer(x)[:, 6:], layer.attention(plain[:, 6:]), rtol=0, atol=0)
    assert not torch.equal(layer(x)[:, 6:], plain[:, 6:])


@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("model", ["vgg16_bn", "vgg16", "vgg16_rethink"])
def test_widths_by_the_number_of_the_convolution(model: str, width: int) -> None:
    """NeurIPS'21 Figure 8: the second convolution of VGG-16."""
    with torch.device("meta"):
        network: nn.Module = instantiate(model_of(f"model={model}", f"+model.widths={{2:{width}}}"))
    first, second, third, *_ = convolutions(network)
    assert [first.out_channels, second.out_channels, third.out_channels] == [64, width, 128]
    assert third.in_channels == width
    assert stages(network)[0][0].weighed == width


def test_all_widths_at_once() -> None:
    # The kept widths of the papers' pruning script: 5,264,522 parameters with one linear layer and biased convolutions.
    kept = [32, 64, 128, 128, 256, 256, 256, *[256] * 6]
    with torch.device("meta"):
        network = cifar_vgg_bn(depth=16, num_classes=10, widths=dict(enumerate(kept, 1)))
    assert num_params(network) == 5_264_522


@pytest.mark.parametrize("widths", ["{2:0}", "{0:64}", "[64]", "{2:wide}", "64", "{2:1.5}"])
def test_widths_that_are_none_are_refused(widths: str) -> None:
    with raises_line(ConfigError, "widths"):
        model_of("model=vgg16_bn", f"+model.widths={widths}")


@pytest.mark.parametrize("factory", [cifar_vgg_bn, cifar_vgg, cifar_vgg_rethink])
def test_a_convolution_that_is_not_there_is_refused(factory: Callable[..., nn.Module]) -> None:
    with raises_line(ValueError, "convolution 14", "13"):
        factory(depth=16, num_classes=10, widths={14: 64})


@pytest.mark.parametrize("depth", [4, 41, 99])
def test_a_depth_that_densenet_cannot_have_is_refused(depth: int) -> None:
    with raises_line(ValueError, f"depth={depth}", "6n"):
        densenet_bc(depth=depth, growth=12, num_classes=10)


def test_counts_of_the_small_networks() -> None:
    """By hand; 1,250,858 is what Keras prints of its example for CIFAR-10."""
    convolutions_of_da = 9 * (3 * 32 + 32 * 64 + 64 * 128)
    assert num_params(da_small(num_classes=10)) == convolutions_of_da + 2 * 224 + (128 * 4 * 4 + 1) * 1000 + 1001 * 10
    assert num_params(hp_small(num_classes=10)) == 1_250_858
    # 28x28: 28, 26, 13, 11, 5; two input channels less.
    grey = 1_250_858 - 2 * 9 * 32 - 64 * (6 * 6 - 5 * 5) * 512
    assert num_params(hp_small(num_classes=10, in_channels=1)) == grey


@pytest.mark.parametrize("factory", [da_small, hp_small])
@pytest.mark.parametrize(("channels", "given", "side"), [(1, None, 28), (3, None, 32), (3, 16, 16), (1, 10, 10), (3, 65, 65)])
def test_small_networks_take_images_of_every_side(
    factory: Callable[..., nn.Module], channels: int, given: int | None, side: int
) -> None:
    network = factory(num_classes=7, in_channels=channels, image_size=given)
    assert network(torch.zeros(2, channels, side, side)).shape == (2, 7)


@pytest.mark.parametrize("model", ["da_small", "hp_small"])
@pytest.mark.parametrize(("dataset", "size"), [("cifar10", None), ("mnist", None), ("digits", 16)])
def test_the_side_of_images_comes_from_the_data_set_if_it_says_it(model: str, dataset: str, size: int | None) -> None:
    assert model_of(f"model={model}", f"dataset={dataset}")["image_size"] == size


@pytest.mark.parametrize("option", ["image_size=7", "dropout=[0.25,0.25]", "dropout=[0.25,0.25,1]", "dropout=0.5"])
def test_wrong_options_of_hp_small_are_refused(option: str) -> None:
    with raises_line(ConfigError, option.split("=")[0]):
        model_of("model=hp_small", f"model.{option}")


def test_layers_of_hp_small_are_those_of_the_paper() -> None:
    """The fifteen nodes of its tables, less the input and the softmax; dropout stands between, and does nothing by default."""
    network = hp_small(num_classes=10)
    assert isinstance(network, nn.Sequential)
    names = [name for name, _ in network.named_children() if "dropout" not in name and name != "flatten"]
    assert names == "conv1 relu1 conv2 relu2 pool2 conv3 relu3 conv4 relu4 pool4 dense5 relu5 dense6".split()
    assert [network.get_submodule(f"dropout{number}").p for number in (2, 4, 5)] == [0, 0, 0]
    network = hp_small(num_classes=10, dropout=[0.25, 0.3, 0.5])
    assert [network.get_submodule(f"dropout{number}").p for number in (2, 4, 5)] == [0.25, 0.3, 0.5]
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            window = layer.weight[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
            limit = math.sqrt(6 / (window * (layer.weight.shape[0] + layer.weight.shape[1])))
            assert 0.98 * limit < float(layer.weight.detach().abs().max()) <= limit
            assert layer.bias is not None and not layer.bias.any()
