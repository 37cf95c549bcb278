"""The ids of channels that a network gives out, and what is found out about them: united, fixed, written, read."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

Ids = Int64[Tensor, "..."]


class Record:
    """All that the walk over a network finds out.

    Args:
        n_ids: so many are given out; 0 is the id of every channel that is provably zero.
        united: pairs of ids whose channels stay or go together.
        scaled: as `united`, of channels that meet in a product.
        fixed: id -> why its channel may not go.
        writes: layer -> the ids of its filters.
        reads: module, or parameter with a number for every channel -> the ids of those channels.
        convolutions: those among the layers that write, in order of execution.
        grouped: grouped convolution -> its number of groups.
        unlinked: tensors that share no memory any more although their originals are views of one another.
    """

    def __init__(self) -> None:
        self.n_ids = 1
        self.united: list[Ids] = []
        self.scaled: list[Ids] = []
        self.fixed: dict[int, str] = {0: "always zero"}
        self.writes: dict[str, Ids] = {}
        self.reads: dict[str, Ids] = {}
        self.convolutions: list[str] = []
        self.grouped: dict[str, int] = {}
        self.unlinked: list[Ids] = []
        self._owners: dict[int, str] = {}

    def fresh(self, shape: Sequence[int], *, reason: str) -> Ids:
        """New ids that may not go, one a channel (dimension 1, or the last one of two)."""
        width = shape[1] if len(shape) > 1 else shape[0] if shape else 1
        ids = self._new(width)
        self.fix(ids, reason=reason)
        if len(shape) <= 1:
            return ids.reshape(tuple(shape))
        return ids.reshape(1, width, *[1] * (len(shape) - 2)).expand(tuple(shape))

    def unknown(self, described: Any, *, reason: str) -> Any:
        """Fresh ids for one tensor, or for each tensor of a tuple."""
        if hasattr(described, "shape"):
            return self.fresh(described.shape, reason=reason)
        if isinstance(described, tuple | list):
            return tuple(self.unknown(part, reason=reason) for part in described)
        return described

    def fix(self, *tensors: Ids, reason: str) -> None:
        """These channels may not go; the first reason counts."""
        for ids in tensors:
            for number in set(small(ids).abs().flatten().tolist()) if ids.numel() else ():
                self.fixed.setdefault(number, reason)

    def unite(self, a: Ids, b: Ids) -> None:
        """Channels that meet in a sum stay or go together; 0 meets nothing."""
        self.united.append(_pairs(a, b))

    def scale(self, a: Ids, b: Ids) -> None:
        """Channels that meet in a product stay or go together; 0 meets nothing."""
        self.scaled.append(_pairs(a, b))

    def write(self, name: str, module: nn.Module, width: int) -> Ids:
        """The ids of a layer's filters, the same at every use of the layer."""
        if name not in self.writes:
            self.writes[name] = self._new(width)
        self._own(name, module._parameters.values(), self.writes[name])
        return self.writes[name]

    def read(self, name: str, module: nn.Module, ids: Ids) -> None:
        """These channels are the inputs of a module; those of several uses are united, place by place."""
        self._own(name, module._parameters.values(), ids)
        if name in self.reads:
            before, ids = self.reads[name], ids.abs()
            self.fix(before[ids == 0], ids[before == 0], reason=f"reaches {name}, which reads zeros in its place elsewhere")
            self.unite(before, ids)
        else:
            self.reads[name] = ids.abs()

    def parameter(self, name: str, value: Tensor) -> Ids:
        """The ids of a parameter or buffer with a number for every channel, which goes with the channels that it meets."""
        if name not in self.reads:
            self.reads[name] = self._new(value.numel())
        self._own(name, [value], self.reads[name])
        return self.reads[name].reshape(value.shape)

    def _new(self, width: int) -> Ids:
        self.n_ids += width
        return torch.arange(self.n_ids - width, self.n_ids)

    def _own(self, name: str, parameters: Iterable[Tensor | None], ids: Ids) -> None:
        """Parameters that two modules share, or that are also used by themselves, cannot shrink in one place."""
        found = [parameter for parameter in parameters if parameter is not None]
        for owner in {self._owners.setdefault(id(parameter), name) for parameter in found} - {name}:
            theirs = [found[owner] for found in (self.reads, self.writes) if owner in found]
            self.fix(ids, *theirs, reason=f"{name} shares its parameters with {owner}")


def _pairs(a: Ids, b: Ids) -> Ids:
    pairs = torch.stack([a, b]).abs()
    if pairs.dim() > 3 and pairs[0, 0, 0].numel() > 1 and (pairs == pairs[..., :1, :1]).all():
        pairs = pairs[..., 0, 0]
    pairs = pairs.flatten(1)
    return pairs[:, pairs.all(0)]


def small(x: Ids, last: int = 0) -> Ids:
    """`x` without the repetitions that take no memory (pixels, mostly); the first two and `last` dimensions stay whole."""
    strides = x.stride()
    repeated = [2 <= dim < x.dim() - last and not stride for dim, stride in enumerate(strides)]
    if not any(repeated):
        return x
    return x.as_strided([1 if once else size for once, size in zip(repeated, x.shape, strict=True)], strides)


def copied(x: Ids) -> Ids:
    """`x` in memory of its own, repetitions still free."""
    return small(x).clone().expand(x.shape)


def by_channel(record: Record, x: Ids) -> Ids:
    """The id of every channel; channels that are not of one piece may not go."""
    pixels = small(x)
    flat = pixels[0].flatten(1) if x.dim() > 2 else pixels[0][:, None]
    if flat.shape[1] > 1 and not (flat == flat[:, :1]).all():
        record.fix(x, reason="is a channel of several filters")
    return flat[:, 0]


def spread(ids: Ids, shape: Sequence[int]) -> Ids:
    """Ids by channel -> ids of a tensor of that shape."""
    return ids.clone().reshape(1, -1, *[1] * (len(shape) - 2)).expand(tuple(shape))
