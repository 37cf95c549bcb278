"""Taking filters out of a network for good, and its yardstick: the same filters zeroed in place."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from runners.errors import ConfigError
from runners.pruning.channels import Channels, Groups

Removed = Mapping[str, Sequence[int]]


def remove(network: nn.Module, channels: Channels, removed: Removed) -> nn.Module:
    """A smaller copy of `network`, without the filters `removed` (layer -> indices) and all that only served them.

    Exact: in eval mode the copy computes what `mask` computes.

    Raises:
        ConfigError: a filter that may not go, or filters tied to it that would stay.
    """
    groups = _groups(channels, removed)
    smaller = deepcopy(network)
    for name, written in channels.writes.items():
        keep = _kept(written, groups)
        if not keep.all():
            _keep_outputs(smaller.get_submodule(name), torch.from_numpy(np.flatnonzero(keep)))
    for name, read in channels.reads.items():
        keep = _kept(read, groups)
        if not keep.all() and getattr(network.get_submodule(name), "groups", 1) == 1:
            _keep_inputs(smaller.get_submodule(name), torch.from_numpy(np.flatnonzero(keep)))
    return smaller


def mask(network: nn.Module, channels: Channels, removed: Removed) -> nn.Module:
    """A copy of `network` in which the filters `removed`, their biases and every per-channel affine behind them are 0.

    Raises:
        ConfigError: as `remove`.
    """
    groups = _groups(channels, removed)
    masked = deepcopy(network)
    with torch.no_grad():
        for names in (channels.writes, channels.reads):
            for name, of_channels in names.items():
                module = masked.get_submodule(name)
                gone = torch.from_numpy(np.flatnonzero(~_kept(of_channels, groups)))
                if names is channels.writes or isinstance(module, _BatchNorm):
                    for parameter in module.parameters(recurse=False):
                        parameter[gone] = 0
    return masked


def _groups(channels: Channels, removed: Removed) -> frozenset[int]:
    """The groups of the removed filters, each of which must be free and go as a whole."""
    groups = {int(group) for layer, filters in removed.items() for group in channels.writes[layer][list(filters)]}
    for group in groups:
        if reason := channels.fixed.get(group):
            raise ConfigError(f"a filter of {_writers(channels, group)} cannot be removed: it {reason}; leave it out")
    for layer, written in channels.writes.items():
        going = set(np.flatnonzero(~_kept(written, groups)).tolist())
        # A linear layer has no filters to rank, and goes along.
        if layer in channels.convolutions and going - set(removed.get(layer, ())):
            raise ConfigError(
                f"filters of {layer} are tied to filters that would be removed elsewhere; tied filters stay or go "
                "together; remove them in every layer of the group, or in none"
            )
        if len(going) == len(written):
            raise ConfigError(f"all {len(written)} filters of {layer} would be removed; at least one must stay")
    return frozenset(groups)


def _kept(of_channels: Groups, groups: Iterable[int]) -> np.ndarray:
    return ~np.isin(of_channels, list(groups))


def _writers(channels: Channels, group: int) -> str:
    return ", ".join(layer for layer, written in channels.writes.items() if group in written)


def _keep_outputs(module: nn.Module, keep: Tensor) -> None:
    _slice(module, ("weight", "bias"), lambda value: value[keep.to(value.device)])
    if isinstance(module, _ConvNd):
        if module.groups == module.in_channels == module.out_channels:
            module.in_channels = module.out_channels = module.groups = len(keep)
        else:
            module.out_channels = len(keep)
    elif isinstance(module, nn.Linear):
        module.out_features = len(keep)


def _keep_inputs(module: nn.Module, keep: Tensor) -> None:
    if isinstance(module, _ConvNd):
        _slice(module, ("weight",), lambda value: value[:, keep.to(value.device)])
        module.in_channels = len(keep)
    elif isinstance(module, nn.Linear):
        _slice(module, ("weight",), lambda value: value[:, keep.to(value.device)])
        module.in_features = len(keep)
    elif isinstance(module, _BatchNorm):
        names = ("weight", "bias", "running_mean", "running_var")
        _slice(module, names, lambda value: value[keep.to(value.device)])
        module.num_features = len(keep)
    elif isinstance(module, nn.PReLU):
        _slice(module, ("weight",), lambda value: value[keep.to(value.device)])
        module.num_parameters = len(keep)


def _slice(module: nn.Module, names: Sequence[str], part: Callable[[Tensor], Tensor]) -> None:
    """Puts a part of each named parameter or buffer in its place; a gradient is not carried over."""
    for name in names:
        value = getattr(module, name)
        if isinstance(value, nn.Parameter):
            setattr(module, name, nn.Parameter(part(value.detach()).clone(), requires_grad=value.requires_grad))
        elif value is not None:
            setattr(module, name, part(value).clone())
