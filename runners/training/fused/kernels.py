"""The loops, compiled by Numba when they are first called (two seconds for all).

Numbers in bf16 come as the upper halves of float32 ones, in rows of whole pixels: `lanes` values each, channel after channel,
which the compiler turns into vectors. Every sum is taken in the same order every time.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt16
from numba import njit

Rows = UInt16[np.ndarray, "rows lanes"]
Lanes = Float32[np.ndarray, "4 lanes"]
Sums = Float64[np.ndarray, "2 lanes"]
OfChannels = Float[np.ndarray, " channels"]
# Rows that are summed in float32 before float64 takes over.
BLOCK = 64


def _compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    return njit(error_model="numpy", fastmath={"contract"})(inspect.unwrap(kernel))


@_compiled
def wide(bits: np.uint16) -> np.float32:
    """The float32 number whose upper half is given."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@_compiled
def narrow(value: np.float32) -> np.uint16:
    """The upper half of the nearest bf16 number, of two equally near ones the even one."""
    bits = np.float32(value).view(np.uint32)
    odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    return np.uint16(np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd) >> np.uint32(16))


@_compiled
def sums(x: Rows, channels: int, found: Sums) -> None:
    """Sums of x and of its square, x counted from the first pixel's values: a large mean drowns little."""
    n_rows, n_lanes = x.shape
    pivot, total, squares = np.empty((3, n_lanes), np.float32)
    for lane in range(n_lanes):
        pivot[lane] = wide(x[0, lane % channels])
    for start in range(0, n_rows, BLOCK):
        total[:] = 0
        squares[:] = 0
        for row in range(start, min(start + BLOCK, n_rows)):
            for lane in range(n_lanes):
                value = wide(x[row, lane]) - pivot[lane]
                total[lane] += value
                squares[lane] += value * value
        for lane in range(n_lanes):
            found[0, lane] += total[lane]
            found[1, lane] += squares[lane]


@_compiled
def moments(
    x: Rows,
    found: Sums,
    weight: OfChannels,
    bias: OfChannels,
    running_mean: OfChannels,
    running_variance: OfChannels,
    momentum: float,
    eps: float,
    inverse: OfChannels,
    lanes: Lanes,
) -> None:
    """1 / sqrt(variance + eps) of the channels into `inverse`; mean, scale and shift into the first three of `lanes`.

    The running statistics move, the variance with Bessel's correction.
    """
    channels = len(weight)
    n_values = x.size // channels
    for channel in range(channels):
        total = squares = 0.0
        for lane in range(channel, x.shape[1], channels):
            total += found[0, lane]
            squares += found[1, lane]
        offset = total / n_values
        mean = wide(x[0, channel]) + offset
        variance = max(squares / n_values - offset * offset, 0.0)
        running_mean[channel] += momentum * (mean - running_mean[channel])
        running_variance[channel] += momentum * (variance * n_values / (n_values - 1) - running_variance[channel])
        inverse[channel] = 1 / np.sqrt(variance + eps)
        for lane in range(channel, x.shape[1], channels):
            lanes[0, lane] = mean
            lanes[1, lane] = inverse[channel] * weight[channel]
            lanes[2, lane] = bias[channel]


@_compiled
def normalised(x: Rows, lanes: Lanes, y: Rows) -> None:
    """ReLU of the normalised x into y."""
    for row in range(x.shape[0]):
        for lane in range(x.shape[1]):
            value = (wide(x[row, lane]) - lanes[0, lane]) * lanes[1, lane] + lanes[2, lane]
            y[row, lane] = narrow(np.float32(0) if value <= 0 else value)


@_compiled
def normalised_sum(x: Rows, lanes: Lanes, shortcut: Rows, y: Rows) -> None:
    """ReLU of the normalised x plus the shortcut into y."""
    for row in range(x.shape[0]):
        for lane in range(x.shape[1]):
            value = (wide(x[row, lane]) - lanes[0, lane]) * lanes[1, lane] + lanes[2, lane] + wide(shortcut[row, lane])
            y[row, lane] = narrow(np.float32(0) if value <= 0 else value)


@_compiled
def masked_sums(grad: Rows, y: Rows, x: Rows, lanes: Lanes, masked: Rows, found: Sums) -> None:
    """The gradient where y is not 0, into `masked`; its sums, and those of its products with x - mean."""
    n_rows, n_lanes = x.shape
    total, products = np.empty((2, n_lanes), np.float32)
    for start in range(0, n_rows, BLOCK):
        total[:] = 0
        products[:] = 0
        for row in range(start, min(start + BLOCK, n_rows)):
            for lane in range(n_lanes):
                bits = np.uint16(grad[row, lane] * np.uint32(y[row, lane] != 0))
                masked[row, lane] = bits
                value = wide(bits)
                total[lane] += value
                products[lane] += value * (wide(x[row, lane]) - lanes[0, lane])
        for lane in range(n_lanes):
            found[0, lane] += total[lane]
            found[1, lane] += products[lane]


@_compiled
def slopes(n_values: int, found: Sums, inverse: OfChannels, lanes: Lanes, back: Float32[np.ndarray, "2 channels"]) -> None:
    """Gradients of weight and bias into `back`.

    With n values a channel and s standard deviations: dx = scale (g - sum(g) / n - (x - mean) sum(g (x - mean)) / (n s^2)).
    The factor of x - mean and the constant go into the last two of `lanes`.
    """
    channels = len(inverse)
    for channel in range(channels):
        total = products = 0.0
        for lane in range(channel, found.shape[1], channels):
            total += found[0, lane]
            products += found[1, lane]
        back[0, channel], back[1, channel] = products * inverse[channel], total
        for lane in range(channel, found.shape[1], channels):
            lanes[2, lane] = -lanes[1, lane] * products * inverse[channel] ** 2 / n_values
            lanes[3, lane] = -lanes[1, lane] * total / n_values


@_compiled
def gradient(masked: Rows, x: Rows, lanes: Lanes, back: Rows) -> None:
    """The gradient of x into `back`."""
    for row in range(x.shape[0]):
        for lane in range(x.shape[1]):
            centred = wide(x[row, lane]) - lanes[0, lane]
            back[row, lane] = narrow(wide(masked[row, lane]) * lanes[1, lane] + centred * lanes[2, lane] + lanes[3, lane])


def compile_all() -> None:
    """Compiles every loop, for a process whose forks will need them."""
    rows, lanes, found = np.zeros((2, 1), np.uint16), np.zeros((4, 1), np.float32), np.zeros((2, 1))
    numbers, inverse = np.zeros(1, np.float32), np.zeros(1)
    sums(rows, 1, found)
    moments(rows, found, numbers, numbers, numbers, numbers, 0.1, 1e-5, inverse, lanes)
    normalised(rows, lanes, rows)
    normalised_sum(rows, lanes, rows, rows)
    masked_sums(rows, rows, rows, lanes, rows, found)
    slopes(2, found, inverse, lanes, np.zeros((2, 1), np.float32))
    gradient(rows, rows, lanes, rows)
