"""Networks against published counts, their shortcuts against the definitions, and every model option end to end."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from criteria.norm import l1
from models.cifar_resnet import SHORTCUTS, BasicBlock, Kind, cifar_resnet
from models.cifar_vgg import cifar_vgg_bn
from network_sizes import SMALLEST, every_model, models_by_size, num_params
from runners.measuring.cost import cost
from runners.pruning.remove import remove
from runners.scoring.score import score
from runners.selection.rule import Rule
from runners.selection.select import removed_filters, select
from runners.tracing.channels import trace_channels
from support import ROOT, raises_line

# 853,018 and 1,727,962: the pruning scripts the papers cite (zero-padded shortcut). 20, 32 and 44 follow from them: six
# more layers are one block a stage of 16, 32 and 64 channels, 2 * 9 * (256 + 1024 + 4096) weights and 4 * 112 of BatchNorm.
PADDED = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}
# The training code the papers cite (1x1 convolution with BatchNorm); all but 44, which is 2,752 more than padded, as they are.
CONVOLVED = {20: 272_474, 32: 466_906, 44: 661_338, 56: 855_770, 110: 1_730_714}


def test_the_expected_counts_agree_with_each_other() -> None:
    a_block_more = 2 * 9 * (16**2 + 32**2 + 64**2) + 4 * (16 + 32 + 64)
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    for depth, params in PADDED.items():
        assert params == PADDED[56] + (depth - 56) // 6 * a_block_more
        assert CONVOLVED[depth] == params + shortcuts


@pytest.mark.parametrize("depth", PADDED)
def test_resnet_parameters(depth: int) -> None:
    found = {shortcut: num_params(cifar_resnet(depth=depth, num_classes=10, shortcut=shortcut)) for shortcut in SHORTCUTS}
    assert found == {"pad": PADDED[depth], "pad_end": PADDED[depth], "conv": CONVOLVED[depth]}


def test_parameters_of_other_classes_and_channels() -> None:
    # From the same codes as above; one input channel less for each of two: 2 * 9 * 16.
    assert num_params(cifar_resnet(depth=56, num_classes=100)) == 858_868
    assert num_params(cifar_resnet(depth=56, num_classes=10, in_channels=1)) == 853_018 - 288


@pytest.mark.parametrize(("num_classes", "params"), ((10, 14_728_266), (100, 14_774_436)))
def test_vgg_parameters(num_classes: int, params: int) -> None:
    # The training code the papers cite (biased convolutions, one linear layer).
    assert num_params(cifar_vgg_bn(depth=16, num_classes=num_classes)) == params


@pytest.mark.parametrize(
    ("network", "macs"),
    (
        # The pruning scripts the papers cite, 32x32 images.
        (lambda: cifar_resnet(depth=56, num_classes=10), 125_485_696),
        (lambda: cifar_resnet(depth=56, num_classes=10, shortcut="pad_end"), 125_485_696),
        (lambda: cifar_resnet(depth=110, num_classes=10), 252_887_680),
        # Two 1x1 convolutions more, 16 * 32 at 16x16 and 32 * 64 at 8x8; the training code's table prints 125.7 M.
        (lambda: cifar_resnet(depth=56, num_classes=10, shortcut="conv"), 125_485_696 + 2 * 131_072),
        # The pruning script's VGG-16 has 313,463,808 with one more linear layer of 512 * 512; 313.2 M in the table.
        (lambda: cifar_vgg_bn(depth=16, num_classes=10), 313_463_808 - 512 * 512),
    ),
    ids=("resnet56", "resnet56 pad_end", "resnet110", "resnet56 conv", "vgg16_bn"),
)
def test_macs(network: Callable[[], nn.Module], macs: int) -> None:
    found = cost(network(), torch.zeros(1, 3, 32, 32), seconds=0.001)
    assert found.macs == macs and found.latency_ms > 0


def test_parameter_names_are_those_of_the_published_weights() -> None:
    # akamaster/pytorch_resnet_cifar10, whose padded shortcut has no parameters.
    def norm(name: str) -> list[str]:
        return [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]

    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(9)]
    expected = ["conv1.weight", *norm("bn1"), "linear.weight", "linear.bias"]
    for block in blocks:
        expected += [f"{block}.conv1.weight", f"{block}.conv2.weight", *norm(f"{block}.bn1"), *norm(f"{block}.bn2")]
    assert sorted(cifar_resnet(depth=56, num_classes=10).state_dict()) == sorted(expected)


def positive(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.1


def by_definition(shortcut: Kind, x: Tensor) -> Tensor:
    """Pixel by pixel what the published codes compute from 16 channels for 32."""
    images, channels, height, width = x.shape
    out = torch.zeros(images, 32, height // 2, width // 2)
    for row in range(height // 2):
        for column in range(width // 2):
            if shortcut == "pad":  # a quarter of the new width on either side
                out[:, 8 : 8 + channels, row, column] = x[:, :, 2 * row, 2 * column]
            else:
                square = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                out[:, :channels, row, column] = square.sum((2, 3)) / 4
    return out


@pytest.mark.parametrize("shortcut", ("pad", "pad_end"))
def test_padded_shortcuts_by_definition(shortcut: Kind) -> None:
    x = positive(2, 16, 8, 6)
    torch.testing.assert_close(SHORTCUTS[shortcut](16, 32)(x), by_definition(shortcut, x), rtol=1e-6, atol=0)


def test_convolved_shortcut_by_definition() -> None:
    shortcut = SHORTCUTS["conv"](16, 32).eval()
    [weight] = [parameter for parameter in shortcut.parameters() if parameter.dim() == 4]
    x = positive(2, 16, 8, 6)
    # A new BatchNorm divides by sqrt(1 + 1e-5) and does nothing else.
    expected = torch.einsum("nchw,oc->nohw", x[:, :, ::2, ::2], weight[:, :, 0, 0]) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(shortcut(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_the_gradient_flows_through_the_shortcut_alone(shortcut: Kind) -> None:
    """The published pruning scripts cut it (their shortcut works on x.data)."""
    torch.manual_seed(0)
    block = BasicBlock(16, 32, 2, SHORTCUTS[shortcut]).eval()
    nn.init.zeros_(block.bn2.weight)
    nn.init.zeros_(block.bn2.bias)
    x = positive(2, 16, 8, 8).requires_grad_()
    block(x).sum().backward()
    assert x.grad is not None and block.conv1.weight.grad is not None
    assert not block.conv1.weight.grad.any(), "the residual branch is off"
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()
    if shortcut == "pad":
        expected = torch.zeros_like(x)
        expected[:, :, ::2, ::2] = 1
        assert torch.equal(x.grad, expected)
    if shortcut == "pad_end":
        assert torch.equal(x.grad, torch.full_like(x, 0.25))


@pytest.mark.parametrize("depth", (-4, 2, 7, 18, 57))
def test_a_depth_that_is_none_is_refused(depth: int) -> None:
    with raises_line(ValueError, f"depth={depth}", "6n"):
        cifar_resnet(depth=depth, num_classes=10)


@cache
def config_of(model: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", ["dataset=fake", f"model={model}"])


def test_models_are_ordered_by_their_parameters() -> None:
    sizes = models_by_size()
    assert list(sizes.values()) == sorted(sizes.values())
    assert {name: sizes[f"resnet{name}"] for name in PADDED} == PADDED and sizes["vgg16_bn"] == 14_728_266
    assert list(sizes)[:10] == list(SMALLEST)


@pytest.mark.parametrize("model", every_model())
def test_every_model_runs_is_pruned_and_runs_again(model: str) -> None:
    config = config_of(model)
    assert not OmegaConf.missing_keys(config.model)
    torch.manual_seed(0)
    network: nn.Module = instantiate(config.model).eval()
    x = positive(2, config.dataset.channels, config.dataset.image_size, config.dataset.image_size)
    with torch.no_grad():
        before = network(x)
        channels = trace_channels(network, x[:1])
        selection = select(score(network, channels, {"l1": l1}), "l1", channels, Rule(ratio=0.5))
        smaller = remove(network, channels, removed_filters(selection))
        after = smaller(x)
    assert before.shape == after.shape == (2, config.dataset.num_classes)
    assert before.isfinite().all() and after.isfinite().all()
    free = selection[selection["note"] == ""]
    assert len(free) and (free["after"] == free["before"] - free["before"] // 2).all()
    for layer, width in zip(selection["layer"], selection["after"], strict=True):
        assert len(smaller.get_parameter(f"{layer}.weight")) == width
    assert num_params(smaller) < num_params(network)
    assert torch.equal(network(x), before), "the network itself stays as it is"


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_images_of_odd_sides_pass_every_shortcut(shortcut: Kind) -> None:
    assert cifar_resnet(depth=8, num_classes=10, shortcut=shortcut)(torch.zeros(2, 3, 9, 9)).shape == (2, 10)
