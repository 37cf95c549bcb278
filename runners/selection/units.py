"""The units of a ranking: filters, or sets of filters that stay or go together, in families of layers that share them.

Two layers of three filters, summed by a shortcut, share three groups; a third layer of three filters is free:

    writes    a: [1 2 3]   b: [1 2 3]   c: [4 5 6]
    families  (a, b), (c)                            with coupled=group; with coupled=skip only (c)
    group     [1 2 3 4 5 6]                          one unit a group; the first three are of family 0
    layer     [a b  a b  a b  c c c]                 the filters of the units, one unit after the other:
    number    [0 0  1 1  2 2  0 1 2]                 unit 0 is filter 0 of a and filter 0 of b
    starts    [0 2 4 6 7 8 9]                        where each unit's filters begin, and where the last one's end
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from runners.selection.rule import Rule
from runners.tracing.channels import Channels

OUTPUT = "network output"
Whole = Int64[np.ndarray, "..."]
NOTHING: Whole = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Units:
    """The units of one network, as arrays: family after family, each in its own order.

    Args:
        names: all layers that write channels, in order of execution.
        families: the convolutions of each family, in order of execution.
        family: unit -> its family.
        group: unit -> the group of channels that goes with it; -1 if its filter is only zeroed in place.
        kind: unit -> a number for the parts that its filters lie in. Units of different families differ in it.
        starts: unit -> where its filters begin in `layer` and `number`; and where the last ones end.
        layer: filter of a unit -> its layer, as a place in `names`. Linear layers tied to filters are among them.
        number: filter of a unit -> its number in that layer.
    """

    names: tuple[str, ...]
    families: tuple[tuple[str, ...], ...]
    family: Int64[np.ndarray, " units"]
    group: Int64[np.ndarray, " units"]
    kind: Int64[np.ndarray, " units"]
    starts: Int64[np.ndarray, " units+1"]
    layer: Int64[np.ndarray, " filters"]
    number: Int64[np.ndarray, " filters"]

    @cached_property
    def ranked(self) -> frozenset[str]:
        """The layers that are in a family."""
        return frozenset(layer for family in self.families for layer in family)

    @cached_property
    def scored(self) -> Bool[np.ndarray, " filters"]:
        """True for filters that have a score: those of ranked convolutions."""
        return np.array([name in self.ranked for name in self.names], dtype=bool)[self.layer]

    @cached_property
    def kinds(self) -> Int64[np.ndarray, " families"]:
        """Family -> how many kinds of units it has; one of each kind go at a time."""
        found = [len(np.unique(self.kind[self.family == family])) for family in range(len(self.families))]
        return np.array(found, dtype=np.int64)

    @cached_property
    def steps(self) -> Int64[np.ndarray, " families"]:
        """Family -> how often one unit of each kind can go: as often as the rarest kind has units."""
        sizes = np.bincount(self.kind)
        least = np.full(len(self.families), len(self.family))
        np.minimum.at(least, self.family, sizes[self.kind])
        return least


def units_of(channels: Channels, rule: Rule) -> Units:
    """The units that `rule` lets go, families in order of execution; a layer that is in no family loses nothing."""
    filters = _filters(channels)
    skipped = rule.skipped(channels.convolutions)
    layers = [layer for layer in channels.convolutions if layer not in skipped]
    free = [layer for layer in layers if not channels.obstacle(layer)]
    held = {*channels.fixed, *(group for layer in skipped for group in channels.writes[layer].tolist())}
    found = [
        _family(filters, names, groups)
        for names, groups in _sharing(channels, layers if rule.coupled == "group" else free, _marked(filters, held))
    ]
    if rule.coupled == "mask":
        found += [_masked(filters, channels, layer) for layer in layers if channels.obstacle(layer)]
    order = {layer: place for place, layer in enumerate(channels.convolutions)}
    kept = sorted((family for family in found if family.even and len(family.group)), key=lambda family: order[family.layers[0]])
    firsts = np.cumsum([0, *(int(family.kind.max()) + 1 for family in kept)])[:-1]
    members = _joined([family.members for family in kept])
    return Units(
        names=tuple(channels.writes),
        families=tuple(family.layers for family in kept),
        family=_joined([np.full(len(family.group), place) for place, family in enumerate(kept)]),
        group=_joined([family.group for family in kept]),
        kind=_joined([first + family.kind for first, family in zip(firsts, kept, strict=True)]),
        starts=np.cumsum(_joined([np.zeros(1, dtype=np.int64), *(family.sizes for family in kept)])),
        layer=filters.layer[members],
        number=filters.number[members],
    )


def why_not(channels: Channels, rule: Rule, layer: str) -> str:
    """The reason why a layer is in no family."""
    skipped = rule.skipped(channels.convolutions)
    if layer in skipped or rule.coupled != "group":
        return skipped.get(layer) or channels.obstacle(layer) or "its parts cannot keep equal counts"
    tied = [f"tied to {other}, {why}" for other, why in skipped.items() if other in channels.partners[layer]]
    return next(iter(tied), channels.reason(layer)) or "its parts cannot keep equal counts"


def taken(starts: Whole, which: Whole) -> tuple[Whole, Whole]:
    """The places of what the rows `which` hold, row after row, and how many each holds; row r is starts[r]:starts[r + 1]."""
    sizes = starts[which + 1] - starts[which]
    ends = np.cumsum(sizes)
    return np.repeat(starts[which] - (ends - sizes), sizes) + np.arange(ends[-1] if len(ends) else 0), sizes


class _Filters(NamedTuple):
    """All filters of a network, layer after layer, and the same by group.

    Args:
        group: filter -> its group.
        layer: filter -> its layer, as a place among the layers that write.
        number: filter -> its number in that layer.
        part: filter -> a number for its layer and its part there; -1 in layers that need not stay even.
        layer_of_part: such a number -> the layer.
        by_group: the filters in order of their groups.
        starts: group -> where its filters begin in `by_group`; and where the last ones end.
    """

    group: Whole
    layer: Whole
    number: Whole
    part: Whole
    layer_of_part: Whole
    by_group: Whole
    starts: Whole


class _Family(NamedTuple):
    """A family before it is put among the others: `members` are places among all filters, `sizes` how many a unit has."""

    layers: tuple[str, ...]
    group: Whole
    members: Whole
    sizes: Whole
    kind: Whole
    even: bool


def _filters(channels: Channels) -> _Filters:
    widths = [len(groups) for groups in channels.writes.values()]
    group = _joined([*channels.writes.values()])
    parts, layer_of_part = [], []
    for place, (layer, width) in enumerate(zip(channels.writes, widths, strict=True)):
        if layer in channels.parts:
            names, part = np.unique(channels.parts[layer], return_inverse=True)
            parts.append(len(layer_of_part) + part)
            layer_of_part += [place] * len(names)
        else:
            parts.append(np.full(width, -1))
    by_group = np.argsort(group, kind="stable")
    return _Filters(
        group=group,
        layer=np.repeat(np.arange(len(widths)), widths),
        number=_joined([np.arange(width) for width in widths]),
        part=_joined(parts),
        layer_of_part=np.array(layer_of_part, dtype=np.int64),
        by_group=by_group,
        starts=np.searchsorted(group[by_group], np.arange(group.max(initial=-1) + 2)),
    )


def _marked(filters: _Filters, groups: set[int]) -> Bool[np.ndarray, " groups"]:
    """True for these groups; some may have no filter."""
    marks = np.zeros(len(filters.starts) - 1, dtype=bool)
    marks[[group for group in groups if group < len(marks)]] = True
    return marks


def _sharing(
    channels: Channels, layers: Sequence[str], held: Bool[np.ndarray, " groups"]
) -> list[tuple[tuple[str, ...], Whole]]:
    """Families of `layers` and their groups; groups in `held` may not be removed, and do not join two layers."""
    found: dict[int, tuple[list[str], Whole]] = {}
    owner = np.full(len(held), -1)
    for number, layer in enumerate(layers):
        written = channels.writes[layer]
        groups = written[~held[written]]
        if (np.diff(groups) <= 0).any():  # else each is there once
            groups = groups[np.sort(np.unique(groups, return_index=True)[1])]
        touching = [found.pop(other) for other in np.flatnonzero(np.bincount(owner[groups] + 1)[1:]).tolist()]
        merged = _joined([*(theirs for _, theirs in touching), groups[owner[groups] < 0]])
        owner[merged] = number
        found[number] = ([name for names, _ in touching for name in names] + [layer], merged)
    order = {layer: place for place, layer in enumerate(channels.convolutions)}
    return [(tuple(sorted(names, key=order.__getitem__)), groups) for names, groups in found.values()]


def _family(filters: _Filters, layers: tuple[str, ...], groups: Whole) -> _Family:
    """A family of which every group is a unit."""
    places, sizes = taken(filters.starts, groups)
    members = filters.by_group[places]
    kind, even = _kinds(filters, members, sizes)
    return _Family(layers, groups, members, sizes, kind, even)


def _masked(filters: _Filters, channels: Channels, layer: str) -> _Family:
    """Every filter of a layer alone, to be zeroed; what the network returns is no feature and stays."""
    returned = {group for group, reason in channels.fixed.items() if reason == OUTPUT}
    own = filters.layer == list(channels.writes).index(layer)
    members = np.flatnonzero(own & ~_marked(filters, returned)[filters.group])
    ones, zeros = np.ones_like(members), np.zeros_like(members)
    return _Family((layer,), -ones, members, ones, zeros, even=True)


def _kinds(filters: _Filters, members: Whole, sizes: Whole) -> tuple[Whole, bool]:
    """Unit -> a number for the parts that its filters lie in; False if one unit of each kind would leave unequal parts."""
    part = filters.part[members]
    row = np.repeat(np.arange(len(sizes)), sizes)[part >= 0]
    part = part[part >= 0]
    if not len(part):
        return np.zeros(len(sizes), dtype=np.int64), True
    column = np.arange(len(row)) - np.searchsorted(row, row)
    table = np.full((len(sizes), int(column.max()) + 1), -1)
    table[row, column] = part
    kinds, kind = np.unique(table, axis=0, return_inverse=True)
    counts = np.bincount(kinds[kinds >= 0], minlength=len(filters.layer_of_part))
    touched = np.isin(filters.layer_of_part, filters.layer_of_part[part])
    each = [counts[filters.layer_of_part == layer] for layer in np.unique(filters.layer_of_part[touched])]
    return kind.ravel(), all(len(np.unique(of_layer)) == 1 for of_layer in each)


def _joined(arrays: Sequence[Whole]) -> Whole:
    """One array of whole numbers; of none, an empty one."""
    return np.concatenate([NOTHING, *arrays])
