"""Choosing filters, and telling whether a network without them computes what it computes with them zeroed."""

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from runners.pruning.remove import mask, remove
from runners.tracing.channels import Channels, Removed, trace_channels

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
LARGE = 1e-3  # what counts as different


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """`network` with BatchNorm statistics and affines that no training gives: means and signs of any kind."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                nn.init.normal_(module.weight, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    return network.eval()


def images(size: int, dtype: torch.dtype = torch.float64, n: int = 2) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def output(network: nn.Module, x: Tensor) -> Tensor:
    """All outputs in one row."""
    found: list[Tensor] = []

    def collect(value: Any) -> None:
        if isinstance(value, Tensor):
            found.append(value.flatten())
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ():
            collect(part)

    with torch.no_grad():
        collect(network(x))
    return torch.cat(found)


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, as a share of the spread of the values."""
    assert a.isfinite().all() and b.isfinite().all()
    return float((a - b).abs().max() / (b - b.mean()).abs().max())


def half_of_ranked(channels: Channels, seed: int = 0) -> Removed:
    """(a) Half of every layer that is ranked, at random."""
    rng = np.random.default_rng(seed)
    ranked = [layer for layer in channels.convolutions if not channels.obstacle(layer)]
    found = {layer: some_of_each_part(channels, layer, rng, share=0.5) for layer in ranked}
    return {layer: filters for layer, filters in found.items() if filters}


def some_of_each_part(channels: Channels, layer: str, rng: np.random.Generator, share: float) -> list[int]:
    """Filters at random; where a layer must stay even, as many of each part."""
    part = channels.parts.get(layer, np.zeros(len(channels.writes[layer]), dtype=int))
    members = [rng.permutation(np.flatnonzero(part == number)) for number in range(part.max() + 1)]
    return np.concatenate([filters[: int(share * len(filters))] for filters in members]).tolist()


def share_of_free_groups(channels: Channels, seed: int = 0, share: float = 0.4) -> Removed:
    """(b) A share of all free groups, tied or not, of which every layer keeps one."""
    rng = np.random.default_rng(seed)
    chosen: set[int] = set()
    decided = set(channels.fixed)
    for layer in channels.parts:
        groups = channels.writes[layer]
        if not decided & set(groups.tolist()):
            chosen |= set(groups[some_of_each_part(channels, layer, rng, share)].tolist())
            decided |= set(groups.tolist())
    free = sorted({int(g) for written in channels.writes.values() for g in written} - decided)
    chosen |= set(rng.permutation(free)[: round(share * len(free))].tolist())
    for written in channels.writes.values():
        if set(written.tolist()) <= chosen:
            chosen.discard(int(written[0]))
    found = {layer: np.flatnonzero(np.isin(written, list(chosen))).tolist() for layer, written in channels.writes.items()}
    return {layer: filters for layer, filters in found.items() if filters}


def assert_removed_is_masked(network: nn.Module, size: int, dtypes: tuple[torch.dtype, ...]) -> None:
    """Both choices of filters, in every precision; the network itself must feel that filters are gone."""
    network = randomised(network)
    channels = trace_channels(network, images(size, torch.float32, n=1))
    for removed in (half_of_ranked(channels), share_of_free_groups(channels)):
        if not removed:
            continue
        for dtype in dtypes:
            whole, x = deepcopy(network).to(dtype), images(size, dtype)
            got, expected = output(remove(whole, channels, removed), x), output(mask(whole, channels, removed), x)
            assert difference(got, expected) < TOLERANCE[dtype]
            if set(removed) != {"dead"}:
                assert difference(output(whole, x), expected) > LARGE
