"""Taking filters out of a network for good, and its yardstick: the same filters zeroed in place."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from difflib import get_close_matches
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from runners.process.errors import ConfigError
from runners.tracing.channels import Channels, Removed
from runners.tracing.walk import attribute, modules_by_name

Whole = Int64[np.ndarray, " n"]
NOTHING: Whole = np.zeros(0, dtype=np.int64)
Kept = Bool[np.ndarray, " channels"]
UNCHANGING = frozenset([bool, int, float, str, type(None)])


def remove(network: nn.Module, channels: Channels, removed: Removed) -> nn.Module:
    """A smaller copy of `network`, without the filters `removed` (layer -> indices) and all that only served them.

    Exact: in eval mode the copy computes what `mask` computes. Gradients are not carried over.

    Raises:
        ConfigError: a filter that may not go, filters tied to it that would stay, or a grouped convolution whose groups
            would no longer be equal.
    """
    modules = modules_by_name(network)
    holders = _holders(network, modules, channels)
    keeps = _keeps(holders, channels, removed)
    # What deepcopy finds in its memo it takes for copied, so that no tensor is copied whole and then cut.
    memo: dict[int, Any] = {}
    for name, (inputs, outputs) in keeps.items():
        for value, part in _parts(holders[name], inputs, outputs):
            memo[id(value)] = nn.Parameter(part, value.requires_grad) if isinstance(value, nn.Parameter) else part
    _copy_modules(dict.fromkeys(modules.values()), memo)
    smaller = deepcopy(network, memo)
    for name, (inputs, outputs) in keeps.items():
        _set_widths(memo[id(holders[name])], int(inputs.sum()), int(outputs.sum()))
    return smaller


def mask(network: nn.Module, channels: Channels, removed: Removed) -> nn.Module:
    """A copy of `network` in which the filters `removed` are zeroed (see `zero_filters`).

    Raises:
        ConfigError: as `remove`.
    """
    memo: dict[int, Any] = {}
    _copy_modules(dict.fromkeys(modules_by_name(network).values()), memo)
    masked = deepcopy(network, memo)
    zero_filters(masked, channels, removed)
    return masked


@torch.no_grad()
def zero_filters(network: nn.Module, channels: Channels, removed: Removed) -> None:
    """Sets the filters `removed`, their biases and every per-channel affine behind them to 0, in place.

    After every step of a training, it keeps the network equal to the one that `remove` gives, trained alike.

    Raises:
        ConfigError: as `remove`.
    """
    holders = _holders(network, modules_by_name(network), channels)
    for name, (_, outputs) in _keeps(holders, channels, removed).items():
        module, gone = holders[name], torch.from_numpy(~outputs)
        if isinstance(module, Tensor):
            module.view(-1)[gone.to(module.device)] = 0
            continue
        if name not in channels.writes and not isinstance(module, _NormBase):
            continue
        for parameter in module.parameters(recurse=False):
            if isinstance(module, _ConvNd) and module.transposed and parameter.dim() > 1:
                filters = parameter.unflatten(0, (module.groups, -1)).transpose(1, 2)
                filters[gone.reshape(module.groups, -1).to(parameter.device)] = 0
            else:
                parameter[gone.to(parameter.device)] = 0


def _holders(network: nn.Module, modules: Mapping[str, nn.Module], channels: Channels) -> dict[str, nn.Module | Tensor]:
    """The modules, and the parameters and buffers with a number for every channel."""
    return {**modules, **{name: attribute(network, name) for name in channels.reads if name not in modules}}


def _keeps(holders: Mapping[str, nn.Module | Tensor], channels: Channels, removed: Removed) -> dict[str, tuple[Kept, Kept]]:
    """Module or parameter -> which inputs and which outputs stay, of all that lose some.

    Raises:
        ConfigError: as `remove`.
    """
    _check_named(channels, removed)
    numbers = {layer: np.array(filters, dtype=np.int64) for layer, filters in removed.items()}
    every = [*channels.writes.values(), *channels.reads.values()]
    stays = np.ones(1 + max((int(groups.max()) for groups in every if len(groups)), default=0), dtype=bool)
    stays[_groups(channels, numbers)] = False
    keeps: dict[str, tuple[Kept, Kept]] = {}
    for name in dict.fromkeys([*channels.writes, *channels.reads]):
        inputs = stays[channels.reads[name]]
        outputs = stays[channels.writes[name]] if name in channels.writes else inputs
        _check_layer(holders[name], name, inputs, outputs, numbers.get(name, NOTHING))
        if not (inputs.all() and outputs.all()):
            keeps[name] = inputs, outputs
    return keeps


def _groups(channels: Channels, removed: Mapping[str, Whole]) -> Whole:
    """The groups of the removed filters, each of which must be free."""
    groups = np.concatenate([NOTHING, *(channels.writes[layer][filters] for layer, filters in removed.items())])
    for group in np.unique(groups[np.isin(groups, list(channels.fixed))]).tolist():
        layers = ", ".join(layer for layer, written in channels.writes.items() if group in written)
        raise ConfigError(f"a filter of {layers} cannot be removed: it {channels.fixed[group]}; leave it out")
    return groups


def _check_named(channels: Channels, removed: Removed) -> None:
    """Every layer is one of the network's, and has the filters that go."""
    for layer, filters in removed.items():
        if layer not in channels.writes:
            near = ", ".join(get_close_matches(layer, channels.writes, n=3, cutoff=0)) or "none"
            raise ConfigError(f"{layer!r} is no layer of the network; layers are named as in named_modules(); nearest: {near}")
        if outside := [number for number in filters if not 0 <= number < len(channels.writes[layer])]:
            raise ConfigError(
                f"{layer} has no filter {outside[0]}; its filters are 0 to {len(channels.writes[layer]) - 1}; leave it out"
            )


def _check_layer(module: nn.Module | Tensor, name: str, inputs: Kept, outputs: Kept, removed: Whole) -> None:
    """Tied filters go as a whole, a layer never loses all of them, and groups stay equal."""
    if not isinstance(module, _ConvNd | nn.Linear):
        return
    # A linear layer has no filters to rank, and goes along.
    gone = ~outputs
    gone[removed] = False
    if isinstance(module, _ConvNd) and gone.any():
        raise ConfigError(
            f"filters of {name} are tied to filters that would be removed elsewhere; tied filters stay or go "
            "together; remove them in every layer of the group, or in none"
        )
    if not outputs.any():
        raise ConfigError(f"all {len(outputs)} filters of {name} would be removed; at least one must stay")
    if not isinstance(module, _ConvNd) or _is_depthwise(module):
        return
    for side, kept in (("filters", outputs), ("input channels", inputs)):
        counts = kept.reshape(module.groups, -1).sum(1).tolist()
        if len(set(counts)) > 1 or not counts[0]:
            raise ConfigError(
                f"{name} would keep {min(counts)} to {max(counts)} {side} in its {module.groups} groups; every group of a "
                "grouped convolution must keep equally many, at least one; remove as many from each"
            )


def _copy_modules(every: Iterable[nn.Module], memo: dict[int, Any]) -> None:
    """Copies modules into a memo: as deepcopy would, without its visit to each of their fifteen hook tables."""
    modules = [module for module in every if _copies_plainly(type(module))]
    for module in modules:
        memo[id(module)] = module.__new__(type(module))
        for value in [*module._parameters.values(), *module._buffers.values()]:
            if id(value) in memo or type(value) not in (nn.Parameter, Tensor):
                continue
            copy = value.detach().clone()
            memo[id(value)] = nn.Parameter(copy, value.requires_grad) if isinstance(value, nn.Parameter) else copy
    for module in modules:
        memo[id(module)].__dict__ = {name: _copied(value, memo) for name, value in vars(module).items()}


@cache
def _copies_plainly(kind: type) -> bool:
    """True for classes whose instances are what is in their `__dict__`: no way of copying of their own, and no slots."""
    own = {"__deepcopy__", "__copy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__slots__"}
    return not any(
        own & vars(base).keys()
        for base in kind.__mro__
        if base is not object and not base.__module__.startswith("torch.nn.modules.")
    )


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in (OrderedDict, dict, set) and not value:  # most of a module's attributes are empty tables of hooks
        return kind()
    if kind in UNCHANGING or kind is tuple and all(type(part) in UNCHANGING for part in value):
        return value
    if kind is dict and all(part is None or id(part) in memo for part in value.values()):
        return {key: None if part is None else memo[id(part)] for key, part in value.items()}
    if isinstance(value, Tensor) and not value.is_leaf:
        # Computed anew in every forward pass (by torch.nn.utils.prune, weight_norm), and no parameter that deepcopy takes.
        return value.detach().clone()
    return deepcopy(value, memo)


def _parts(module: nn.Module | Tensor, inputs: Kept, outputs: Kept) -> Iterator[tuple[Tensor, Tensor]]:
    """Every parameter and buffer that has channels, and what is kept of it."""
    if isinstance(module, Tensor):
        longest = module.shape.index(module.numel())
        yield module, module.detach().index_select(longest, _index(inputs).to(module.device))
        return
    # A BatchNorm may have further parameters (models/attention/iebn.py).
    named = tuple(dict.fromkeys(("weight", "bias", "running_mean", "running_var", *module._parameters)))
    if isinstance(module, _ConvNd | nn.Linear):
        yield module.weight, _kept_weight(module, inputs, outputs)
        named = ("bias",)
    index = _index(outputs)
    for value in (getattr(module, name, None) for name in named):
        if isinstance(value, Tensor):
            yield value, value.detach().index_select(0, index.to(value.device))


def _kept_weight(module: _ConvNd | nn.Linear, inputs: Kept, outputs: Kept) -> Tensor:
    """Of each group, its kept filters and input channels; of a depthwise convolution, the kept groups."""
    transposed, groups = (module.transposed, module.groups) if isinstance(module, _ConvNd) else (False, 1)
    first, second = (inputs, outputs) if transposed else (outputs, inputs)
    weight = module.weight.detach()
    if isinstance(module, _ConvNd) and _is_depthwise(module):
        return weight.index_select(0, _index(first).to(weight.device))
    rows = np.flatnonzero(first)
    if groups == 1:
        return weight.index_select(0, _index(first).to(weight.device)).index_select(1, _index(second).to(weight.device))
    columns = np.stack([np.flatnonzero(part) for part in second.reshape(groups, -1)])
    # One gather of whole kernels, so that no tensor of a size in between is made.
    index = rows[:, None] * weight.shape[1] + columns[rows * groups // len(first)]
    gathered = weight.flatten(0, 1).index_select(0, torch.from_numpy(index.ravel()).to(weight.device))
    return gathered.unflatten(0, index.shape)


def _index(kept: Kept) -> Tensor:
    return torch.from_numpy(np.flatnonzero(kept))


def _is_depthwise(module: _ConvNd) -> bool:
    return module.groups == module.in_channels and module.groups > 1


def _set_widths(module: nn.Module | Tensor, inputs: int, outputs: int) -> None:
    if isinstance(module, _ConvNd):
        if _is_depthwise(module):
            module.groups = inputs
        module.in_channels, module.out_channels = inputs, outputs
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = inputs, outputs
    elif isinstance(module, _NormBase):
        module.num_features = outputs
    elif isinstance(module, nn.PReLU):
        module.num_parameters = outputs
