"""Residual networks: sizes against printed numbers and counts by hand, blocks by definition, exact removal."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exactness import assert_removed_is_masked, images, randomised
from models.cifar_preresnet import PreBasicBlock, PreBottleneck, cifar_bottleneck_preresnet, cifar_preresnet
from models.cifar_resnet import BasicBlock, Bottleneck, ConvShortcut, cifar_bottleneck_resnet, cifar_resnet, cifar_resnet18
from models.cifar_resnext import cifar_resnext
from models.host import Host, stages
from models.wide_resnet import WideBlock, wide_resnet
from network_sizes import num_params, without_weights
from runners.command.signatures import signature
from runners.scoring.sites import filters, paper_numbers
from runners.storage.tables import read_table
from runners.tracing.channels import Channels, trace_channels
from support import Command, check_refused, raises_line


class Conv(NamedTuple):
    """One convolution: filters, weights of a filter, side of what it gives."""

    n_filters: int
    dim: int
    side: int
    on_shortcut: bool = False


def basic(blocks: int, stem: int, widths: list[int]) -> Iterator[Conv]:
    """Two 3x3 convolutions a block, in order of execution; sides are halved by every stage but the first."""
    yield Conv(stem, 27, 32)
    before = stem
    for stage, width in enumerate(widths):
        side = 32 // 2**stage
        for _ in range(blocks):
            yield Conv(width, 9 * before, side)
            yield Conv(width, 9 * width, side)
            if before != width:
                yield Conv(width, before, side, on_shortcut=True)
            before = width


def bottleneck(blocks: int, stem: int, inners: list[int], expansion: float, groups: int = 1) -> Iterator[Conv]:
    """Three convolutions a block; the first one still sees the large image, the second one halves it."""
    yield Conv(stem, 27, 32)
    before, side_before = stem, 32
    for stage, inner in enumerate(inners):
        side, outer = 32 // 2**stage, int(expansion * inner)
        for _ in range(blocks):
            yield Conv(inner, before, side_before)
            yield Conv(inner, 9 * inner // groups, side)
            yield Conv(outer, inner, side)
            if before != outer:
                yield Conv(outer, before, side, on_shortcut=True)
            before, side_before = outer, side


class Known(NamedTuple):
    """What is printed of a network, and its convolutions by hand.

    Args:
        params: for ten and for a hundred classes.
        macs: for ten classes, as printed: a number and the digits behind its point, in units of `unit`.
        rows: of its table in the paper, which counts the convolutions on shortcuts or does not.
        weights: sum of N * d over those rows, where the specification states it.
    """

    params: tuple[int, int]
    macs: tuple[float, int, int] | None
    convs: list[Conv]
    batchnorms: int
    rows: int
    counts_shortcuts: bool = False
    weights: int | None = None


M, G = 10**6, 10**9
BOTTLENECKS = list(bottleneck(18, 16, [16, 32, 64], 4))
# BatchNorms: channels of all of them together.
KNOWN = {
    "resnet164": Known(
        *((1_704_154, 1_727_284), (247.6, 1, M), BOTTLENECKS),
        batchnorms=16 + 18 * 6 * (16 + 32 + 64) + 4 * (16 + 32 + 64),
        rows=163,
        weights=1_634_480,
    ),
    "preresnet164": Known(
        *((1_703_258, 1_726_388), (247.6, 1, M), BOTTLENECKS),
        # Each block's first BatchNorm reads what comes in: 16, or four times a width.
        batchnorms=18 * 2 * (16 + 32 + 64) + 16 + 17 * 64 + 64 + 17 * 128 + 128 + 17 * 256 + 256,
        rows=163,
    ),
    "preresnet110": Known(
        *((1_730_522, 1_736_372), (253.1, 1, M), list(basic(18, 16, [16, 32, 64]))),
        batchnorms=18 * (16 + 32 + 64) + 18 * 16 + 16 + 17 * 32 + 32 + 17 * 64 + 64,
        rows=109,
        weights=1_719_216,
    ),
    "wrn_28_10": Known(
        *((36_479_194, 36_536_884), (5.24, 2, G), list(basic(4, 16, [160, 320, 640]))),
        batchnorms=4 * (160 + 320 + 640) + 16 + 3 * 160 + 160 + 3 * 320 + 320 + 3 * 640 + 640,
        rows=28,
        counts_shortcuts=True,
        weights=36_454_832,
    ),
    "resnext29_8x64d": Known(
        *((34_426_698, 34_518_948), None, list(bottleneck(3, 64, [512, 1024, 2048], 0.5, groups=8))),
        batchnorms=64 + 3 * 2 * (512 + 1024 + 2048) + 4 * (256 + 512 + 1024),
        rows=31,
        counts_shortcuts=True,
    ),
    "resnext29_16x64d": Known(
        *((68_155_210, 68_247_460), None, list(bottleneck(3, 64, [1024, 2048, 4096], 0.25, groups=16))),
        batchnorms=64 + 3 * 2 * (1024 + 2048 + 4096) + 4 * (256 + 512 + 1024),
        rows=31,
        counts_shortcuts=True,
        weights=68_044_480,
    ),
    # kuangliu/pytorch-cifar: 11,173,962; for a hundred classes 90 more outputs of 512 + 1; 17 rows as for ImageNet's ResNet-18.
    "resnet18_cifar": Known(
        *((11_173_962, 11_173_962 + 90 * 513), (555.4, 1, M), list(basic(2, 64, [64, 128, 256, 512]))),
        batchnorms=64 + 4 * (64 + 128 + 256 + 512) + 128 + 256 + 512,
        rows=17,
    ),
}


@cache
def traced(model: str) -> tuple[nn.Module, Channels]:
    network = without_weights(model).eval()
    return network, trace_channels(network, torch.zeros(1, 3, 32, 32, device="meta"))


@pytest.mark.parametrize("model", KNOWN)
def test_parameters_and_multiply_adds_are_the_printed_ones(model: str) -> None:
    known = KNOWN[model]
    features = known.convs[-1].n_filters
    by_hand = [
        sum(conv.n_filters * conv.dim for conv in known.convs) + 2 * known.batchnorms + (features + 1) * num_classes
        for num_classes in (10, 100)
    ]
    assert by_hand == list(known.params)
    assert [num_params(without_weights(model, num_classes=classes)) for classes in (10, 100)] == by_hand
    macs = sum(conv.n_filters * conv.dim * conv.side**2 for conv in known.convs) + features * 10
    assert traced(model)[1].sizes.macs == macs
    if known.macs:
        number, digits, unit = known.macs
        assert round(macs / unit, digits) == number


@pytest.mark.parametrize("model", KNOWN)
def test_convolutions_are_those_worked_out_by_hand(model: str) -> None:
    known, (network, channels) = KNOWN[model], traced(model)
    assert [filters(network, layer).flatten(1).shape for layer in channels.convolutions] == [
        (conv.n_filters, conv.dim) for conv in known.convs
    ]
    counted = [conv for conv in known.convs if known.counts_shortcuts or not conv.on_shortcut]
    numbers = paper_numbers(network, channels, count_shortcuts=known.counts_shortcuts)
    assert list(numbers.values()) == list(range(1, known.rows + 1)) and len(counted) == known.rows
    found = [tuple(filters(network, layer).flatten(1).shape) for layer in numbers]
    if known.weights is not None:
        assert sum(n * dim for n, dim in found) == known.weights


@pytest.mark.parametrize(
    ("name", "params"),
    # torchvision's documentation of its weights, "num_params".
    [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032), ("resnet101", 44_549_160)],
)
def test_torchvisions_networks_for_large_images(name: str, params: int) -> None:
    assert num_params(without_weights("torchvision", f"model.name={name}", num_classes=1000)) == params


def test_squeeze_and_excitation_for_large_images() -> None:
    # ResNet-50, and in each block two layers with bias between its 4 * width channels and a sixteenth of them.
    per_block = [2 * out * (out // 16) + out // 16 + out for out in (256, 512, 1024, 2048)]
    added = sum(blocks * each for blocks, each in zip((3, 4, 6, 3), per_block, strict=True))
    network = without_weights("senet50", num_classes=1000)
    assert num_params(network) == 25_557_032 + added == 28_088_024
    channels = trace_channels(network.eval(), torch.zeros(1, 3, 224, 224, device="meta"))
    assert len(channels.convolutions) == 53 + 2 * 16  # timm makes those layers of 1x1 convolutions


def test_a_wide_network_for_svhn() -> None:
    # By hand: two blocks a stage of 128, 256 and 512 channels; linear layer 512 -> 10.
    convs = list(basic(2, 16, [128, 256, 512]))
    batchnorms = 2 * (128 + 256 + 512) + 16 + 128 + 128 + 256 + 256 + 512 + 512
    network = without_weights("wrn_16_8")
    assert num_params(network) == sum(conv.n_filters * conv.dim for conv in convs) + 2 * batchnorms + 5130
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [0.4] * 6
    assert [module.p for module in traced("wrn_28_10")[0].modules() if isinstance(module, nn.Dropout)] == [0.3] * 12


# Family -> a network of a block a stage with few channels, and its layers whose filters are free, of so many convolutions.
FREE = ["layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1"]
INNER = [f"layer{stage}.0.conv{number}" for stage in (1, 2, 3) for number in (1, 2)]
Family = tuple[Callable[[], nn.Module], list[str], int]
SMALL: dict[str, Family] = {
    "basic": (lambda: cifar_resnet(depth=8, num_classes=5, shortcut="conv", widths=[4, 6, 8]), FREE, 9),
    "bottleneck": (lambda: cifar_bottleneck_resnet(depth=11, num_classes=5, widths=[4, 6, 8]), ["conv1", *INNER], 13),
    "resnet18": (
        lambda: cifar_resnet18(num_classes=5, widths=[4, 6, 8, 10]),
        [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3, 4) for block in (0, 1)],
        20,
    ),
    "preresnet": (lambda: cifar_preresnet(depth=8, num_classes=5, widths=[4, 6, 8]), FREE, 9),
    "bottleneck preresnet": (
        lambda: cifar_bottleneck_preresnet(depth=11, num_classes=5, widths=[4, 6, 8]),
        ["conv1", *INNER],
        13,
    ),
    "wide": (
        lambda: wide_resnet(depth=10, widen_factor=2, num_classes=5, dropout=0.3, widths=[4, 6, 8]),
        ["conv1", *FREE],
        10,
    ),
    "wide by 1": (lambda: wide_resnet(depth=10, widen_factor=1, num_classes=5, widths=[4, 6, 8]), FREE, 9),
    "resnext": (
        lambda: cifar_resnext(depth=11, cardinality=2, base_width=4, num_classes=5, widen_factor=2, widths=[4, 8, 12]),
        ["conv1", *INNER],
        13,
    ),
}


@pytest.mark.parametrize("family", SMALL)
def test_filters_are_removed_exactly(family: str) -> None:
    make, free, n_convolutions = SMALL[family]
    channels = trace_channels(make(), images(8, torch.float32, n=1))
    assert [layer for layer in channels.convolutions if not channels.obstacle(layer)] == free
    assert len(channels.convolutions) == n_convolutions
    assert_removed_is_masked(make(), 8, (torch.float64,))


@pytest.mark.parametrize("family", SMALL)
def test_every_convolution_can_be_watched(family: str) -> None:
    """A forward pass that goes past the modules (`.forward`, as the published ResNeXt does) calls no hooks."""
    network, calls = SMALL[family][0](), list[str]()
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    network(images(8, torch.float32))
    assert sorted(calls) == sorted(name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    assert len(calls) == SMALL[family][2]


@pytest.mark.parametrize("family", SMALL)
def test_every_stage_has_its_blocks_and_halves_the_image(family: str) -> None:
    network, sides = SMALL[family][0](), list[int]()
    hosts = stages(network)
    for stage in hosts:
        stage[-1].register_forward_hook(lambda *given: sides.append(given[2].shape[-1]))
    network(images(16, torch.float32))
    assert sides == [16 // 2**place for place in range(len(hosts))] and len(hosts) == (4 if family == "resnet18" else 3)
    for stage in hosts:
        assert {host.weighed for host in stage} == {stage[-1].weighed}


class Half(nn.Module):
    """Attention that is the same everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def norm(x: Tensor, module: nn.Module) -> Tensor:
    assert isinstance(module, nn.BatchNorm2d)
    return F.batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias)


def conv(x: Tensor, module: nn.Module, stride: int = 1, groups: int = 1) -> Tensor:
    assert isinstance(module, nn.Conv2d) and module.bias is None
    return F.conv2d(x, module.weight, None, stride, module.kernel_size[0] // 2, 1, groups)


def of_basic(block: BasicBlock, x: Tensor) -> Tensor:
    shortcut = block.get_submodule("shortcut")
    branch = norm(conv(norm(conv(x, block.conv1, 2), block.bn1).relu(), block.conv2), block.bn2)
    return (branch / 2 + norm(conv(x, shortcut.get_submodule("0"), 2), shortcut.get_submodule("1"))).relu()


def of_bottleneck(block: Bottleneck, x: Tensor) -> Tensor:
    shortcut = block.get_submodule("shortcut")
    branch = norm(conv(x, block.conv1), block.bn1).relu()
    branch = norm(conv(branch, block.conv2, 2, groups=3), block.bn2).relu()
    branch = norm(conv(branch, block.conv3), block.bn3)
    return (branch / 2 + norm(conv(x, shortcut.get_submodule("0"), 2), shortcut.get_submodule("1"))).relu()


def of_pre_basic(block: PreBasicBlock, x: Tensor) -> Tensor:
    branch = conv(norm(x, block.bn1).relu(), block.conv1, 2)
    return conv(norm(branch, block.bn2).relu(), block.conv2) / 2 + conv(x, block.get_submodule("shortcut"), 2)


def of_pre_bottleneck(block: PreBottleneck, x: Tensor) -> Tensor:
    branch = conv(norm(x, block.bn1).relu(), block.conv1)
    branch = conv(norm(branch, block.bn2).relu(), block.conv2, 2)
    return conv(norm(branch, block.bn3).relu(), block.conv3) / 2 + conv(x, block.get_submodule("shortcut"), 2)


def of_wide(block: WideBlock, x: Tensor) -> Tensor:
    activated = norm(x, block.bn1).relu()
    branch = conv(norm(conv(activated, block.conv1, 2), block.bn2).relu(), block.conv2)
    return branch / 2 + conv(activated, block.get_submodule("shortcut"), 2)


@pytest.mark.parametrize(
    ("block", "definition"),
    [
        (BasicBlock(4, 6, 2, ConvShortcut), of_basic),
        (Bottleneck(4, 6, 8, 2, groups=3), of_bottleneck),
        (PreBasicBlock(4, 6, 2), of_pre_basic),
        (PreBottleneck(4, 2, 2), of_pre_bottleneck),
        (WideBlock(4, 6, 2, dropout=0.5), of_wide),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_blocks_by_definition(block: Host, definition: Callable[[Host, Tensor], Tensor]) -> None:
    block.attention = Half()
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(randomised(block).double()(x), definition(block, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("block", "last"),
    [
        (BasicBlock(8, 8, 1, ConvShortcut), F.relu),
        (Bottleneck(8, 4, 8, 1), F.relu),
        (PreBasicBlock(8, 8, 1), lambda x: x),
        (PreBottleneck(8, 2, 1), lambda x: x),
        (WideBlock(8, 8, 1, dropout=0.0), lambda x: x),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_without_a_change_of_shape_the_input_is_carried_past_the_branch_as_it_is(
    block: Host, last: Callable[[Tensor], Tensor]
) -> None:
    block.attention = nn.Softmax(dim=2)  # over one row of pixels: 1, whatever the branch gives
    x = torch.randn(2, 8, 1, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block.eval()(x), last(1 + x))


def test_dropout_lies_between_the_convolutions_and_only_in_training() -> None:
    block, seen = WideBlock(64, 64, 1, dropout=0.4), list[Tensor]()
    block.relu2.register_forward_hook(lambda *given: seen.append(given[2]))
    block.conv2.register_forward_hook(lambda *given: seen.append(given[1][0]))
    torch.manual_seed(0)
    block(torch.randn(8, 64, 8, 8))
    before, after = seen
    left = after != 0
    torch.testing.assert_close(after[left], before[left] / 0.6)
    positive = int((before > 0).sum())
    share = float(left.sum()) / positive
    assert abs(share - 0.6) < 5 * math.sqrt(0.6 * 0.4 / positive)
    assert not any(isinstance(module, nn.Dropout) for module in wide_resnet(depth=10, widen_factor=1, num_classes=5).modules())


@pytest.mark.parametrize(
    "make",
    [
        lambda: cifar_bottleneck_resnet(depth=11, num_classes=10),
        lambda: cifar_preresnet(depth=8, num_classes=10),
        lambda: wide_resnet(depth=10, widen_factor=4, num_classes=10),
        lambda: cifar_resnext(depth=11, cardinality=8, base_width=8, num_classes=10),
    ],
    ids=["bottleneck", "preresnet", "wide", "resnext"],
)
def test_initial_weights_have_the_spread_of_the_papers_code(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = make()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach()
            sigma = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            # Five standard errors of the standard deviation, and of the mean, of so many normal numbers.
            assert abs(float(weight.std()) / sigma - 1) < 5 / math.sqrt(2 * weight.numel())
            assert abs(float(weight.mean())) < 5 * sigma / math.sqrt(weight.numel())
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


def test_initial_linear_layers_of_the_wide_network_and_of_resnext() -> None:
    torch.manual_seed(0)
    wide = wide_resnet(depth=10, widen_factor=1, num_classes=100).linear
    next_ = cifar_resnext(depth=11, cardinality=2, base_width=8, num_classes=100).linear
    assert not wide.bias.any() and not next_.bias.any()
    weight = next_.weight.detach()
    assert abs(float(weight.std()) / math.sqrt(2 / weight.shape[1]) - 1) < 5 / math.sqrt(2 * weight.numel())


@pytest.mark.parametrize(
    ("make", "tokens"),
    [
        (lambda: cifar_bottleneck_resnet(depth=21, num_classes=10), ("depth=21", "9n + 2", "110", "164")),
        (lambda: cifar_bottleneck_resnet(depth=2, num_classes=10), ("depth=2", "9n + 2")),
        (lambda: cifar_preresnet(depth=164 - 1, num_classes=10), ("depth=163", "6n + 2", "110")),
        (lambda: cifar_bottleneck_preresnet(depth=21, num_classes=10), ("depth=21", "9n + 2", "110", "164")),
        (lambda: wide_resnet(depth=20, widen_factor=1, num_classes=10), ("depth=20", "6n + 4", "28")),
        (lambda: cifar_resnext(depth=28, cardinality=1, base_width=4, num_classes=10), ("depth=28", "9n + 2", "29")),
        (lambda: cifar_resnet(depth=8, num_classes=10, widths=[32, 16, 64]), ("[32, 16, 64]", "shortcut=pad", "shortcut=conv")),
    ],
)
def test_sizes_that_no_network_has_are_refused(make: Callable[[], nn.Module], tokens: tuple[str, ...]) -> None:
    with raises_line(ValueError, *tokens):
        make()


def test_resnet110_is_never_the_network_that_was_listed_under_its_name() -> None:
    """The table of the training code lists ResNet-164 (1.70 M parameters) as ResNet-110."""
    found = [num_params(without_weights("resnet110", f"model.shortcut={kind}")) for kind in ("pad", "pad_end", "conv")]
    assert found == [1_727_962, 1_727_962, 1_730_714]


def test_widths_are_an_option_that_is_checked(command: Command) -> None:
    listing = ("runner=layers", "model=cifar_resnet", "model.depth=8", "dataset=fake")
    ended = command(*listing, "+model.widths=[3,5,5]")
    assert read_table(ended.folder / "layers.csv")["n_filters"].tolist() == [3, 3, 3, 5, 5, 5, 5]
    check_refused(command(*listing, "+model.widths=[3,0,5]"), 2, "model.widths", "[3, 0, 5]", "from 1 on")


@pytest.mark.parametrize(
    "factory",
    [
        *("cifar_resnet.cifar_resnet", "cifar_resnet.cifar_bottleneck_resnet", "cifar_resnet.cifar_resnet18"),
        *("cifar_preresnet.cifar_preresnet", "cifar_preresnet.cifar_bottleneck_preresnet"),
        *("wide_resnet.wide_resnet", "cifar_resnext.cifar_resnext"),
    ],
)
def test_as_many_widths_as_stages_are_allowed(factory: str) -> None:
    found = signature(f"models.{factory}")
    assert found is not None
    allowed = found.options["widths"]
    assert allowed is not None
    n_stages = 4 if factory.endswith("18") else 3
    assert [n for n in range(6) if allowed.right([8] * n)] == [n_stages]
    assert not allowed.right([8.5] * n_stages) and not allowed.right([0] * n_stages)
