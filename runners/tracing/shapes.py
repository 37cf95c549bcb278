"""The shape of every tensor of a traced network, without its arithmetic: no convolution is computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from runners.tracing.walk import Walk

SHAPE = "shape"  # the key in a node's `meta`
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
SAME_SHAPE = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Sigmoid, nn.Hardswish, torch.relu, F.relu, F.relu6, F.silu, torch.sigmoid)


@dataclass(frozen=True)
class Described:
    """The description of a tensor."""

    shape: tuple[int, ...]


class ShapeWalk(Walk):
    """Runs a traced network on zeros and notes every shape; layers that only change numbers are not run."""

    def run_node(self, node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The node's output; its description goes to `node.meta`."""
        result = super().run_node(node, args, kwargs)
        node.meta[SHAPE] = described(result)
        return result

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """PyTorch's own layers by formula; a subclass may pad or reshape as it likes, so it is run."""
        module = self.by_name[target]
        x = args[0] if args else next(iter(kwargs.values()))
        if type(module) in SAME_SHAPE:
            return x
        if isinstance(module, _ConvNd) and type(module) in CONVOLUTIONS:
            return x.new_zeros(x.shape[0], module.out_channels, *_pixels(target, module, x))
        if type(module) is nn.Linear and x.shape[-1] == module.in_features:
            return x.new_zeros(*x.shape[:-1], module.out_features)
        if type(module) in BATCHNORMS and x.shape[1] == module.num_features:
            return x
        return super().call_module(target, args, kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Activations are not computed."""
        return args[0] if target in SAME_SHAPE and args else super().call_function(target, args, kwargs)


def _pixels(name: str, module: _ConvNd, x: Tensor) -> list[int]:
    """Height and width behind a convolution or transposed convolution."""
    if x.dim() != len(module.kernel_size) + 2 or x.shape[1] != module.in_channels:
        raise ValueError(f"{name} takes {module.in_channels} channels and gets a tensor of {' x '.join(map(str, x.shape))}")
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if isinstance(module.padding, str):
        padding = [0] * len(reach) if module.padding == "valid" else [r / 2 for r in reach]
    else:
        padding = list(module.padding)
    sizes = zip(x.shape[2:], reach, padding, module.stride, module.output_padding, strict=True)
    if module.transposed:
        return [int((n - 1) * s - 2 * p + r + extra + 1) for n, r, p, s, extra in sizes]
    return [int((n + 2 * p - r - 1) // s + 1) for n, r, p, s, _ in sizes]


def described(value: Any) -> Any:
    """A value with every tensor in it replaced by its description."""
    if isinstance(value, Tensor):
        return Described(tuple(value.shape))
    if isinstance(value, Mapping):
        return {key: described(part) for key, part in value.items()}
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        return tuple(described(part) for part in value)
    return value
