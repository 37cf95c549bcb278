"""What is ranked: filters, or sets of filters that stay or go together, in families of layers that share them."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np

from runners.selection.rule import Rule
from runners.tracing.channels import Channels

OUTPUT = "network output"
Filters = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Unit:
    """Filters that are one decision.

    Args:
        filters: layer -> which of its filters; linear layers that are tied to them go along.
        groups: the channels that go with them; none if the filters are only zeroed.
        score: the lowest goes first.
    """

    filters: Filters
    groups: tuple[int, ...] = ()
    score: float = 0


@dataclass(frozen=True)
class Family:
    """Convolutions that share units, in order of execution, and those units."""

    layers: tuple[str, ...]
    units: tuple[Unit, ...]


def families(channels: Channels, rule: Rule) -> list[Family]:
    """What `rule` lets go, in order of execution; a layer that is in no family loses nothing."""
    skipped = rule.skipped(channels.convolutions)
    layers = [layer for layer in channels.convolutions if layer not in skipped]
    free = [layer for layer in layers if not channels.obstacle(layer)]
    held = set(channels.fixed) | {group for layer in skipped for group in channels.writes[layer].tolist()}
    found = [
        family
        for family in _sharing(channels, layers if rule.coupled == "group" else free, held)
        if _bundle(channels, family.units) is not None
    ]
    if rule.coupled == "mask":
        found += [family for layer in layers if layer not in free and (family := _masked(channels, layer)).units]
    return sorted(found, key=lambda family: channels.convolutions.index(family.layers[0]))


def why_not(channels: Channels, rule: Rule, layer: str) -> str:
    """Why a layer is in no family."""
    skipped = rule.skipped(channels.convolutions)
    if layer in skipped or rule.coupled != "group":
        return skipped.get(layer) or channels.obstacle(layer) or "its parts cannot keep equal counts"
    groups = channels.writes[layer].tolist()
    fixed = [channels.fixed[group] for group in groups if group in channels.fixed]
    tied = [f"tied to {other}, {why}" for other, why in skipped.items() if np.isin(groups, channels.writes[other]).any()]
    return next(iter([*tied, *fixed]), "its parts cannot keep equal counts")


def ranked(channels: Channels, family: Family, scores: Mapping[str, np.ndarray]) -> list[Unit]:
    """The units of a family with their scores, lowest first; ties by position.

    A unit of several filters has the sum of their scores. Where filters fall into parts that must keep equal counts,
    the lowest of each part make one unit, then the next of each, with the mean of their scores.
    """
    units = [
        Unit(
            unit.filters,
            unit.groups,
            fsum(scores[layer][number] for layer, numbers in unit.filters.items() if layer in scores for number in numbers),
        )
        for unit in family.units
    ]
    ordered = sorted(units, key=lambda unit: unit.score)
    bundles = zip(*(_bundle(channels, ordered) or ()), strict=False)
    return [_merged(bundle) for bundle in bundles]


def _sharing(channels: Channels, layers: Sequence[str], held: set[int]) -> list[Family]:
    """Families of `layers`; groups in `held` stay, and connect nothing."""
    writers: dict[int, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for layer, written in channels.writes.items():
        for number, group in enumerate(written.tolist()):
            writers[group][layer] = (*writers[group].get(layer, ()), number)
    found: list[tuple[list[str], dict[int, None]]] = []
    for layer in layers:
        groups = dict.fromkeys(group for group in channels.writes[layer].tolist() if group not in held)
        touching = [other for other in found if not other[1].keys().isdisjoint(groups)]
        merged = dict.fromkeys(group for _, theirs in touching for group in theirs) | groups
        found = [other for other in found if other not in touching]
        found.append(([name for names, _ in touching for name in names] + [layer], merged))
    return [
        Family(tuple(sorted(names, key=channels.convolutions.index)), tuple(Unit(writers[g], (g,)) for g in groups))
        for names, groups in found
        if groups
    ]


def _masked(channels: Channels, layer: str) -> Family:
    """Every filter of a layer alone, to be zeroed; what the network returns is no feature and stays."""
    free = [number for number, group in enumerate(channels.writes[layer].tolist()) if channels.fixed.get(group) != OUTPUT]
    return Family((layer,), tuple(Unit({layer: (number,)}) for number in free))


def _bundle(channels: Channels, units: Sequence[Unit]) -> list[list[Unit]] | None:
    """The units apart by the parts that their filters lie in; nothing if one of each would leave unequal parts."""
    by_part: dict[tuple[tuple[str, tuple[int, ...]], ...], list[Unit]] = defaultdict(list)
    for unit in units:
        parts = {
            layer: channels.parts[layer][list(numbers)]
            for layer, numbers in unit.filters.items()
            if _in_parts(channels, layer, unit)
        }
        by_part[tuple((layer, tuple(part.tolist())) for layer, part in parts.items())].append(unit)
    for layer in dict(sum(by_part, ())):
        counts = Counter(part for place in by_part for part in dict(place).get(layer, ()))
        if set(counts) != set(channels.parts[layer].tolist()) or len(set(counts.values())) > 1:
            return None
    return list(by_part.values())


def _in_parts(channels: Channels, layer: str, unit: Unit) -> bool:
    return bool(unit.groups) and layer in channels.parts


def _merged(units: Sequence[Unit]) -> Unit:
    """One unit of several, with the mean of their scores."""
    if len(units) == 1:
        return units[0]
    filters: dict[str, tuple[int, ...]] = {}
    for unit in units:
        for layer, numbers in unit.filters.items():
            filters[layer] = (*filters.get(layer, ()), *numbers)
    groups = tuple(group for unit in units for group in unit.groups)
    return Unit(filters, groups, fsum(unit.score for unit in units) / len(units))
