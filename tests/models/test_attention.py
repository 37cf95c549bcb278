"""Attention: each against an independent slow version and published counts; the state of shared attention; hosts."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from itertools import product
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from exactness import images, output, randomised
from models.attention import squeeze_excite
from models.attention.cbam import ChannelFactors, PixelFactors, block_attention
from models.attention.dia import Carrying, SharedCell, dense_implicit_attention
from models.attention.iebn import InstanceEnhancedNorm, instance_enhancement
from models.attention.se import SqueezeExcite
from models.attention.sge import SpatialGroupEnhance, spatial_group_enhance
from models.attention.srm import StyleRecalibration, style_recalibration
from models.cifar_preresnet import cifar_preresnet
from models.cifar_resnet import BasicBlock, cifar_bottleneck_resnet, cifar_resnet
from models.host import Host
from runners.measuring.cost import macs
from runners.tracing.channels import follow
from support import raises_line

Change = Callable[[nn.Module], nn.Module]
ATTENTIONS: dict[str, Change] = {
    "se": partial(squeeze_excite, reduction=16),
    "dia": partial(dense_implicit_attention, reduction=4),
    "srm": style_recalibration,
    "cbam": partial(block_attention, reduction=16, kernel=7),
    "iebn": instance_enhancement,
    "sge": partial(spatial_group_enhance, groups=64),
}


class Place(Host):
    """A residual block of one 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        outer = self.conv(x)
        return x + (outer if self.attention is None else self.attention(outer))


def maps(channels: int, height: int = 3, width: int = 4, n: int = 2) -> Tensor:
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def stirred(module: nn.Module) -> nn.Module:
    """Numbers of any kind in every parameter; in double precision, as in training."""
    generator = torch.Generator().manual_seed(2)
    for parameter in module.parameters():
        nn.init.normal_(parameter, generator=generator)
    return module.double().train()


def sigmoid(x: Tensor | float) -> Tensor:
    return 1 / (1 + torch.exp(-torch.as_tensor(x, dtype=torch.float64)))


def linear(layer: nn.Module, x: Sequence[Tensor]) -> list[Tensor]:
    """A linear layer, unit by unit."""
    assert isinstance(layer, nn.Linear)
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(layer.weight, layer.bias, strict=True)]


def batch_norm(x: Tensor) -> Tensor:
    """Each channel less its mean over images and pixels, by the root of its variance plus 1e-5."""
    out = torch.zeros_like(x)
    for channel in range(x.shape[1]):
        values = x[:, channel].flatten()
        mean = values.sum() / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        out[:, channel] = (x[:, channel] - mean) / (variance + 1e-5) ** 0.5
    return out


def agree(module: nn.Module, x: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-12)


def test_squeeze_and_excitation_by_definition() -> None:
    module, x = stirred(SqueezeExcite(32, 16)), maps(32)
    (w1, b1, w2, b2), expected = list(module.parameters()), torch.zeros_like(x)
    assert len(w1) == 2
    for image in range(len(x)):
        means = torch.stack([x[image, channel].sum() / 12 for channel in range(32)])
        hidden = torch.stack([(w1[unit] * means).sum() + b1[unit] for unit in range(2)]).clamp(min=0)
        for channel in range(32):
            expected[image, channel] = x[image, channel] * sigmoid((w2[channel] * hidden).sum() + b2[channel])
    agree(module, x, expected)


def test_style_recalibration_by_definition() -> None:
    module, x = StyleRecalibration(5), maps(5, n=4)
    stirred(module)
    style = torch.zeros(4, 5, 1, 1, dtype=torch.float64)
    for image, channel in product(range(4), range(5)):
        pixels = x[image, channel].flatten()
        mean = pixels.sum() / 12
        deviation = (sum((pixel - mean) ** 2 for pixel in pixels) / 12 + 1e-5) ** 0.5
        style[image, channel] = module.of_mean[channel] * mean + module.of_deviation[channel] * deviation
    normalised = batch_norm(style.detach()) * module.norm.weight[:, None, None] + module.norm.bias[:, None, None]
    agree(module, x, x * sigmoid(normalised))


@pytest.mark.parametrize("kernel", (3, 7))
def test_block_attention_by_definition(kernel: Literal[3, 7]) -> None:
    host, x = Place(8), maps(8)
    block_attention(nn.Sequential(host), reduction=4, kernel=kernel)
    assert isinstance(host.attention, nn.Sequential)
    channel_wise, pixel_wise = stirred(host.attention).children()
    assert isinstance(channel_wise, ChannelFactors) and isinstance(pixel_wise, PixelFactors)
    first, _, second = channel_wise.shared

    def perceptron(values: list[Tensor]) -> list[Tensor]:
        return linear(second, [unit.clamp(min=0) for unit in linear(first, values)])

    weighed, found = torch.zeros_like(x), torch.zeros(2, 1, 3, 4, dtype=torch.float64)
    for image in range(2):
        means = perceptron([x[image, channel].sum() / 12 for channel in range(8)])
        maxima = perceptron([max(x[image, channel].flatten()) for channel in range(8)])
        for channel in range(8):
            weighed[image, channel] = x[image, channel] * sigmoid(means[channel] + maxima[channel])
        for row, column in product(range(3), range(4)):
            for down, right in product(range(kernel), range(kernel)):
                r, c = row + down - kernel // 2, column + right - kernel // 2
                if 0 <= r < 3 and 0 <= c < 4:
                    pixel = weighed[image, :, r, c]
                    found[image, 0, row, column] += pixel_wise.filter[0, 0, down, right] * max(pixel)
                    found[image, 0, row, column] += pixel_wise.filter[0, 1, down, right] * sum(pixel) / 8
    factors = sigmoid(batch_norm(found.detach()) * pixel_wise.norm.weight + pixel_wise.norm.bias)
    agree(host.attention, x, weighed * factors)


@pytest.mark.parametrize(("channels", "groups"), ((6, 2), (4, 4), (5, 1)))
def test_group_enhancement_by_definition(channels: int, groups: int) -> None:
    module, x = SpatialGroupEnhance(groups), maps(channels)
    stirred(module)
    expected, each = torch.zeros_like(x), channels // groups
    for image, group in product(range(2), range(groups)):
        members = x[image, group * each : (group + 1) * each]
        mean_pixel = [member.sum() / 12 for member in members]
        likeness = [sum(m[r, c] * g for m, g in zip(members, mean_pixel, strict=True)) for r in range(3) for c in range(4)]
        mean = sum(likeness) / 12
        deviation = (sum((value - mean) ** 2 for value in likeness) / 12) ** 0.5
        for place, value in enumerate(likeness):
            factor = sigmoid(module.scale[group] * (value - mean) / (deviation + 1e-5) + module.shift[group])
            for channel in range(group * each, (group + 1) * each):
                expected[image, channel, place // 4, place % 4] = x[image, channel, place // 4, place % 4] * factor
    agree(module, x, expected)


def test_instance_enhancement_by_definition() -> None:
    module, x = InstanceEnhancedNorm(5, eps=1e-5, momentum=0.1), maps(5)
    stirred(module)
    normalised, expected = batch_norm(x), torch.zeros_like(x)
    for image, channel in product(range(2), range(5)):
        factor = sigmoid(module.slope[channel] * x[image, channel].sum() / 12 + module.offset[channel])
        expected[image, channel] = normalised[image, channel] * module.weight[channel] * factor + module.bias[channel]
    agree(module, x, expected)
    plain = nn.BatchNorm2d(5).double()
    plain(x)
    assert torch.equal(module.running_mean, plain.running_mean)  # type: ignore[arg-type]
    assert torch.equal(module.running_var, plain.running_var)  # type: ignore[arg-type]


def shared(n_blocks: int = 3, channels: int = 6) -> tuple[nn.Module, SharedCell]:
    """A stage of blocks and its cell."""
    stage = dense_implicit_attention(nn.Sequential(*(Place(channels) for _ in range(n_blocks))), reduction=3)
    [cell] = [module for module in stage.modules() if isinstance(module, SharedCell)]
    return stirred(stage), cell


def by_blocks(stage: nn.Module, cell: SharedCell, x: Tensor) -> Tensor:
    """The stage image by image, unit by unit: the four gates in the order of the authors' code."""
    out = []
    for image in x:
        hidden = memory = [torch.zeros((), dtype=torch.float64)] * 6
        for block in stage.children():
            assert isinstance(block, Place)
            y = block.conv(image[None])[0]
            sides = []
            for gates, values in ((cell.of_means, [y[c].sum() / 12 for c in range(6)]), (cell.of_hidden, hidden)):
                squeezed = [unit.clamp(min=0) for unit in linear(gates.squeeze[0], values)]
                layers = (gates.input, gates.forget, gates.candidate, gates.output)
                sides.append([linear(layer, squeezed) for layer in layers])
            i, f, g, o = ([a + b for a, b in zip(*gate, strict=True)] for gate in zip(*sides, strict=True))
            memory = [sigmoid(f[c]) * memory[c] + sigmoid(i[c]) * torch.tanh(g[c]) for c in range(6)]
            hidden = [sigmoid(o[c]) * sigmoid(memory[c]) for c in range(6)]
            image = image + y * torch.stack(hidden)[:, None, None]
        out.append(image)
    return torch.stack(out)


def test_dense_implicit_attention_by_definition() -> None:
    stage, cell = shared()
    agree(stage, maps(6), by_blocks(stage, cell, maps(6)))


def test_blocks_of_a_stage_share_one_cell_and_names_stay() -> None:
    plain = cifar_resnet(depth=20, num_classes=10)
    names = set(plain.state_dict())
    network = dense_implicit_attention(plain, reduction=4)
    assert names < set(network.state_dict())
    cells = {name.rsplit(".attention.")[0] for name in set(network.state_dict()) - names}
    assert cells == {"layer1.0", "layer2.0", "layer3.0"}
    assert [name for name, module in network.named_modules() if isinstance(module, Carrying)] == ["layer1", "layer2", "layer3"]


def test_no_state_outlives_a_pass() -> None:
    stage, cell = shared()
    first = stage(maps(6))
    assert cell.state is None and torch.equal(stage(maps(6)), first)
    twin = deepcopy(stage)  # fails for tensors with a history
    assert torch.equal(twin(maps(6)), first)
    first.sum().backward()
    [other] = [module for module in twin.modules() if isinstance(module, SharedCell)]
    assert other is not cell and all(parameter.grad is None for parameter in twin.parameters())
    assert all(parameter.grad is not None for parameter in stage.parameters())


def test_a_block_alone_leaves_no_state() -> None:
    stage, cell = shared()
    next(stage.children())(maps(6))
    assert cell.state is None


def test_an_interrupted_pass_leaves_no_state() -> None:
    stage, cell = shared()
    expected = stage(maps(6))
    last = list(stage.children())[-1]

    def interrupt(*_: object) -> None:
        assert cell.state is not None and len(cell.state) == 2
        raise KeyboardInterrupt

    hook = last.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        stage(maps(6))
    hook.remove()
    assert cell.state is None
    assert stage(maps(6, n=3)).shape == (3, 6, 3, 4), "another number of images does not meet what is left of the last pass"
    assert torch.equal(stage(maps(6)), expected)


def test_two_networks_do_not_disturb_each_other() -> None:
    (a, cell_a), (b, cell_b) = shared(), shared()
    b.load_state_dict({name: -value for name, value in b.state_dict().items()})
    expected = b(maps(6))
    within: list[Tensor] = []
    list(a.children())[1].register_forward_pre_hook(lambda *_: within.append(b(maps(6))))
    result = a(maps(6))
    assert torch.equal(within[0], expected)
    torch.testing.assert_close(result, by_blocks(a, cell_a, maps(6)))
    assert cell_b.state is None


def test_a_traced_network_computes_the_same_and_is_left_without_state() -> None:
    network = randomised(dense_implicit_attention(cifar_resnet(depth=14, num_classes=10), reduction=4))
    x = images(16, torch.float32)
    expected = output(network, x)
    traced = follow(network)
    assert all(module.state is None for module in network.modules() if isinstance(module, SharedCell))
    assert torch.equal(output(traced, x), expected) and torch.equal(output(traced, x[:1]), output(network, x[:1]))
    assert torch.equal(output(deepcopy(network), x), expected)


class Elsewhere(nn.Module):
    """Runs blocks in a loop of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Place(4), Place(4)])


def test_blocks_that_are_run_elsewhere_cannot_share() -> None:
    with raises_line(ValueError, "Elsewhere", "ModuleList", "nn.Sequential"):
        dense_implicit_attention(Elsewhere(), reduction=4)


def added(change: Change, widths: Sequence[int]) -> int:
    """Parameters that attention adds to residual stages of these widths (the first of a run of equal ones starts a stage)."""
    stages = [nn.Sequential(*(Place(width) for _ in range(widths.count(width)))) for width in dict.fromkeys(widths)]
    network = nn.Sequential(OrderedDict((f"layer{number}", stage) for number, stage in enumerate(stages)))
    before = sum(parameter.numel() for parameter in network.parameters())
    return sum(parameter.numel() for parameter in change(network).parameters()) - before


RESNET_20 = [16] * 3 + [32] * 3 + [64] * 3
RESNET_32 = [16] * 5 + [32] * 5 + [64] * 5
RESNET_56 = [16] * 9 + [32] * 9 + [64] * 9
RESNET_110 = [16] * 18 + [32] * 18 + [64] * 18
RESNET_164 = [64] * 18 + [128] * 18 + [256] * 18
RESNET_50 = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3


@pytest.mark.parametrize(
    ("name", "widths", "plain", "printed"),
    (
        # osmr/imgclsmob, tables of CIFAR-10 networks (shortcut by convolution): SE-ResNet and DIA-ResNet.
        ("se", RESNET_20, 272_474, 274_847),
        ("se", RESNET_56, 855_770, 862_889),
        ("se", RESNET_110, 1_730_714, 1_744_952),
        ("se", RESNET_164, 1_704_154, 1_906_258),
        ("dia", RESNET_20, 272_474, 286_866),
        ("dia", RESNET_56, 855_770, 870_162),
        ("dia", RESNET_110, 1_730_714, 1_745_106),
        ("dia", RESNET_164, 1_704_154, 1_923_002),
        # EvgenyKashin/SRMnet, its table of ResNet-32 on CIFAR-10.
        ("srm", RESNET_32, 466_906, 469_146),
    ),
)
def test_counts_are_those_published(name: str, widths: list[int], plain: int, printed: int) -> None:
    assert plain + added(ATTENTIONS[name], widths) == printed


def test_counts_of_whole_networks_are_those_published() -> None:
    # As above; DIA-PreResNet-20 from the same table. CIFAR-100 adds 90 * 257 numbers to ResNet-164.
    def whole(name: str, network: nn.Module) -> int:
        return sum(parameter.numel() for parameter in ATTENTIONS[name](network).parameters())

    assert whole("dia", cifar_preresnet(depth=20, num_classes=10)) == 286_674
    assert whole("dia", cifar_bottleneck_resnet(depth=164, num_classes=100)) == 1_923_002 + 90 * 257
    assert whole("se", cifar_bottleneck_resnet(depth=164, num_classes=10)) == 1_906_258
    # Twice the channels of the stem's norm and of three norms in each of 54 blocks, 16, 32 and 64 wide and four times that.
    enhanced = whole("iebn", cifar_bottleneck_resnet(depth=164, num_classes=10))
    assert enhanced == 1_704_154 + 2 * (16 + 18 * 6 * (16 + 32 + 64))


@pytest.mark.parametrize(("name", "printed"), (("se", "28.09"), ("cbam", "28.09"), ("sge", "25.56")))
def test_counts_of_resnet_50_are_those_the_authors_of_group_enhancement_print(name: str, printed: str) -> None:
    # implus/PytorchInsight, table "Classification", in millions; torchvision's ResNet-50 has 25,557,032.
    assert f"{(25_557_032 + added(ATTENTIONS[name], RESNET_50)) / 1e6:.2f}" == printed


def test_counts_of_resnet_164_by_hand() -> None:
    # Sums over the widths 64, 128, 256: 448; of squares: 86,016. Eighteen blocks a stage.
    expected = {
        "se": 18 * (2 * 86_016 // 16 + 448 // 16 + 448),
        "dia": 2 * (86_016 // 4 + 448 // 4 + 4 * (86_016 // 4 + 448)),
        "srm": 18 * 4 * 448,
        "cbam": 18 * (2 * 86_016 // 16 + 448 // 16 + 448) + 54 * (2 * 49 + 2),
        "sge": 54 * 2 * 64,
    }
    found = {name: added(change, RESNET_164) for name, change in ATTENTIONS.items() if name != "iebn"}
    assert found == expected


def test_instance_enhancement_stands_in_every_norm_but_those_of_shortcuts() -> None:
    network = cifar_resnet(depth=20, num_classes=10, shortcut="conv")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.5)
    names = set(network.state_dict())
    instance_enhancement(network)
    plain = [name for name, module in network.named_modules() if type(module) is nn.BatchNorm2d]
    assert plain == ["layer2.0.shortcut.1", "layer3.0.shortcut.1"]
    # Two numbers for every channel of the stem and of six norms a stage.
    assert sum(parameter.numel() for parameter in network.parameters()) == 272_474 + 2 * (16 + 6 * (16 + 32 + 64))
    assert names < set(network.state_dict())
    assert all((m.weight == 0.5).all() for m in network.modules() if isinstance(m, InstanceEnhancedNorm))


def test_instance_enhancement_starts_at_the_authors_values() -> None:
    # weight_readjust 0 and bias_readjust -1 in gbup-group/IEBN: all factors are the sigmoid of -1.
    module, x = InstanceEnhancedNorm(5, eps=1e-5, momentum=0.1).double(), maps(5)
    agree(module, x, batch_norm(x) / (1 + math.e))


def test_attention_stands_before_the_sum() -> None:
    network = squeeze_excite(cifar_resnet(depth=8, num_classes=10), reduction=4).eval()
    block = network.get_submodule("layer1.0")
    assert isinstance(block, BasicBlock) and isinstance(block.attention, SqueezeExcite)
    last = block.attention.factors[2]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, -math.inf)  # all factors are 0, and the shortcut is left
    x = images(8, torch.float32).repeat(1, 6, 1, 1)[:, :16]
    assert torch.equal(block(x), x.relu())


@pytest.mark.parametrize("name", ATTENTIONS)
def test_gradients_are_finite_where_maps_are_constant_and_of_one_pixel(name: str) -> None:
    torch.manual_seed(0)
    network = ATTENTIONS[name](cifar_resnet(depth=8, num_classes=10)).train()
    nn.init.zeros_(network.get_parameter("layer1.0.bn2.weight"))
    network(torch.randn(2, 3, 4, 4)).sum().backward()  # one pixel is left in the last stage
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_a_filter_over_pixels_is_no_convolution_of_the_network() -> None:
    plain, weighed = (change(cifar_resnet(depth=8, num_classes=10)) for change in (ATTENTIONS["se"], ATTENTIONS["cbam"]))
    assert sum(isinstance(m, nn.Conv2d) for m in weighed.modules()) == sum(isinstance(m, nn.Conv2d) for m in plain.modules())
    x = torch.zeros(1, 3, 8, 8)
    # The two linear layers run for means and for maxima; the filter counts as a product of activations does.
    assert macs(weighed, x) - macs(plain, x) == sum(2 * width * (width // 16) for width in (16, 32, 64))


def test_groups_that_the_channels_cannot_hold_become_a_divisor() -> None:
    network = spatial_group_enhance(nn.Sequential(Place(16), Place(160), Place(128), Place(9)), groups=64)
    assert [len(module.scale) for module in network.modules() if isinstance(module, SpatialGroupEnhance)] == [16, 32, 64, 1]


@pytest.mark.parametrize("name", ATTENTIONS)
def test_a_network_without_places_is_refused(name: str) -> None:
    with raises_line(ValueError, "Sequential", "attention", "model=resnet56"):
        ATTENTIONS[name](nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()))


def test_a_network_without_norms_cannot_be_enhanced() -> None:
    with raises_line(ValueError, "BatchNorm"):
        instance_enhancement(nn.Sequential(Place(4)))
