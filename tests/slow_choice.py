"""The choice of filters as it reads in words: one object a unit, plain loops. Slow, and only for tests."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import ceil, floor

from runners.selection.rule import Rule
from runners.tracing.channels import Channels
from runners.tracing.sizes import Size

Filter = tuple[str, int]
Scores = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Unit:
    """Filters that go together, the groups that go with them, and the sum of their scores, rounded once."""

    filters: tuple[Filter, ...]
    groups: tuple[int, ...]
    score: float


def slow_choice(channels: Channels, rule: Rule, scores: Scores) -> dict[str, list[int]]:
    """Layer -> the filters that go, removed or zeroed, in the order in which they go."""
    rankings = [_steps(channels, family, layers, scores) for layers, family in _families(channels, rule, scores)]
    if rule.scope == "layer" and rule.ratio_of == "filters":
        order = [unit for steps in rankings for unit in steps[: _rounded(len(steps) * _share(rule), rule.rounding)]]
        return _listed(_above_floor(channels, rule, order))
    if rule.scope == "global":
        order = sorted((unit for steps in rankings for unit in steps), key=lambda unit: unit.score)
    else:
        places = [(Fraction(place, len(steps)), unit) for steps in rankings for place, unit in enumerate(steps, 1)]
        order = [unit for _, unit in sorted(places, key=lambda pair: pair[0])]
    allowed = _above_floor(channels, rule, order)
    saved = [_saved(channels, rule, allowed[:count]) for count in range(len(allowed) + 1)]
    whole = _saved(channels, rule, order) if rule.ratio_of == "filters" else getattr(channels.sizes, rule.ratio_of)
    return _listed(allowed[: _count(saved, _share(rule) * whole, rule.rounding)])


def _share(rule: Rule) -> Fraction:
    return Fraction(f"{rule.ratio}")


def _rounded(exact: Fraction, rounding: str) -> int:
    return {"floor_pruned": floor(exact), "floor_kept": ceil(exact), "nearest": floor(exact + Fraction(1, 2))}[rounding]


def _count(saved: Sequence[int], asked: Fraction, rounding: str) -> int:
    """All where they save too little; else the last that saves no more, the first that saves no less, or the nearest."""
    steps = range(len(saved))
    if saved[-1] < asked:
        return steps[-1]
    if rounding == "floor_pruned":
        return max(step for step in steps if saved[step] <= asked)
    if rounding == "floor_kept":
        return min(step for step in steps if saved[step] >= asked)
    below = max(step for step in steps if saved[step] <= asked)
    above = min(step for step in steps if saved[step] >= asked)
    return above if saved[above] - asked <= asked - saved[below] else below


def _families(channels: Channels, rule: Rule, scores: Scores) -> list[tuple[list[str], list[Unit]]]:
    """Layers that share groups, in order of their first layer, and their units in the order of their groups."""
    skipped = rule.skipped(channels.convolutions)
    held = {*channels.fixed, *(int(group) for layer in skipped for group in channels.writes[layer])}
    found: list[tuple[list[str], list[int]]] = []
    masked: list[tuple[list[str], list[Unit]]] = []
    for layer in channels.convolutions:
        if layer in skipped:
            continue
        if rule.coupled != "group" and channels.obstacle(layer):
            numbers = [n for n, g in enumerate(channels.writes[layer].tolist()) if channels.fixed.get(g) != "network output"]
            units = [Unit(((layer, n),), (), float(scores[layer][n])) for n in numbers]
            masked += [([layer], units)] if rule.coupled == "mask" and units else []
            continue
        groups = list(dict.fromkeys(int(group) for group in channels.writes[layer] if group not in held))
        touching = [each for each in found if set(each[1]) & set(groups)]
        merged = list(dict.fromkeys([group for _, theirs in touching for group in theirs] + groups))
        found = [each for each in found if each not in touching]
        found.append(([name for names, _ in touching for name in names] + [layer], merged))
    families = [(sorted(names, key=channels.convolutions.index), groups) for names, groups in found if groups]
    sharing = [(names, [_unit(channels, scores, names, group) for group in groups]) for names, groups in families]
    even = [(names, units) for names, units in sharing if _is_even(channels, _by_part(channels, units))]
    return sorted(even + masked, key=lambda family: channels.convolutions.index(family[0][0]))


def _unit(channels: Channels, scores: Scores, ranked: Sequence[str], group: int) -> Unit:
    filters = tuple((layer, n) for layer, written in channels.writes.items() for n, g in enumerate(written) if g == group)
    return Unit(filters, (group,), _sum(scores[layer][n] for layer, n in filters if layer in ranked))


def _sum(scores: Iterable[float]) -> float:
    """An exact sum, rounded once: 0.1 and 0.3 make 0.4, half of which ties with 0.2."""
    return float(sum(map(Fraction, scores)))


def _by_part(channels: Channels, units: Sequence[Unit]) -> dict[tuple[tuple[str, int], ...], list[Unit]]:
    """The parts that a unit's filters lie in -> the units that lie there, both in order."""
    found: dict[tuple[tuple[str, int], ...], list[Unit]] = {}
    for unit in units:
        place = tuple(
            (layer, int(channels.parts[layer][n])) for layer, n in unit.filters if unit.groups and layer in channels.parts
        )
        found.setdefault(place, []).append(unit)
    return found


def _is_even(channels: Channels, by_part: Mapping[tuple[tuple[str, int], ...], list[Unit]]) -> bool:
    """One unit of each kind takes equally many filters of every part of every layer that it takes any of."""
    taken = [each for place in by_part for each in place]
    return all(
        len({taken.count((layer, int(part))) for part in channels.parts[layer]}) == 1 for layer in {layer for layer, _ in taken}
    )


def _steps(channels: Channels, units: Sequence[Unit], layers: Sequence[str], scores: Scores) -> list[Unit]:
    """Units in order of their scores; one of each kind becomes one unit with their mean."""
    kinds = _by_part(channels, sorted(units, key=lambda unit: unit.score)).values()
    return [
        Unit(
            tuple(each for unit in step for each in unit.filters),
            tuple(group for unit in step for group in unit.groups),
            _sum(unit.score for unit in step) / len(step),
        )
        for step in zip(*kinds, strict=False)
    ]


def _above_floor(channels: Channels, rule: Rule, order: Sequence[Unit]) -> list[Unit]:
    """The units after which every layer that they touch still has its floor, all before them gone."""
    gone: dict[str, int] = dict.fromkeys(channels.writes, 0)
    going: list[Unit] = []
    for unit in order:
        after = dict(gone)
        for layer, _ in unit.filters:
            after[layer] += 1
        touched = {layer: len(channels.writes[layer]) for layer, _ in unit.filters}
        if all(width - after[layer] >= rule.floor(width) for layer, width in touched.items()):
            gone, going = after, [*going, unit]
    return going


def params(size: Size, inputs: int, outputs: int) -> int:
    """All parameters of a module."""
    return size.weights(inputs, outputs) + size.per_channel * (outputs if size.kernel else inputs)


def _saved(channels: Channels, rule: Rule, units: Sequence[Unit]) -> int:
    """Filters of convolutions, parameters or multiply-adds of the network that go with these units."""
    if rule.ratio_of == "filters":
        return sum(layer in channels.convolutions for unit in units for layer, _ in unit.filters)
    gone, saved = {group for unit in units for group in unit.groups}, 0
    for name, size in channels.sizes.modules.items():
        cost = partial(params, size) if rule.ratio_of == "params" else size.macs
        sides = [channels.reads[name].tolist(), channels.writes[name].tolist() if name in channels.writes else []]
        saved += cost(*map(len, sides)) - cost(*(sum(group not in gone for group in side) for side in sides))
    return saved


def _listed(units: Sequence[Unit]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for unit in units:
        for layer, number in unit.filters:
            found.setdefault(layer, []).append(number)
    return found
