"""Presets give the widths, parameters and multiply-adds of the scripts that the papers cite, and fit no other network."""

from functools import cache

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from runners.measuring.cost import cost
from runners.process.errors import ConfigError
from runners.pruning.prune import prune
from runners.selection.plan import plan
from runners.selection.rule import Rule
from runners.selection.select import select
from runners.storage import keys
from runners.tracing.channels import Channels, trace_channels
from support import ROOT, raises_line

PRESETS = sorted(path.stem for path in (ROOT / "conf" / "preset").glob("*.yaml"))
NETWORKS = {
    "resnet34": ("model=torchvision", "model.name=resnet34", "dataset.num_classes=1000"),
    "vgg16 of torchvision": ("model=torchvision", "model.name=vgg16"),
    "vgg19": ("model=vgg16_bn", "model.depth=19"),
    "resnet18": ("model=torchvision", "model.name=resnet18"),
}

# Kept by the scripts (their lists of widths, or int(C * (1 - ratio)) of every first convolution that is not skipped).
VGG = [32, 64, 128, 128, *[256] * 9]
R56_A = [14] * 7 + [16, 14] + [32] + [28] * 8 + [64] + [57] * 7 + [64]
R56_B = [6] * 7 + [16, 16] + [32] + [22] * 6 + [32, 22] + [64] + [57] * 7 + [64]
R110_A = [8] * 17 + [16] + [32] * 18 + [64] * 18
R110_B = [8] * 17 + [16] + [32] + [19] * 17 + [64] + [44] * 17
R34_A = [64, 44, 44, 128, 89, 89, 128, 256, 179, 179, 179, 179, 256, 512, 512, 512]
R34_B = [64, 32, 32, 128, 51, 51, 128, 256, 153, 153, 153, 153, 256, 512, 512, 512]
# Parameters: printed by, or counted on, the same scripts. Multiply-adds: theirs too (convolutions and linear layers); those of
# the VGG-16 with one linear layer are those with two, less 512 * 512 of the hidden layer before and, after pruning, 256 * 512
# of it and 256 * 10 of 512 * 10 of the last one.
TWO_LINEAR = (313_463_808, 206_279_680)
ONE_LINEAR = (TWO_LINEAR[0] - 512 * 512, TWO_LINEAR[1] - 256 * 512 - 256 * 10)
EXPECTED = {
    ("vgg16", "vgg16_bn"): (VGG, (14_728_266, 5_264_522), ONE_LINEAR),
    ("vgg16", "vgg16_nobias"): (VGG, (14_724_042, 5_261_866), ONE_LINEAR),
    ("vgg16", "vgg16_rethink"): (VGG, (14_987_722, 5_397_034), TWO_LINEAR),
    ("resnet56_a", "resnet56"): (R56_A, (853_018, 773_336), (125_485_696, 112_435_840)),
    ("resnet56_b", "resnet56"): (R56_B, (853_018, 735_712), (125_485_696, 90_907_264)),
    ("resnet110_a", "resnet110"): (R110_A, (1_727_962, 1_688_522), (252_887_680, 212_779_648)),
    ("resnet110_b", "resnet110"): (R110_B, (1_727_962, 1_168_424), (252_887_680, 155_124_352)),
}
SLOW = (("resnet110_a", "resnet110"), ("vgg16", "vgg16_nobias"))


@cache
def traced(model: str) -> tuple[nn.Module, Channels]:
    size = 224 if "resnet34" in model else 32
    config = composed(*NETWORKS.get(model, (f"model={model}",)))
    network: nn.Module = instantiate(config.model).eval()
    return network, trace_channels(network, torch.zeros(1, 3, size, size))


def composed(*overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", ["dataset=cifar10", *overrides])


def rule_of(preset: str, *overrides: str) -> Rule:
    config = composed(f"preset={preset}", *overrides)
    return Rule(
        **{
            key: keys.canonical(OmegaConf.to_object(node) if OmegaConf.is_config(node := config[key]) else node)
            for key in keys.RULE
        }
    )


def constant(channels: Channels) -> pd.DataFrame:
    return pd.DataFrame(
        [
            (layer, index, "any", number, 1.0)
            for index, layer in enumerate(channels.convolutions, 1)
            for number in range(len(channels.writes[layer]))
        ],
        columns=["layer", "index", "criterion", "filter", "score"],
    )


def prunes_exactly(preset: str, model: str, size: int, widths: list[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Parameters and multiply-adds before and after, the widths asserted."""
    (network, channels), rule = traced(model), rule_of(preset)
    plan(channels, rule)
    selection = select(constant(channels), "any", channels, rule)
    ranked = [layer for layer in channels.convolutions if not channels.obstacle(layer)]
    assert selection.set_index("layer").loc[ranked, "after"].tolist() == widths
    assert (selection["after"] == selection["before"])[~selection["layer"].isin(ranked)].all()
    before, after = (
        cost(net, torch.zeros(1, 3, size, size), seconds=0.001) for net in (network, prune(network, channels, selection))
    )
    return (before.params, after.params), (before.macs, after.macs)


@pytest.mark.parametrize(
    ("preset", "model"), [pytest.param(*pair, marks=pytest.mark.slow if pair in SLOW else ()) for pair in EXPECTED]
)
def test_presets_on_small_images(preset: str, model: str) -> None:
    widths, params, macs = EXPECTED[preset, model]
    assert prunes_exactly(preset, model, 32, widths) == (params, macs)


@pytest.mark.parametrize(
    ("preset", "widths", "params", "giga_macs"),
    [pytest.param("resnet34_a", R34_A, 20_151_764, 3.100, marks=pytest.mark.slow), ("resnet34_b", R34_B, 19_469_372, 2.782)],
)
def test_presets_on_imagenet(preset: str, widths: list[int], params: int, giga_macs: float) -> None:
    found_params, found_macs = prunes_exactly(preset, "resnet34", 224, widths)
    assert found_params == (21_797_672, params)
    assert [round(macs / 1e9, 3) for macs in found_macs] == [3.664, giga_macs]


def test_every_preset_is_tested() -> None:
    assert {preset for preset, _ in EXPECTED} | {"resnet34_a", "resnet34_b"} == set(PRESETS)


@pytest.mark.parametrize(
    ("preset", "model", "told"),
    [
        ("resnet56_b", "resnet110", ["ratio", "layer1.9.conv1", "no share", "preset"]),
        ("resnet56_a", "resnet20", ["skip", "'layer1.7.conv1'", "did you mean"]),
        ("resnet110_b", "resnet56", ["skip", "'layer1.17.conv1'"]),
        ("resnet56_b", "vgg16_bn", ["skip", "'layer1.7.conv1'"]),
        ("vgg16", "resnet20", ["ratio", "conv1", 0.5, "layer1.0.conv2"]),
        ("vgg16", "vgg19", ["ratio", "features.43", "no share"]),
        ("resnet34_b", "resnet18", ["skip", "'layer2.3.conv1'"]),
        ("resnet34_a", "resnet56", ["skip", "'layer4.[0-2].conv1'"]),
    ],
)
def test_a_preset_on_another_network_is_one_line(preset: str, model: str, told: list[object]) -> None:
    with raises_line(ConfigError, *told):
        plan(traced(model)[1], rule_of(preset))


@pytest.mark.slow
def test_the_vgg_preset_fits_a_vgg_without_batchnorm() -> None:
    _, channels = traced("vgg16 of torchvision")
    assert select(constant(channels), "any", channels, rule_of("vgg16"))["after"].tolist() == VGG


def test_the_command_line_wins_over_a_preset() -> None:
    rule = rule_of("resnet56_b", "ratio=0.25", "rounding=nearest")
    assert (rule.ratio, rule.rounding, len(rule.skip)) == (0.25, "nearest", 6)
