"""Removing filters for good computes what zeroing them computes, or is refused."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models as tv
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torchvision.ops import FrozenBatchNorm2d

from exactness import assert_removed_is_masked, difference, half_of_ranked, images, output, randomised, share_of_free_groups
from models.cifar_resnet import cifar_resnet
from runners.measuring.cost import cost
from runners.process.errors import ConfigError
from runners.pruning.remove import mask, remove
from runners.selection.afford import costs_of
from runners.tracing.channels import Removed, trace_channels
from support import check_line, names, raises_line


class Net(nn.Module):
    """Layers and what to do with them."""

    def __init__(self, body: Callable[[Any, Tensor], Any], **layers: nn.Module | Tensor) -> None:
        super().__init__()
        self.body = body
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def conv(inputs: int, outputs: int, **kwargs: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **kwargs)


def plain(middle: Callable[[Any, Tensor], Any], *, width: int = 6, **layers: nn.Module | Tensor) -> Net:
    """conv a (6 filters), `middle`, conv b reading `width` channels, mean, linear layer."""
    return Net(
        lambda m, x: m.head(m.b(middle(m, m.a(x))).mean((2, 3))),
        **{"a": conv(3, 6), "b": conv(width, 4), "head": nn.Linear(4, 2)} | layers,
    )


def flat(middle: Callable[[Tensor], Tensor]) -> Net:
    """conv a, `middle` makes a row of 6 * 4 * 4 features an image, a hidden layer, ReLU, linear layer."""
    return Net(
        lambda m, x: m.head(torch.relu(m.hidden(middle(F.max_pool2d(m.a(x), 2))))),
        a=conv(3, 6),
        hidden=nn.Linear(6 * 16, 8),
        head=nn.Linear(8, 2),
    )


def squeeze_excitation(m: Any, x: Tensor) -> Tensor:
    return x * torch.sigmoid(m.up(F.silu(m.down(x.mean((2, 3), keepdim=True)))))


def product(parts: Any) -> Tensor:
    return parts[0] * parts[1]


def crossed(parts: Any) -> Tensor:
    return torch.cat([parts[1], parts[0]], 1)


def unite(m: Any, x: Tensor) -> Tensor:
    return m.c(x) + x


def one_weight_twice() -> Net:
    network = plain(lambda m, x: m.c2(m.c(x)), c=conv(6, 6), c2=conv(6, 6))
    network.get_submodule("c2").weight = network.get_parameter("c.weight")
    return network


def senet(m: Any, x: Tensor) -> Tensor:
    n, c, _, _ = x.size()
    return x * torch.sigmoid(m.fc(F.adaptive_avg_pool2d(x, 1).view(n, c))).view(n, c, 1, 1)


def neighbours(x: Tensor) -> Tensor:
    return F.max_pool3d(x.unsqueeze(1), (3, 1, 1), 1, (1, 0, 0)).squeeze(1)


def gate_of_neighbours(m: Any, x: Tensor) -> Tensor:
    return x * torch.sigmoid(F.avg_pool1d(x.mean((2, 3)).unsqueeze(1), 3, 1, 1)).squeeze(1)[:, :, None, None]


def recurrent(m: Any, x: Tensor) -> Tensor:
    state = m.f(F.pad(x, (0, 0, 0, 0, 0, 8)))
    return m.f(torch.cat([x, state], 1))


def unpooled(m: Any, x: Tensor) -> Tensor:
    pooled, places = m.pool(x)
    return m.back(m.c(pooled), places)


def in_training(m: Any, x: Tensor) -> Any:
    features = m.a(x)
    found = m.head(m.b(features).mean((2, 3)))
    return (found, m.aux_head(m.aux_bn(m.aux(features)).mean((2, 3)))) if m.training else found


WIDTH = "which depends on the width"
COUNTED = "is counted for "
NUMBER = "reaches b as a number other than zero"
TIED = "tied to "
UNEVEN = "is read or written unevenly by the groups of "
# name -> (network, what stands in the way of each convolution; "" is nothing)
SMALL: dict[str, tuple[Callable[[], Net], Mapping[str, str]]] = {
    "plain": (lambda: plain(lambda m, x: torch.relu(x)), {"a": "", "b": ""}),
    "bias without BatchNorm": (lambda: plain(lambda m, x: F.gelu(x), a=conv(3, 6, bias=True)), {"a": "", "b": ""}),
    "BatchNorm": (lambda: plain(lambda m, x: m.bn(x).relu(), bn=nn.BatchNorm2d(6)), {"a": "", "b": ""}),
    "BatchNorm without affine": (
        lambda: plain(lambda m, x: m.bn(x), bn=nn.BatchNorm2d(6, affine=False)),
        {"a": NUMBER, "b": ""},
    ),
    "BatchNorm without affine, then with": (
        lambda: plain(lambda m, x: m.bn2(m.bn(x)), bn=nn.BatchNorm2d(6, affine=False), bn2=nn.BatchNorm2d(6)),
        {"a": "", "b": ""},
    ),
    "BatchNorm of two": (
        lambda: plain(lambda m, x: m.bn(x) + m.bn(m.c(x)), bn=nn.BatchNorm2d(6), c=conv(6, 6)),
        {"a": TIED + "c", "c": TIED + "a", "b": ""},
    ),
    "BatchNorm behind the hidden layer": (
        lambda: Net(
            lambda m, x: m.head(m.bn(m.hidden(m.a(x).mean((2, 3))))),
            a=conv(3, 6),
            hidden=nn.Linear(6, 8),
            bn=nn.BatchNorm1d(8),
            head=nn.Linear(8, 2),
        ),
        {"a": ""},
    ),
    "concat": (
        lambda: plain(lambda m, x: torch.cat([x, m.c(x), x], 1), width=16, c=conv(6, 4)),
        {"a": "", "c": "", "b": ""},
    ),
    "concat, one BatchNorm": (
        lambda: plain(lambda m, x: m.bn(torch.cat((m.c(x), x), 1)), width=10, c=conv(6, 4), bn=nn.BatchNorm2d(10)),
        {"a": "", "c": "", "b": ""},
    ),
    "sum": (lambda: plain(unite, c=conv(6, 6)), {"a": TIED + "c", "c": TIED + "a", "b": ""}),
    "difference": (lambda: plain(lambda m, x: m.c(x) - x, c=conv(6, 6)), {"a": TIED + "c", "c": TIED + "a", "b": ""}),
    "product": (lambda: plain(lambda m, x: m.c(x) * x, c=conv(6, 6)), {"a": TIED + "c", "c": TIED + "a", "b": ""}),
    "gate": (
        lambda: plain(squeeze_excitation, down=nn.Conv2d(6, 5, 1), up=nn.Conv2d(5, 6, 1)),
        {"a": TIED + "up", "up": TIED + "a", "down": "", "b": ""},
    ),
    "gate without product": (lambda: plain(lambda m, x: torch.sigmoid(x)), {"a": NUMBER, "b": ""}),
    "hard gate, halved": (lambda: plain(lambda m, x: F.hardsigmoid(x) / 2), {"a": NUMBER, "b": ""}),
    "product of gates": (
        lambda: plain(lambda m, x: torch.sigmoid(x) * torch.sigmoid(m.c(x)), c=conv(6, 6)),
        {"a": NUMBER, "c": "reaches", "b": ""},
    ),
    "gate into a linear layer": (
        lambda: Net(lambda m, x: m.head(m.a(x).mean((2, 3)).sigmoid()), a=conv(3, 6), head=nn.Linear(6, 2)),
        {"a": "reaches head as a number other than zero"},
    ),
    "gate into a depthwise convolution": (
        lambda: plain(lambda m, x: m.dw(torch.sigmoid(x)), dw=conv(6, 6, groups=6)),
        {"a": "reaches dw as a number", "dw": "reaches dw as a number", "b": ""},
    ),
    "a constant added": (lambda: plain(lambda m, x: 0.5 + x), {"a": NUMBER, "b": ""}),
    "subtracted from a constant": (lambda: plain(lambda m, x: 1 - x), {"a": NUMBER, "b": ""}),
    "zero added": (lambda: plain(lambda m, x: x + 0), {"a": "", "b": ""}),
    "a constant added before BatchNorm": (
        lambda: plain(lambda m, x: m.bn(x + 1), bn=nn.BatchNorm2d(6)),
        {"a": "", "b": ""},
    ),
    "a parameter added": (
        lambda: plain(lambda m, x: x + m.shift, shift=nn.Parameter(torch.randn(6, 1, 1))),
        {"a": "", "b": ""},
    ),
    "scaled and divided": (lambda: plain(lambda m, x: 3 * x / 2), {"a": "", "b": ""}),
    "divided by": (lambda: plain(lambda m, x: 1 / (x + 9)), {"a": "passes truediv", "b": ""}),
    "depthwise": (
        lambda: plain(lambda m, x: m.bn(m.dw(x)), dw=conv(6, 6, groups=6), bn=nn.BatchNorm2d(6)),
        {"a": TIED + "dw", "dw": TIED + "a", "b": ""},
    ),
    "several filters a channel": (
        lambda: plain(lambda m, x: m.dw(x), width=12, dw=conv(6, 12, groups=6)),
        {"a": TIED + "dw", "dw": TIED + "a", "b": ""},
    ),
    "grouped": (lambda: plain(lambda m, x: m.c(x), c=conv(6, 6, groups=2)), {"a": "", "c": "", "b": ""}),
    "grouped, other widths": (
        lambda: plain(lambda m, x: m.bn(m.c(x)), width=9, c=conv(6, 9, groups=3), bn=nn.BatchNorm2d(9)),
        {"a": "", "c": "", "b": ""},
    ),
    "grouped twice, groups in groups": (
        lambda: plain(lambda m, x: m.d(m.c(x)), width=4, a=conv(3, 8), c=conv(8, 8, groups=2), d=conv(8, 4, groups=4)),
        {"a": "", "c": "", "d": "", "b": ""},
    ),
    "grouped twice, groups across groups": (
        lambda: plain(lambda m, x: m.d(m.c(x)), c=conv(6, 6, groups=2), d=conv(6, 6, groups=3)),
        {"a": "", "c": UNEVEN + "c", "d": "", "b": ""},
    ),
    "grouped, reading two layers": (
        lambda: plain(lambda m, x: m.d(torch.cat([x, m.c(x)], 1)), width=4, c=conv(6, 6), d=conv(12, 4, groups=2)),
        {"a": UNEVEN + "d", "c": UNEVEN + "d", "d": "", "b": ""},
    ),
    "grouped, reading a layer twice": (
        lambda: plain(lambda m, x: m.d(torch.cat([x, x], 1)), width=4, d=conv(12, 4, groups=2)),
        {"a": "", "d": "", "b": ""},
    ),
    "grouped in a residual sum": (
        lambda: plain(lambda m, x: m.c(x) + x, c=conv(6, 6, groups=2)),
        {"a": TIED + "c", "c": TIED + "a", "b": ""},
    ),
    "transposed": (
        lambda: plain(lambda m, x: m.bn(m.up(x)), width=5, up=nn.ConvTranspose2d(6, 5, 2, 2), bn=nn.BatchNorm2d(5)),
        {"a": "", "up": "", "b": ""},
    ),
    "transposed with padding on one side": (
        lambda: plain(lambda m, x: m.up(x), up=nn.ConvTranspose2d(6, 6, 3, 2, padding=1, output_padding=1, dilation=2)),
        {"a": "", "up": "", "b": ""},
    ),
    "transposed, grouped": (
        lambda: plain(lambda m, x: m.up(x), up=nn.ConvTranspose2d(6, 6, 2, 2, groups=2)),
        {"a": "", "up": "", "b": ""},
    ),
    "transposed, depthwise": (
        lambda: plain(lambda m, x: m.up(x), width=12, up=nn.ConvTranspose2d(6, 12, 2, 2, groups=6)),
        {"a": TIED + "up", "up": TIED + "a", "b": ""},
    ),
    "padding by name": (
        lambda: plain(lambda m, x: m.c(x), c=nn.Conv2d(6, 6, 3, padding="same", dilation=2)),
        {"a": "", "c": "", "b": ""},
    ),
    "softmax": (lambda: plain(lambda m, x: x.softmax(1)), {"a": "passes softmax", "b": ""}),
    "GroupNorm": (lambda: plain(lambda m, x: m.norm(x), norm=nn.GroupNorm(2, 6)), {"a": "passes norm", "b": ""}),
    "shared module used twice": (
        lambda: plain(lambda m, x: m.c(torch.relu(m.c(x))), c=conv(6, 6)),
        {"a": TIED + "c", "c": TIED + "a", "b": ""},
    ),
    "PReLU": (lambda: plain(lambda m, x: m.act(x), act=nn.PReLU(6, init=-0.3)), {"a": "", "b": ""}),
    "PReLU with one parameter": (lambda: plain(lambda m, x: m.act(x), act=nn.PReLU()), {"a": "", "b": ""}),
    "flatten": (lambda: flat(lambda x: x.flatten(1)), {"a": ""}),
    "flatten by view": (lambda: flat(lambda x: x.view(x.size(0), -1)), {"a": ""}),
    "flatten by reshape": (lambda: flat(lambda x: x.reshape((x.shape[0], -1))), {"a": ""}),
    "flatten with the width written down": (lambda: flat(lambda x: x.view(-1, 96)), {"a": WIDTH}),
    "flatten the other way": (lambda: flat(lambda x: x.permute(0, 2, 3, 1).flatten(1)), {"a": ""}),
    "zero channels on both sides": (lambda: plain(lambda m, x: F.pad(x, (0, 0, 0, 0, 2, 1)), width=9), {"a": "", "b": ""}),
    "BatchNorm of zero channels": (
        lambda: plain(lambda m, x: m.bn(F.pad(x, (0, 0, 0, 0, 2, 0))), width=8, bn=nn.BatchNorm2d(8)),
        {"a": "", "b": ""},
    ),
    "zero channels added": (
        lambda: plain(lambda m, x: F.pad(x, (0, 0, 0, 0, 0, 2)) + m.c(x), width=8, c=conv(6, 8)),
        {"a": TIED + "c", "c": "meets the zero channels of a padded shortcut", "b": ""},
    ),
    "depthwise of zero channels": (
        lambda: plain(lambda m, x: m.dw(F.pad(x, (0, 0, 0, 0, 2, 0))), width=8, dw=conv(8, 8, groups=8)),
        {"a": TIED + "dw", "dw": "filters a channel that is always zero", "b": ""},
    ),
    "chunk": (lambda: plain(lambda m, x: product(x.chunk(2, 1)), width=3), {"a": WIDTH, "b": ""}),
    "slice of channels": (lambda: plain(lambda m, x: x[:, :4], width=4), {"a": WIDTH, "b": ""}),
    "slice of pixels": (lambda: plain(lambda m, x: x[:, :, ::2, 1:]), {"a": "", "b": ""}),
    "pixel shuffle": (lambda: plain(lambda m, x: F.pixel_shuffle(x, 2), width=2, a=conv(3, 8)), {"a": WIDTH, "b": ""}),
    "mean over pixels": (lambda: plain(lambda m, x: x.mean([2, 3], keepdim=True)), {"a": "", "b": ""}),
    "mean taken away": (lambda: plain(lambda m, x: x - x.mean((2, 3), keepdim=True)), {"a": "", "b": ""}),
    "mean over channels": (lambda: plain(lambda m, x: x.mean(1, keepdim=True), width=1), {"a": "is summed over", "b": ""}),
    "largest pixel": (lambda: plain(lambda m, x: x.amax((2, 3), keepdim=True)), {"a": "", "b": ""}),
    "pooled and enlarged": (
        lambda: plain(lambda m, x: F.interpolate(F.max_pool2d(x, 3, 2, 1), size=5)),
        {"a": "", "b": ""},
    ),
    "channels last in between": (
        lambda: plain(lambda m, x: m.l(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), l=nn.Linear(6, 6)),
        {"a": "", "b": ""},
    ),
    "pixels mixed": (lambda: plain(lambda m, x: m.l(x), l=nn.Linear(8, 8)), {"a": "channels mixed", "b": ""}),
    "dead code": (lambda: plain(lambda m, x: (m.dead(x), x)[1], dead=conv(6, 5)), {"a": "", "dead": "", "b": ""}),
    "output of a convolution": (
        lambda: Net(lambda m, x: m.b(m.a(x)), a=conv(3, 6), b=conv(6, 4)),
        {"a": "", "b": "network output"},
    ),
    "several outputs": (
        lambda: Net(lambda m, x: {"end": (m.b(m.a(x)), m.c(x))}, a=conv(3, 6), b=conv(6, 4), c=conv(3, 2)),
        {"a": "", "b": "network output", "c": "network output"},
    ),
}

# From public bug reports: numbers of channels, zeros, windows over channels, branches of training.
SMALL |= {
    "scaled by the number of channels": (lambda: plain(lambda m, x: x * x.shape[1] ** -0.5), {"a": COUNTED + "mul", "b": ""}),
    "zeros like it": (lambda: plain(lambda m, x: torch.cat([x, torch.zeros_like(x)], 1), width=12), {"a": "", "b": ""}),
    "zeros of its shape": (lambda: plain(lambda m, x: torch.cat([x, x.new_zeros(x.shape)], 1), width=12), {"a": "", "b": ""}),
    "numbers like it": (lambda: plain(lambda m, x: torch.cat([x, torch.ones_like(x)], 1), width=12), {"a": NUMBER, "b": ""}),
    "padded up to a width": (
        lambda: plain(lambda m, x: m.c(x) + F.pad(x, (0, 0, 0, 0, 0, 12 - x.size(1))), width=12, c=conv(6, 12)),
        {"a": COUNTED + "pad", "b": ""} | {"c": "meets the zero channels"},
    ),
    "number of channels compared": (lambda: plain(lambda m, x: x * (x.shape[1] == 6)), {"a": COUNTED + "eq", "b": ""}),
    "zeros first, filters then": (
        lambda: plain(recurrent, width=8, f=conv(14, 8)),
        {"a": "", "f": "which reads zeros in its place elsewhere", "b": ""},
    ),
    "filters first, zeros then": (
        lambda: plain(lambda m, x: m.f(x) + m.f(F.pad(m.d(x), (0, 0, 0, 0, 0, 2))), width=5, d=conv(6, 4), f=conv(6, 5)),
        {"a": "which reads zeros in its place elsewhere", "d": TIED + "a", "f": "", "b": ""},
    ),
    "largest of neighbours": (lambda: plain(lambda m, x: neighbours(x)), {"a": "passes max_pool3d", "b": ""}),
    "gate of neighbours": (lambda: plain(gate_of_neighbours), {"a": "passes avg_pool1d", "b": ""}),
    "local response norm": (
        lambda: plain(lambda m, x: F.local_response_norm(x, 3)),
        {"a": "passes local_response_norm", "b": ""},
    ),
    "local response norm by hand": (
        lambda: plain(lambda m, x: x * F.avg_pool3d(x.pow(2)[:, None], (3, 1, 1), 1, (1, 0, 0)).squeeze(1).add(1).pow(-0.75)),
        {"a": "passes avg_pool3d", "b": ""},
    ),
    "head of training": (
        lambda: Net(
            in_training,
            **{"a": conv(3, 6), "b": conv(6, 4), "head": nn.Linear(4, 2)},
            **{"aux": conv(6, 5), "aux_bn": nn.BatchNorm2d(5), "aux_head": nn.Linear(5, 2)},
        ),
        {"a": "", "b": ""},
    ),
    "pooling with places": (
        lambda: plain(unpooled, pool=nn.MaxPool2d(2, return_indices=True), back=nn.MaxUnpool2d(2), c=conv(6, 6)),
        {"a": "passes back", "c": "passes back", "b": ""},
    ),
    "some channels": (
        lambda: plain(lambda m, x: x[:, m.kept], width=4, kept=nn.Buffer(torch.tensor([0, 2, 3, 5]))),
        {"a": "passes getitem", "b": ""},
    ),
    "one channel for all": (
        lambda: plain(lambda m, x: x * torch.sigmoid(m.c(x)), c=conv(6, 1)),
        {"a": "", "c": "meets all channels at once", "b": ""},
    ),
    "one channel repeated": (
        lambda: plain(lambda m, x: x * torch.sigmoid(m.c(x)).expand_as(x), c=conv(6, 1)),
        {"a": "", "c": "is repeated by expand_as", "b": ""},
    ),
    "one channel added": (lambda: plain(lambda m, x: x + m.c(x), c=conv(6, 1)), {"a": NUMBER, "c": "meets all", "b": ""}),
    "SENet": (
        lambda: plain(senet, fc=nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 6))),
        {"a": TIED + "fc.2", "b": ""},
    ),
    "gate repeated": (
        lambda: plain(lambda m, x: x * m.c(x.mean((2, 3), keepdim=True)).expand_as(x), c=nn.Conv2d(6, 6, 1)),
        {"a": TIED + "c", "c": TIED + "a", "b": ""},
    ),
    "clamped to a number": (lambda: plain(lambda m, x: x.clamp(min=0.5)), {"a": NUMBER, "b": ""}),
    "to the power of nothing": (lambda: plain(lambda m, x: x**0), {"a": NUMBER, "b": ""}),
    "pixels of ones around": (lambda: plain(lambda m, x: F.pad(x, (1, 1, 1, 1), value=1.0)), {"a": NUMBER, "b": ""}),
    "group norm": (lambda: plain(lambda m, x: m.norm(x), norm=nn.GroupNorm(2, 6)), {"a": "mixes channels", "b": ""}),
}
# What treats every channel alone stands in nobody's way.
ALONE: Mapping[str, Callable[[], Net]] = {
    "FrozenBatchNorm": lambda: plain(lambda m, x: m.norm(x), norm=FrozenBatchNorm2d(6)),
    "InstanceNorm": lambda: plain(lambda m, x: m.norm(x), norm=nn.InstanceNorm2d(6)),
    "InstanceNorm with affine": lambda: plain(lambda m, x: m.norm(x), norm=nn.InstanceNorm2d(6, affine=True)),
    "layer scale": lambda: plain(lambda m, x: x * m.scale, scale=nn.Parameter(torch.rand(1, 6, 1, 1))),
    "view with the rest open": lambda: plain(lambda m, x: x.view(x.size(0), x.size(1), -1).mean(2)[:, :, None, None]),
    "flattened by its sizes": lambda: Net(
        lambda m, x: m.head((y := m.a(x)).view(y.shape[0], y.shape[1] * y.shape[2] * y.shape[3])),
        a=conv(3, 6),
        head=nn.Linear(6 * 64, 2),
    ),
    "clamp": lambda: plain(lambda m, x: x.clamp(0, 6)),
    "Hardtanh": lambda: plain(lambda m, x: m.act(x), act=nn.Hardtanh()),
    "cast": lambda: plain(lambda m, x: x.to(x.dtype).type_as(x).float().to(x.dtype)),
    "power": lambda: plain(lambda m, x: x.pow(2)),
    "where": lambda: plain(lambda m, x: torch.where(x > 0, x, 0.1 * x)),
    "zeros around pixels": lambda: plain(lambda m, x: F.pad(x, (1, 1, 1, 1))),
    "every second pixel": lambda: plain(lambda m, x: x[..., ::2]),
    "flip of pixels": lambda: plain(lambda m, x: x.flip(3)),
    "maximum over pixels": lambda: plain(lambda m, x: x.max(3)[0].unsqueeze(3)),
    "masked": lambda: plain(lambda m, x: x.masked_fill(x < 0, 0.0)),
    "deviation over pixels": lambda: plain(lambda m, x: x * x.std((2, 3), keepdim=True)),
    "norm over pixels": lambda: plain(lambda m, x: x * x.norm(dim=(2, 3), keepdim=True)),
    "part of the pixels": lambda: plain(lambda m, x: x.narrow(3, 0, 4) + x.chunk(2, 3)[1] + x.select(3, 0)[..., None]),
    "repeated channels": lambda: plain(lambda m, x: x.repeat(1, 2, 1, 1), width=12),
    "both in range": lambda: plain(lambda m, x: x * torch.logical_and(x > 0, x < 1)),
    "either of two": lambda: plain(lambda m, x: x * ((x > 1) | (x < -1))),
    "clamped to another": lambda: plain(lambda m, x: torch.clamp(x, min=x * 0.5)),
    "remainder": lambda: plain(lambda m, x: torch.fmod(x, 2) + x % 3),
    "resized": lambda: plain(lambda m, x: m.up(x), up=nn.UpsamplingBilinear2d(scale_factor=2)),
    "reflected": lambda: plain(lambda m, x: m.zeros(m.pad(x)), pad=nn.ReflectionPad2d(1), zeros=nn.ZeroPad2d(1)),
    **{
        type(act).__name__: lambda act=act: plain(lambda m, x: m.act(x), act=act)
        for act in (
            nn.LeakyReLU(),
            nn.PReLU(6),
            nn.RReLU(),
            nn.Softshrink(),
            nn.Tanhshrink(),
            nn.Mish(),
            nn.CELU(),
            nn.Threshold(0.1, 0),
        )
    },
}
SMALL |= {name: (build, {"a": ""} if name.startswith("flattened") else {"a": "", "b": ""}) for name, build in ALONE.items()}

# Rarer, and easily got wrong: each must be refused or exact; no claim which.
REFUSED_OR_EXACT: Mapping[str, Callable[[], Net]] = {
    "constant channels": lambda: plain(lambda m, x: F.pad(x, (0, 0, 0, 0, 0, 1), value=4.0), width=7),
    "pixels of zeros": lambda: plain(lambda m, x: F.pad(x, (1, 1, 1, 1))),
    "pixels of ones": lambda: plain(lambda m, x: F.pad(x, (1, 1, 1, 1), value=1.0)),
    "made constant added": lambda: plain(lambda m, x: x + torch.full((x.size(0), 6, 1, 1), 5.0, dtype=x.dtype)),
    "made constant concatenated": lambda: plain(
        lambda m, x: torch.cat([x, torch.full((x.size(0), 2, 8, 8), 4.0, dtype=x.dtype)], 1), width=8
    ),
    "scaled by a parameter": lambda: plain(lambda m, x: x * m.scale, scale=nn.Parameter(torch.tensor(2.0))),
    "scaled by a parameter of zero": lambda: plain(
        lambda m, x: m.c(x) * m.scale + x, c=conv(6, 6), scale=nn.Parameter(torch.tensor(0.0))
    ),
    "shifted by a parameter": lambda: plain(lambda m, x: x + m.shift, shift=nn.Parameter(torch.tensor(5.0))),
    "keyword argument of a function": lambda: plain(lambda m, x: torch.mul(x, other=m.c(x)), c=conv(6, 6)),
    "keyword arguments of a sum": lambda: plain(lambda m, x: torch.add(input=x, other=m.c(x)), c=conv(6, 6)),
    "keyword argument of a module": lambda: plain(lambda m, x: m.c(input=x), c=conv(6, 6)),
    "sum with a factor": lambda: plain(lambda m, x: torch.add(m.c(x), x, alpha=-2), c=conv(6, 6)),
    "mean with a dtype": lambda: plain(lambda m, x: x.mean((2, 3), keepdim=True, dtype=torch.float64).to(x.dtype)),
    "sigmoid in place": lambda: plain(lambda m, x: (x.sigmoid_(), x)[1]),
    "sum in place": lambda: plain(lambda m, x: (x.add_(1.0), x)[1]),
    "fill in place": lambda: plain(lambda m, x: (x.fill_(2.0), x)[1]),
    "item assigned": lambda: plain(lambda m, x: (x.__setitem__((slice(None), 0), 1.0), x)[1]),
    "view changed in place": lambda: plain(lambda m, x: (x.flatten(2).sigmoid_(), x)[1]),
    "changed in place under a view": lambda: plain(lambda m, x: ((y := x.flatten(2)), x.add_(1.0), y)[2].unflatten(2, (8, 8))),
    "one pixel changed in place": lambda: plain(lambda m, x: (x[:, :, 0].add_(1.0), x)[1]),
    "weight normalised": lambda: plain(lambda m, x: m.c(x), c=weight_norm(conv(6, 6))),
    "convolution with weights standardised": lambda: plain(lambda m, x: m.c(x), c=StdConv2d(6, 6, 3, padding=1)),
    "BatchNorm with a sigmoid inside": lambda: plain(lambda m, x: m.bn(x), bn=BatchNormAct2d(6, act_layer=nn.Sigmoid)),
    "BatchNorm with ReLU inside": lambda: plain(lambda m, x: m.bn(x), bn=BatchNormAct2d(6)),
    "squeeze of everything": lambda: Net(
        lambda m, x: m.head(m.a(x).mean((2, 3), keepdim=True).squeeze()), a=conv(3, 6), head=nn.Linear(6, 2)
    ),
    "pooling with indices": lambda: plain(lambda m, x: m.pool(x)[0], pool=nn.MaxPool2d(2, return_indices=True)),
    "power": lambda: plain(lambda m, x: x**0),
    "clamped from below": lambda: plain(lambda m, x: x.clamp(min=0.5)),
    "ReLU with a threshold": lambda: plain(lambda m, x: F.threshold(x, 0.5, 3.0)),
    "where": lambda: plain(lambda m, x: torch.where(x > 0, x, 1.0)),
    "stack": lambda: plain(lambda m, x: torch.stack([x, x], 1).flatten(1, 2), width=12),
    "stack inside": lambda: plain(lambda m, x: torch.stack([x, m.c(x)], 2).flatten(1, 2), width=12, c=conv(6, 6)),
    "roll": lambda: plain(lambda m, x: x.roll(1, 1)),
    "flip of channels": lambda: plain(lambda m, x: x.flip(1)),
    "expand": lambda: plain(lambda m, x: x.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4)),
    "cumulated": lambda: plain(lambda m, x: x.cumsum(1)),
    "normalised": lambda: plain(lambda m, x: F.normalize(x)),
    "LocalResponseNorm": lambda: plain(lambda m, x: m.norm(x), norm=nn.LocalResponseNorm(2)),
    "batch made of channels": lambda: plain(lambda m, x: x.transpose(0, 1).transpose(0, 1)),
    "channels as pixels": lambda: plain(lambda m, x: x.transpose(1, 2), width=8),
    "all of the channels": lambda: plain(lambda m, x: x[:, :]),
    "split": lambda: plain(lambda m, x: crossed(x.split(3, 1))),
    "one channel spread": lambda: plain(lambda m, x: x * m.c(x), c=conv(6, 1)),
    "bilinear form": lambda: plain(lambda m, x: torch.matmul(x, x.transpose(2, 3))),
    "Gram matrix of channels": lambda: plain(lambda m, x: torch.einsum("nchw,ndhw->ncdh", x, x)),
    "one module, two sizes of image": lambda: plain(
        lambda m, x: m.c(x) + F.interpolate(m.c(F.max_pool2d(x, 2)), size=8), c=conv(6, 6)
    ),
    "instance norm": lambda: plain(lambda m, x: m.norm(x), norm=nn.InstanceNorm2d(6, affine=True)),
    "reflection": lambda: plain(lambda m, x: m.c(x), c=conv(6, 6, padding_mode="reflect")),
    "convolution as a function": lambda: plain(lambda m, x: F.conv2d(x, m.c.weight), c=nn.Conv2d(6, 6, 1)),
    "one of the images": lambda: plain(lambda m, x: m.norm(x[0])[None], norm=nn.InstanceNorm2d(6, affine=True)),
    "weight of another's BatchNorm": lambda: plain(
        lambda m, x: torch.cat([m.bn(x), m.c(x) * m.bn.weight[:, None, None]], 1), width=12, c=conv(6, 6), bn=nn.BatchNorm2d(6)
    ),
    "bias of another": lambda: plain(
        lambda m, x: torch.cat([m.d(x), m.c(x) * m.d.bias[:, None, None]], 1), width=12, c=conv(6, 6), d=conv(6, 6)
    ),
    "one weight in two convolutions": lambda: one_weight_twice(),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_free_what_they_should_and_removed_is_masked(name: str) -> None:
    torch.manual_seed(0)
    build, expected = SMALL[name]
    network = build()
    channels = trace_channels(network, images(8, torch.float32, n=1))
    assert set(channels.convolutions) == set(expected)
    for layer, reason in expected.items():
        # A layer both tied and fixed says the first; the other reason is with its groups.
        found = [channels.obstacle(layer), *(channels.fixed.get(int(group), "") for group in channels.writes[layer])]
        assert any(reason in text for text in found) if reason else not any(found), layer
    assert_removed_is_masked(network, 8, (torch.float64, torch.float32))


@pytest.mark.parametrize("name", SMALL)
def test_parameters_that_go_are_those_that_a_budget_counts(name: str) -> None:
    network = SMALL[name][0]().eval()
    channels = trace_channels(network, images(8, torch.float32, n=1))
    removed = share_of_free_groups(channels)
    every = [*channels.writes.values(), *channels.reads.values()]
    stays = np.ones(1 + max(int(groups.max()) for groups in every), dtype=bool)
    costs = costs_of(channels)
    whole = costs.left(stays, "params")
    for layer, filters in removed.items():
        stays[channels.writes[layer][filters]] = False
    params = [sum(each.numel() for each in net.parameters()) for net in (network, remove(network, channels, removed))]
    assert params[0] - params[1] == whole - costs.left(stays, "params")


def test_what_runs_in_training_alone_goes_along() -> None:
    network = SMALL["head of training"][0]().eval()
    channels = trace_channels(network, images(8, torch.float32, n=1))
    assert channels.only_training == {"aux", "aux_head"} and channels.linear == ("head",) and not network.training
    smaller, masked = (change(network, channels, {"a": [1, 4]}).train() for change in (remove, mask))
    assert smaller.get_submodule("aux").in_channels == 4 and smaller.get_submodule("aux").out_channels == 5
    with torch.no_grad():
        for got, expected in zip(smaller(images(8).float()), masked(images(8).float()), strict=True):
            assert difference(got, expected) < 1e-5


@pytest.mark.parametrize("change", [remove, mask])
@pytest.mark.parametrize(
    "wrap",
    [lambda layer: prune.l1_unstructured(layer, "weight", 0.3), weight_norm, spectral_norm],
    ids=["mask", "norm", "spectral"],
)
def test_a_neighbour_whose_weights_are_computed_is_copied(
    change: Callable[..., nn.Module], wrap: Callable[..., nn.Module]
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(conv(3, 8), wrap(conv(8, 8)), conv(8, 6), nn.ReLU(), conv(6, 3)).eval()
    channels = trace_channels(network, images(8, torch.float32, n=1))
    assert change(network, channels, {"2": [0]})(images(8).float()).shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("removed", "told"), [({"1.convv": [0]}, ("1.conv",)), ({"0": [99]}, (0, 99, 5)), ({"0": [-1]}, (-1, 5))]
)
def test_what_the_network_has_not_cannot_go(removed: Removed, told: tuple[object, ...]) -> None:
    network = nn.Sequential(OrderedDict({"0": conv(3, 6), "1": nn.Sequential(OrderedDict(conv=conv(6, 3)))}))
    channels = trace_channels(network, images(8, torch.float32, n=1))
    for change in (remove, mask):
        with raises_line(ConfigError, *told):
            change(network, channels, removed)


@pytest.mark.parametrize("name", REFUSED_OR_EXACT)
def test_unusual_networks_are_refused_or_exact(name: str) -> None:
    torch.manual_seed(0)
    network = REFUSED_OR_EXACT[name]()
    try:
        channels = trace_channels(network.eval(), images(8, torch.float32, n=1))
    except ConfigError as error:
        assert "\n" not in str(error)
        return
    whole, x = deepcopy(network).double(), images(8)
    for group in sorted({int(group) for written in channels.writes.values() for group in written} - set(channels.fixed)):
        removed = {layer: np.flatnonzero(written == group).tolist() for layer, written in channels.writes.items()}
        if any(len(filters) == len(channels.writes[layer]) for layer, filters in removed.items()):
            continue
        got, expected = output(remove(whole, channels, removed), x), output(mask(whole, channels, removed), x)
        assert difference(got, expected) < 1e-10


def random_network(seed: int) -> Net:
    """A random graph of 14 operations on 8x8 maps; what is not used again goes into the sum at the end."""
    rng = np.random.default_rng(seed)
    layers: dict[str, nn.Module] = {"stem": conv(3, 4)}
    program: list[tuple[str, str, int, int]] = []
    widths = [4]
    for step in range(14):
        kind = str(rng.choice("conv conv conv depthwise bn relu silu sigmoid sum product cat pad mean plus prelu".split()))
        a, b = (int(rng.integers(max(0, len(widths) - 4), len(widths))) for _ in range(2))
        if kind in ("sum", "product") and widths[a] != widths[b]:
            kind = "cat"
        name, width = f"m{step}", widths[a]
        if kind == "conv":
            width = int(rng.integers(3, 6))
            layers[name] = conv(widths[a], width, bias=bool(rng.integers(2)))
        elif kind == "depthwise":
            layers[name] = conv(width, width, groups=width)
        elif kind == "bn":
            layers[name] = nn.BatchNorm2d(width, affine=bool(rng.integers(4)))
        elif kind == "prelu":
            layers[name] = nn.PReLU(width)
        elif kind == "cat":
            width += widths[b]
        elif kind == "pad":
            width += 2
        program.append((kind, name, a, b))
        widths.append(width)
    layers["last"] = conv(sum(widths[-3:]), 4)

    def run(m: Any, x: Tensor) -> Tensor:
        values = [m.stem(x)]
        for kind, name, a, b in program:
            x, y = values[a], values[b]
            values.append(
                m.get_submodule(name)(x) if name in layers
                else F.relu(x) if kind == "relu"
                else F.silu(x) if kind == "silu"
                else torch.sigmoid(x) if kind == "sigmoid"
                else x + y if kind == "sum"
                else x * y if kind == "product"
                else torch.cat([x, y], 1) if kind == "cat"
                else F.pad(x, (0, 0, 0, 0, 1, 1)) if kind == "pad"
                else x + 0.5 if kind == "plus"
                else x - x.mean((2, 3), keepdim=True)
            )  # fmt: skip
        return m.last(torch.cat(values[-3:], 1))

    return Net(run, **layers)


def test_removed_is_masked_in_random_networks() -> None:
    n_removed = 0
    for seed in range(100):
        torch.manual_seed(seed)
        network = randomised(random_network(seed), seed).double()
        channels = trace_channels(network, images(8, n=1))
        removed = share_of_free_groups(channels, seed)
        n_removed += sum(map(len, removed.values()))
        got, expected = (
            output(remove(network, channels, removed), images(8)),
            output(mask(network, channels, removed), images(8)),
        )
        assert difference(got, expected) < 1e-10, seed
    assert n_removed > 300  # enough was free for the comparison to mean something


def test_masking_that_leaves_the_shift_of_batchnorm_is_another_network() -> None:
    # The control: this is the mask of much pruning code, and the comparison must tell it from removal.
    network = randomised(cifar_resnet(depth=20, num_classes=10)).double()
    channels = trace_channels(network, images(16, n=1))
    removed = half_of_ranked(channels)
    wrong = deepcopy(network)
    with torch.no_grad():
        for layer, filters in removed.items():
            wrong.get_parameter(f"{layer}.weight")[filters] = 0
    x = images(16)
    smaller = output(remove(network, channels, removed), x)
    assert difference(smaller, output(mask(network, channels, removed), x)) < 1e-10
    assert difference(smaller, output(wrong, x)) > 0.1


def test_half_of_resnet56_has_the_parameters_and_multiply_adds_worked_out_by_hand() -> None:
    network = cifar_resnet(depth=56, num_classes=10).eval()
    channels = trace_channels(network, images(32, torch.float32, n=1))
    smaller = remove(network, channels, {layer: filters for layer, filters in half_of_ranked(channels).items()})
    before, after = (cost(net, images(32, torch.float32, n=1), seconds=0.001) for net in (network, smaller))
    # All but stem 432 + 32, linear layer 650 and BatchNorms 9 * 4 * 112 are weights of the blocks, of which half goes;
    # with them go scale and shift of half of the first BatchNorm of each block, 9 * 112.
    assert (before.params, after.params) == (853_018, 853_018 - (853_018 - 432 - 32 - 650 - 4032) // 2 - 1008)
    # Stem 16 * 27 * 32^2, linear layer 640; blocks: 18 * 2,359,296, twice 1,179,648 + 17 * 2,359,296, of which half goes.
    blocks = 18 * 2_359_296 + 2 * (1_179_648 + 17 * 2_359_296)
    assert (before.macs, after.macs) == (442_368 + 640 + blocks, 442_368 + 640 + blocks // 2)


def test_a_removed_network_trains_and_the_original_does_not_notice() -> None:
    torch.manual_seed(0)
    network = randomised(cifar_resnet(depth=20, num_classes=10))
    network.get_parameter("layer1.0.conv1.weight").requires_grad_(False)
    network.get_parameter("layer2.0.bn1.bias").requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    channels = trace_channels(network, images(16, torch.float32, n=1))
    smaller = remove(network, channels, half_of_ranked(channels)).train()
    frozen = {name for name, parameter in smaller.named_parameters() if not parameter.requires_grad}
    assert frozen == {"layer1.0.conv1.weight", "layer2.0.bn1.bias"}
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in network.parameters())
    update = torch.optim.SGD(smaller.parameters(), lr=0.01)
    x, labels = images(16, torch.float32, n=8), torch.arange(8)
    losses = []
    for _ in range(5):
        loss = F.cross_entropy(smaller(x), labels)
        update.zero_grad()
        loss.backward()
        update.step()
        losses.append(loss.item())
    for name, parameter in smaller.named_parameters():
        assert (parameter.grad is None) == (name in frozen), name
        assert parameter.grad is None or parameter.grad.abs().max() > 0, name
    assert losses[-1] < losses[0]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_modules_say_the_widths_they_have() -> None:
    network = tv.mobilenet_v2(num_classes=10, width_mult=0.25)
    channels = trace_channels(network, images(32, torch.float32, n=1))
    smaller = remove(network, channels, share_of_free_groups(channels))
    for name, module in smaller.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups), name
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and len(module.running_mean) == len(module.weight) == module.num_features
        elif isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)


def test_kept_filters_stay_in_order() -> None:
    network = plain(lambda m, x: m.bn(x), bn=nn.BatchNorm2d(6))
    with torch.no_grad():
        network.get_parameter("bn.bias").copy_(torch.arange(6.0))
    channels = trace_channels(network, images(8, torch.float32, n=1))
    smaller = remove(network, channels, {"a": [4, 0, 1]})
    assert smaller.get_parameter("bn.bias").tolist() == [2, 3, 5]
    assert torch.equal(smaller.get_parameter("a.weight"), network.get_parameter("a.weight")[[2, 3, 5]])
    assert torch.equal(smaller.get_parameter("b.weight"), network.get_parameter("b.weight")[:, [2, 3, 5]])


def test_flattened_channels_take_all_their_features_along() -> None:
    network = flat(lambda x: x.flatten(1))
    channels = trace_channels(network, images(8, torch.float32, n=1))
    smaller = remove(network, channels, {"a": [1]})
    # A channel of 4x4 pixels is 16 features in a row.
    kept = [feature for feature in range(96) if feature // 16 != 1]
    assert torch.equal(smaller.get_parameter("hidden.weight"), network.get_parameter("hidden.weight")[:, kept])


def test_depthwise_convolution_can_shrink_to_one_filter() -> None:
    network = plain(lambda m, x: m.dw(x), dw=conv(6, 6, groups=6)).double()
    channels = trace_channels(network, images(8, n=1))
    removed = {"a": [0, 1, 2, 4, 5], "dw": [0, 1, 2, 4, 5]}
    got, expected = (output(change(network, channels, removed), images(8)) for change in (remove, mask))
    assert difference(got, expected) < 1e-10


def test_nothing_removed_is_an_equal_copy() -> None:
    network = plain(lambda m, x: x)
    channels = trace_channels(network, images(8, torch.float32, n=1))
    copy = remove(network, channels, {})
    assert copy is not network
    assert all(torch.equal(value, copy.state_dict()[name]) for name, value in network.state_dict().items())


def refusal(network: Net, removed: Removed) -> str:
    channels = trace_channels(network, images(8, torch.float32, n=1))
    messages = set()
    for change in (remove, mask):
        with pytest.raises(ConfigError) as caught:
            change(network, channels, removed)
        messages.add(str(caught.value))
    assert len(messages) == 1
    return messages.pop()


def test_refuses_a_fixed_filter_and_says_which_layer_and_why() -> None:
    message = refusal(plain(lambda m, x: torch.sigmoid(x)), {"a": [2]})
    check_line(message, "a", NUMBER)


@pytest.mark.parametrize("removed", [{"a": [1]}, {"c": [1]}, {"a": [1, 2], "c": [1]}, {"a": [1], "c": [2]}])
def test_refuses_a_part_of_a_tied_group(removed: Removed) -> None:
    message = refusal(plain(unite, c=conv(6, 6)), removed)
    check_line(message, "tied")
    assert names(message, "filters of a") or names(message, "filters of c")


def test_refuses_all_filters_of_a_layer() -> None:
    check_line(refusal(plain(lambda m, x: x), {"a": [0, 1, 2, 3, 4, 5]}), "all 6 filters", "a")


@pytest.mark.parametrize(
    ("removed", "what"),
    [
        ({"a": [0]}, "2 to 3 input channels"),
        ({"c": [0, 3, 4]}, "1 to 2 filters"),
        ({"a": [0, 3], "c": [1, 2]}, "1 to 3 filters"),
        ({"c": [0, 1, 2]}, "0 to 3 filters"),
    ],
)
def test_refuses_unequal_groups_of_a_grouped_convolution(removed: Removed, what: str) -> None:
    check_line(refusal(plain(lambda m, x: m.c(x), c=conv(6, 6, groups=2)), removed), "c", what, "2 groups")


def test_the_groups_of_a_grouped_convolution_may_lose_different_filters() -> None:
    network = plain(lambda m, x: m.c(x), c=conv(6, 6, groups=2))
    channels = trace_channels(network, images(8, torch.float32, n=1))
    smaller = remove(network, channels, {"a": [0, 5], "c": [1, 3]})
    weight = network.get_parameter("c.weight")
    # Group 0 keeps filters 0, 2 and inputs 1, 2; group 1 keeps filters 4, 5 and its inputs 0, 1 (channels 3, 4).
    expected = torch.stack([weight[0, [1, 2]], weight[2, [1, 2]], weight[4, [0, 1]], weight[5, [0, 1]]])
    assert torch.equal(smaller.get_parameter("c.weight"), expected)
    module = smaller.get_submodule("c")
    assert isinstance(module, nn.Conv2d) and (module.in_channels, module.out_channels, module.groups) == (4, 4, 2)
