"""ReLU of a BatchNorm, or of its sum with a shortcut, as one differentiable operation."""

from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import BFloat16, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from runners.training.fused import kernels

# A row of more than one pixel is at most this long, so that its sums stay in the nearest cache.
LANES = 512


class NormRelu(nn.Module):
    """ReLU of a BatchNorm, or of its sum with a shortcut; parameters and running statistics stay the BatchNorm's.

    What the kernels cannot take (other types or layouts, evaluation) goes through PyTorch's operations.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(
        self, x: Float[Tensor, "images channels h w"], shortcut: Float[Tensor, "images channels h w"] | None = None
    ) -> Float[Tensor, "images channels h w"]:
        """The output; in training the running statistics move."""
        if not (self.norm.training and _fits(x) and (shortcut is None or (_fits(shortcut) and shortcut.shape == x.shape))):
            return F.relu(self.norm(x) if shortcut is None else self.norm(x) + shortcut)
        y: Tensor = _NormRelu.apply(x, shortcut, self.norm.weight, self.norm.bias, self.norm)
        return y


def is_plain(norm: nn.Module) -> bool:
    """Whether a module is a BatchNorm with float32 weights and running averages, and no hook waits for its output."""
    if type(norm) is not nn.BatchNorm2d or norm.momentum is None or not (norm.affine and norm.track_running_stats):
        return False
    return norm.weight.dtype == torch.float32 and not has_hooks(norm)


def has_hooks(module: nn.Module) -> bool:
    """Whether something waits for what a module takes or gives."""
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shortcut: Tensor | None, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        rows, y = _rows(x), torch.empty_like(x)
        n_lanes = rows.shape[1]
        found, inverse, lanes = np.zeros((2, n_lanes)), np.empty(x.shape[1]), np.empty((4, n_lanes), np.float32)
        kernels.sums(rows, x.shape[1], found)
        kernels.moments(rows, found, *_of_channels(weight, bias, norm), norm.momentum, norm.eps, inverse, lanes)
        if shortcut is None:
            kernels.normalised(rows, lanes, _rows(y))
        else:
            kernels.normalised_sum(rows, lanes, _rows(shortcut), _rows(y))
        ctx.save_for_backward(x, y)
        ctx.numbers = inverse, lanes
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, y = ctx.saved_tensors
        inverse, lanes = ctx.numbers
        rows, masked, to_x = _rows(x), torch.empty_like(x), torch.empty_like(x)
        found, to_parameters = np.zeros((2, rows.shape[1])), np.empty((2, x.shape[1]), np.float32)
        given = _rows(grad_outputs[0].contiguous(memory_format=torch.channels_last))
        kernels.masked_sums(given, _rows(y), rows, lanes, _rows(masked), found)
        kernels.slopes(rows.size // x.shape[1], found, inverse, lanes, to_parameters)
        kernels.gradient(_rows(masked), rows, lanes, _rows(to_x))
        return to_x, masked if ctx.needs_input_grad[1] else None, *torch.from_numpy(to_parameters), None


def _of_channels(weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> list[np.ndarray]:
    """What the kernels read and the running statistics, which they write; one more batch is counted."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    return [values.detach().numpy() for values in (weight, bias, norm.running_mean, norm.running_var)]


def _fits(x: Tensor) -> bool:
    """Whether the kernels can read a tensor: bf16 on a CPU, channels last, and more than one value a channel."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or x.dim() != 4:
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and x.numel() > x.shape[1]


def _rows(x: BFloat16[Tensor, "images channels h w"]) -> kernels.Rows:
    """The same memory as rows of whole pixels, as many in each as fit."""
    channels = x.shape[1]
    n_lanes = channels * _pixels_a_row(x.numel() // channels, channels)
    return x.detach().view(torch.uint16).as_strided((x.numel() // n_lanes, n_lanes), (n_lanes, 1)).numpy()


@cache
def _pixels_a_row(n_pixels: int, channels: int) -> int:
    return max(n for n in range(1, max(LANES // channels, 1) + 1) if n_pixels % n == 0)
