"""Proof of a removal: the smaller network computes what the whole one computes with the same filters at zero.

Both see a few images, in eval and in training mode, as copies in float64: rounding then stays far below every real
difference, however deep the network is.
"""

import logging
from copy import deepcopy
from math import inf, nan

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from runners.data.source import Source
from runners.process.errors import RemovalError, first_line, is_out_of_memory
from runners.pruning.parting import parting, relative_difference
from runners.pruning.passing import Outputs, Pass, finest
from runners.pruning.prune import prune, zeroed
from runners.pruning.remove import mask
from runners.selection.select import removed_filters
from runners.tracing.channels import Channels, Removed

log = logging.getLogger(__name__)
N_IMAGES = 4  # BatchNorm in training mode needs two
# Rounding of float64 came to 2e-14 at most, of float32 to 4e-6: ResNet-110, VGG-16, DenseNet-121, EfficientNet-B0 and others.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
COARSE = 0.1  # of 16 bits


def prune_proven(network: nn.Module, channels: Channels, selection: pd.DataFrame, images: Source) -> tuple[nn.Module, float]:
    """The network that `prune` gives, and its relative difference on the first of `images` (see `prove`).

    Raises:
        ConfigError: as `prune`.
        RemovalError: as `prove`.
    """
    smaller = prune(network, channels, selection)
    whole, removed = zeroed(network, channels, selection), removed_filters(selection)
    return smaller, prove(whole, smaller, channels, removed, some_of(images))


def some_of(images: Source) -> Float[Tensor, "images channels h w"]:
    """The first few images."""
    return next(images.batches(N_IMAGES))[0]


def prove(
    whole: nn.Module, smaller: nn.Module, channels: Channels, removed: Removed, x: Float[Tensor, "images channels h w"]
) -> float:
    """Largest difference between the outputs of `smaller` and of `whole` with the filters `removed` at zero, in both modes.

    As a share of the largest number of each output; nan if nothing is removed. The networks and the random generators
    stay as they are. Dropout and other random draws count by their mean, since fewer channels would draw other numbers.
    A network that runs on images alone only in eval mode is compared there.

    Raises:
        RemovalError: the difference is more than rounding, or `smaller` fails; the line names where they part first. Or
            `whole` fails in eval mode.
    """
    if not any(len(filters) for filters in removed.values()):
        return nan
    masked, smaller = mask(whole, channels, removed), deepcopy(smaller)
    x = x.to(next(masked.parameters()).device)
    return max(_difference(masked, smaller, channels, removed, x, training=training) for training in (False, True))


def _difference(
    masked: nn.Module, smaller: nn.Module, channels: Channels, removed: Removed, x: Tensor, *, training: bool
) -> float:
    """The difference in one mode; 0 in training mode if `masked` cannot run in it. Changes both networks."""
    try:
        passed, expected = finest(masked, x, training=training)
    except Exception as error:  # whatever a foreign network raises
        if is_out_of_memory(error):
            raise
        if not training:
            raise RemovalError(
                f"removal cannot be proven: the network fails on {len(x)} images ({first_line(error)}); it must run on "
                "several at once; mend its forward pass (in Python, prove=False leaves the proof out)"
            ) from error
        log.warning(f"removal is compared in eval mode only; in training mode the network fails: {first_line(error)}")
        return 0.0
    tolerance = TOLERANCE.get(expected.coarsest, COARSE)
    difference, why = _compared(smaller, passed, expected)
    if difference > tolerance:
        place = parting(masked, smaller, channels, removed, passed, tolerance)
        mode = "training" if training else "eval"
        raise RemovalError(
            f"removal is not exact: in {mode} mode the smaller network {why}, first in {place.where}; it must equal the "
            f"network with those filters at zero, to {tolerance:g}; try skip=[{place.pruned}], and report this network"
        )
    return difference


def _compared(smaller: nn.Module, passed: Pass, expected: Outputs) -> tuple[float, str]:
    """The largest difference of any output, and what is wrong if it is too large."""
    try:
        found = passed(smaller).tensors
    except Exception as error:  # of channels that do not fit, mostly
        if is_out_of_memory(error):
            raise
        return inf, f"fails ({first_line(error)})"
    if len(found) != len(expected.tensors):
        return inf, f"has {len(found)} outputs in place of {len(expected.tensors)}"
    pairs = zip(expected.tensors, found, strict=True)
    difference = max((relative_difference(*pair) for pair in pairs), default=0.0)
    return difference, f"computes something else (relative difference {difference:.1e})"
