"""The filters of real networks that are free, and the reasons why others are not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn

from models.cifar_resnet import Kind, cifar_resnet
from models.cifar_vgg import cifar_vgg_bn
from runners.process.errors import ConfigError
from runners.tracing.channels import Channels, trace_channels
from support import check_line, names, raises_line


def trace(network: nn.Module, size: int = 32) -> Channels:
    return trace_channels(network, torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)))


def ranked(channels: Channels) -> list[str]:
    return [layer for layer in channels.convolutions if not channels.obstacle(layer)]


@pytest.mark.parametrize("shortcut", ["pad", "pad_end", "conv"])
def test_resnet56_ranks_exactly_the_first_convolution_of_each_block(shortcut: Kind) -> None:
    channels = trace(cifar_resnet(depth=56, num_classes=10, shortcut=shortcut), 16)
    assert ranked(channels) == [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(9)]


def test_vgg16_ranks_all_thirteen_in_order_of_execution() -> None:
    network = cifar_vgg_bn(depth=16, num_classes=10)
    convs = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    channels = trace(network, 16)
    assert len(convs) == 13 and ranked(channels) == list(channels.convolutions) == convs


def test_resnet18_ranks_the_first_convolution_of_each_block() -> None:
    channels = trace(tv.resnet18(num_classes=10))
    assert ranked(channels) == [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3, 4) for block in (0, 1)]
    # conv1 goes through the identity shortcuts of both blocks of stage 1 and ends with their second convolutions.
    check_line(channels.obstacle("conv1"), "layer1.0.conv2 and 1 more")


def test_resnet50_ranks_the_stem_and_two_convolutions_of_each_bottleneck() -> None:
    channels = trace(tv.resnet50(num_classes=10))
    blocks = [(stage, block) for stage, n in ((1, 3), (2, 4), (3, 6), (4, 3)) for block in range(n)]
    # The stem is free too: stage 1 begins with a projection, so that no sum takes its channels as they are.
    assert ranked(channels) == ["conv1", *(f"layer{s}.{b}.conv{i}" for s, b in blocks for i in (1, 2))]


def test_densenet121_ranks_all_convolutions() -> None:
    channels = trace(tv.densenet121(num_classes=10))
    assert len(channels.convolutions) == 120 and ranked(channels) == list(channels.convolutions)


def test_mobilenet_v2_frees_what_no_depthwise_convolution_or_sum_touches() -> None:
    network = tv.mobilenet_v2(num_classes=10)
    channels = trace(network)
    # The only outputs of blocks without a sum behind them are those of blocks 1 and 17; 18 is the last convolution.
    assert ranked(channels) == ["features.1.conv.1", "features.17.conv.2", "features.18.0"]
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            assert np.array_equal(channels.writes[name], channels.reads[name])
            assert channels.obstacle(name).startswith("tied to ")
    check_line(channels.obstacle("features.0.0"), "features.1.conv.0.0")


def test_efficientnet_b0_frees_the_squeezing_convolutions_and_ties_the_gates() -> None:
    channels = trace(tv.efficientnet_b0(num_classes=10))
    blocks = [(stage, block) for stage, n in enumerate((1, 2, 2, 3, 3, 4, 1), 1) for block in range(n)]
    # Stage 1 has no expansion, so its squeeze-excitation is part 1 of the block and not 2.
    squeezing = {f"features.{s}.{b}.block.{1 if s == 1 else 2}.fc1" for s, b in blocks}
    # Stages of a single block have no sum behind their last convolution.
    assert set(ranked(channels)) == squeezing | {"features.1.0.block.2.0", "features.7.0.block.3.0", "features.8.0"}
    gate = channels.writes["features.2.0.block.2.fc2"]
    assert np.array_equal(gate, channels.writes["features.2.0.block.0.0"])
    assert np.array_equal(gate, channels.writes["features.2.0.block.1.0"])


def test_convnext_tiny_ranks_nothing_and_says_that_layer_norm_is_in_the_way() -> None:
    channels = trace(tv.convnext_tiny(num_classes=10))
    reasons = [channels.obstacle(layer) for layer in channels.convolutions]
    assert len(reasons) == 22 and all(reasons)
    check_line(channels.obstacle("features.0.0"), "layer_norm")


def test_shufflenet_v2_is_followed_and_only_its_last_convolution_is_free() -> None:
    channels = trace(tv.shufflenet_v2_x1_0(num_classes=10))
    assert len(channels.convolutions) == 56 and ranked(channels) == ["conv5.0"]
    shuffled = channels.writes["stage2.1.branch2.5"]
    assert all(names(channels.fixed[int(group)], "view") for group in shuffled)


def test_batchnorms_of_resnet18_read_the_filters_of_their_convolution() -> None:
    channels = trace(tv.resnet18(num_classes=10))
    pairs = {layer: layer.replace("conv", "bn").replace("downsample.0", "downsample.1") for layer in channels.convolutions}
    assert len(pairs) == 20
    for conv, batchnorm in pairs.items():
        assert np.array_equal(channels.reads[batchnorm], channels.writes[conv]), conv


def test_batchnorms_of_densenet121_read_concatenations_in_order() -> None:
    channels = trace(tv.densenet121(num_classes=10))
    widths = {"denseblock1": (64, 6), "denseblock2": (128, 12), "denseblock3": (256, 24), "denseblock4": (512, 16)}
    parts: list[np.ndarray] = []
    for number, (block, (width, layers)) in enumerate(widths.items()):
        first = "features.conv0" if number == 0 else f"features.transition{number}.conv"
        parts = [channels.writes[first]]
        assert len(parts[0]) == width
        for layer in range(1, layers + 1):
            prefix = f"features.{block}.denselayer{layer}"
            assert np.array_equal(channels.reads[f"{prefix}.norm1"], np.concatenate(parts))
            assert np.array_equal(channels.reads[f"{prefix}.norm2"], channels.writes[f"{prefix}.conv1"])
            parts.append(channels.writes[f"{prefix}.conv2"])
    assert np.array_equal(channels.reads["features.norm5"], np.concatenate(parts))
    assert np.array_equal(channels.reads["classifier"], np.concatenate(parts))


@pytest.mark.parametrize("shortcut", ["pad", "pad_end"])
def test_padded_shortcuts_fix_the_channels_that_meet_zeros(shortcut: Kind) -> None:
    channels = trace(cifar_resnet(depth=20, num_classes=10, shortcut=shortcut), 16)
    left = 8 if shortcut == "pad" else 0  # 16 channels become 32, half of the zeros before them or none
    stem, second = channels.writes["conv1"], channels.writes["layer2.0.conv2"]
    assert np.array_equal(second[left : left + 16], stem)
    assert all(int(group) not in channels.fixed for group in stem)
    meets = [*second[:left], *second[left + 16 :]]
    assert all(names(channels.fixed[int(group)], "padded shortcut") for group in meets)
    # conv1, three second convolutions in each of three stages: nine others share the stem's groups.
    check_line(channels.obstacle("conv1"), "layer1.0.conv2 and 8 more")


def test_every_channel_is_read_by_what_follows_with_the_width_it_has() -> None:
    for network in (cifar_resnet(depth=20, num_classes=10), tv.mobilenet_v2(num_classes=10)):
        channels = trace(network)
        for name, groups in channels.reads.items():
            module = network.get_submodule(name)
            width = next(getattr(module, key) for key in ("in_channels", "in_features", "num_features") if hasattr(module, key))
            assert len(groups) == width, name
        for name, groups in channels.writes.items():
            assert len(groups) == len(network.get_parameter(f"{name}.weight")), name


def test_the_traced_network_keeps_mode_weights_and_statistics() -> None:
    network = cifar_resnet(depth=8, num_classes=10).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trace(network, 8)
    assert network.training and network.layer1.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else self.conv(-x)


class WrongWidth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize("network", [DataDependent, WrongWidth])
def test_a_network_that_cannot_be_traced_is_refused_in_one_line_with_a_way_out(network: Callable[[], nn.Module]) -> None:
    with raises_line(ConfigError, network.__name__, "forward", "model"):
        trace(network().train())


@pytest.mark.parametrize(("network", "place"), [(DataDependent, "body.1"), (WrongWidth, "body.1.conv")])
def test_the_refusal_names_the_module_inside(network: Callable[[], nn.Module], place: str) -> None:
    whole = nn.Sequential()
    whole.add_module("body", nn.Sequential(nn.Conv2d(3, 3, 1), network()))
    with raises_line(ConfigError, "Sequential", f"in {place}"):
        trace(whole)


def test_a_traced_constant_does_not_stay_on_the_network() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + torch.tensor(0.5)

    network = Shifted()
    before = set(vars(network))
    trace(network)
    assert set(vars(network)) == before


def test_filters_around_a_grouped_convolution_have_parts() -> None:
    # Worked by hand: two groups of three inputs and two outputs; the convolution behind reads them all.
    channels = trace(nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1, groups=2), nn.Conv2d(4, 2, 1)))
    assert {layer: part.tolist() for layer, part in channels.parts.items()} == {"0": [0, 0, 0, 1, 1, 1], "1": [0, 0, 1, 1]}


def test_groups_in_groups_have_the_finer_parts() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 4, 1, groups=4), nn.Conv2d(4, 2, 1))
    channels = trace(network)
    parts = {layer: part.tolist() for layer, part in channels.parts.items()}
    assert parts == {"0": [0, 0, 0, 0, 1, 1, 1, 1], "1": [0, 0, 1, 1, 2, 2, 3, 3], "2": [0, 1, 2, 3]}


def test_networks_without_grouped_convolutions_have_no_parts() -> None:
    assert trace(tv.mobilenet_v2(num_classes=10)).parts == {}


def test_the_example_of_ids() -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_a, self.conv_b, self.conv_c = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, image: Tensor) -> Tensor:
            a = self.conv_a(image)
            return self.conv_c(a + self.conv_b(a.relu()))

    channels = trace(Summed(), 4)
    written = {layer: groups.tolist() for layer, groups in channels.writes.items()}
    assert written == {"conv_a": [4, 5, 6], "conv_b": [4, 5, 6], "conv_c": [7, 8, 9]}
    assert channels.reads["conv_a"].tolist() == [1, 2, 3] and channels.reads["conv_c"].tolist() == [4, 5, 6]
    assert channels.fixed == {0: "always zero"} | dict.fromkeys((1, 2, 3), "network input") | dict.fromkeys(
        (7, 8, 9), "network output"
    )
