"""Functions network -> network: what they do, and that a changed network is pruned exactly, saved, and made again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from exactness import assert_removed_is_masked, images, output, randomised, share_of_free_groups
from models.activation import leaky_relu
from models.attention import squeeze_excite
from models.cifar_resnet import cifar_resnet
from models.cifar_vgg import cifar_vgg_bn
from models.densenet import densenet_bc
from models.init import orthogonal
from runners.pruning.remove import remove
from runners.pruning.saved import Pruned, in_parts, load_pruned, save_pruned
from runners.scoring.sites import paper_numbers
from runners.storage.keys import canonical
from runners.tracing.channels import trace_channels
from support import ROOT, raises_line

OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in (ROOT / "conf" / "model").glob("*/*.yaml"))
ATTENTIONS = [option for option in OPTIONS if option.startswith("attention")]
ALL = ["attention=se", "activation=leaky_relu", "init=orthogonal"]
# Attention that makes a number of several channels -> why filters whose output it weighs may not go.
HOLDING = {
    "attention=cbam": "is summed over channels",
    "attention=sge": "unflatten",
    "attention=dia": "reaches layer1.0.attention.of_hidden.squeeze.0 as a number other than zero",
}


def model_of(*options: str) -> dict[str, Any]:
    """The part `model` of a config, as plain values."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["dataset=fake", "model=resnet20", *(f"model/{option}" for option in options)])
    found = OmegaConf.to_object(OmegaConf.masked_copy(config, ["model", "dataset", "seed"]))
    assert isinstance(found, dict)
    return found["model"]


def built(model: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    factory, changes = in_parts(model)
    network = instantiate(factory)
    for change in changes:
        network = instantiate(change, network)
    return network


def stirred(network: nn.Module) -> nn.Module:
    """`network` with numbers of any kind in parameters that start all alike, as those of several attentions do."""
    for parameter in network.parameters():
        if parameter.numel() > 1 and (parameter == parameter.flatten()[0]).all():
            nn.init.normal_(parameter)
    return network


def test_without_changes_the_key_is_as_it_was() -> None:
    expected = {"_target_": "models.cifar_resnet.cifar_resnet", "depth": 20, "num_classes": 10, "in_channels": 3}
    assert model_of() == expected | {"shortcut": "pad"}


def test_the_name_of_squeeze_and_excitation_is_as_it_was() -> None:
    # Stored networks and folders of pruned ones have it; the function itself lies in models/attention/se.py.
    assert model_of("attention=se")["attention"] == {"_target_": "models.attention.squeeze_excite", "reduction": 16}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_change_is_part_of_the_key_and_changes_the_network(option: str) -> None:
    assert canonical(model_of(option)) != canonical(model_of())
    x = images(16, torch.float32)
    assert not torch.allclose(output(built(model_of(option)).eval(), x), output(built(model_of()).eval(), x))


@pytest.mark.parametrize("options", [*([option] for option in OPTIONS), ALL], ids=" ".join)
def test_a_changed_network_is_pruned_exactly_and_made_again(options: list[str], tmp_path: Path) -> None:
    model = model_of(*options)
    assert_removed_is_masked(stirred(built(model)), 16, (torch.float64, torch.float32))
    network, example = randomised(stirred(built(model))), images(16, torch.float32, n=1)
    channels = trace_channels(network, example)
    removed = share_of_free_groups(channels, share=0.5)
    held = {layer for layer in channels.convolutions if set(channels.writes[layer].tolist()) <= set(channels.fixed)}
    assert set(removed) >= set(channels.convolutions) - held, "every other layer loses filters, also those that are weighed"
    weighed = {layer for layer in channels.convolutions if layer == "conv1" or layer.endswith("conv2")}
    assert held == (weighed if HOLDING.keys() & set(options) else set())
    for option in HOLDING.keys() & set(options):
        assert HOLDING[option] in channels.reason("layer1.0.conv2")
    smaller = remove(network, channels, removed)
    save_pruned(tmp_path, Pruned(smaller, channels, removed, example), model)
    x = images(16, torch.float32)
    assert torch.equal(output(load_pruned(tmp_path), x), output(smaller, x))


# Networks with other places for attention -> the convolutions whose output is weighed by a state or a sum over channels.
HOSTS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "vgg": (
        lambda: cifar_vgg_bn(depth=11, num_classes=10, widths={number: 32 for number in range(1, 9)}),
        {f"features.{place}" for place in (0, 4, 11, 18, 25)},
    ),
    "densenet": (
        lambda: densenet_bc(depth=16, growth=8, num_classes=10),
        {f"dense{s}.{n}.conv2" for s in (1, 2, 3) for n in (0, 1)},
    ),
}


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("host", HOSTS)
def test_attention_elsewhere_is_pruned_exactly_and_leaves_all_other_layers_free(host: str, attention: str) -> None:
    """A linear layer that gives factors goes along with the filters that it weighs."""
    torch.manual_seed(0)
    build, weighed = HOSTS[host]
    network = stirred(instantiate(model_of(attention)["attention"], build()))
    channels = trace_channels(network, images(16, torch.float32, n=1))
    assert {layer for layer in channels.convolutions if channels.obstacle(layer)} == (
        weighed if attention in HOLDING else set()
    )
    assert_removed_is_masked(network, 32, (torch.float64,))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_ranks_and_numbers_the_same_layers(attention: str) -> None:
    example = images(16, torch.float32, n=1)
    networks = [built(model_of(*options)).eval() for options in ([attention], [])]
    whole, plain = (trace_channels(network, example) for network in networks)
    assert whole.convolutions == plain.convolutions
    assert [not whole.obstacle(layer) for layer in whole.convolutions] == [
        not plain.obstacle(each) for each in plain.convolutions
    ]
    assert paper_numbers(networks[0], whole) == paper_numbers(networks[1], plain)


def test_every_relu_is_replaced() -> None:
    network = leaky_relu(cifar_vgg_bn(depth=11, num_classes=10), negative_slope=0.2)
    assert not any(type(module) is nn.ReLU for module in network.modules())
    [*slopes] = [module.negative_slope for module in network.modules() if isinstance(module, nn.LeakyReLU)]
    assert slopes == [0.2] * 8


def test_filters_are_orthogonal_of_the_norm_asked_for() -> None:
    network = orthogonal(cifar_resnet(depth=8, num_classes=10), gain=3.0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            filters = module.weight.flatten(1).double()
            torch.testing.assert_close(filters @ filters.T, 9 * torch.eye(len(filters)).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        (lambda n: squeeze_excite(n, reduction=16), "attention"),
        (lambda n: leaky_relu(n, negative_slope=0.1), "ReLU"),
    ],
)
def test_a_network_that_cannot_be_changed_is_refused(change: Any, lacking: str) -> None:
    with raises_line(ValueError, lacking):
        change(nn.Sequential(nn.Conv2d(3, 3, 1), nn.GELU()))


def test_a_relu_under_two_names_is_replaced_under_both() -> None:
    shared = nn.ReLU()
    network = nn.Sequential(shared, nn.Conv2d(1, 1, 1), shared)
    leaky_relu(network, negative_slope=0.1)
    assert [type(network[place]) for place in range(3)] == [nn.LeakyReLU, nn.Conv2d, nn.LeakyReLU]
