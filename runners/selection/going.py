"""Which units go: shares, floors and budgets over rankings."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from runners.process.errors import ConfigError
from runners.selection.budget import affordable, saving
from runners.selection.rule import Rule, is_pattern, matching, num_removed
from runners.selection.units import Family, Unit, ranked
from runners.tracing.channels import Channels


def units_to_go(
    channels: Channels, found: Sequence[Family], scores: Mapping[str, np.ndarray], rule: Rule
) -> tuple[list[Unit], list[Unit]]:
    """The units that would go if layers could be emptied, and those that do go, lowest first.

    Raises:
        ConfigError: a layer without a share, or a budget that cannot be met.
    """
    rankings = [ranked(channels, family, scores) for family in found]
    if rule.scope == "layer" and rule.budget == "filters":
        shares = [_share(channels, family, rule) for family in found]
        counts = [num_removed(len(units), share, rule.rounding) for units, share in zip(rankings, shares, strict=True)]
        wanted = [unit for units, count in zip(rankings, counts, strict=True) for unit in units[:count]]
        return wanted, _above_floor(channels, wanted, rule)
    order = _pooled(rankings, rule)
    whole = _whole(channels, order, rule.budget)
    allowed = _above_floor(channels, order, rule)
    going = allowed[: affordable(channels, allowed, rule, whole)]
    return order[: affordable(channels, order, rule, whole)], going


def check_shares(channels: Channels, found: Sequence[Family], rule: Rule) -> None:
    """Refuses shares given by name to layers that cannot lose filters one by one.

    Raises:
        ConfigError: the first such layer.
    """
    if not isinstance(rule.ratio, Mapping):
        return
    ranked_layers = {layer for family in found for layer in family.layers} | set(rule.skipped(channels.convolutions))
    for key, share in rule.ratio.items():
        for layer in [] if is_pattern(key) or not share else matching(key, channels.convolutions, "ratio"):
            if layer not in ranked_layers:
                why = channels.obstacle(layer)
                raise ConfigError(
                    f"ratio gives {layer} the share {share:g}, but its filters cannot go one by one ({why}); only ranked "
                    "layers lose filters; leave it out, or try coupled=group or coupled=mask"
                )


def _share(channels: Channels, family: Family, rule: Rule) -> float:
    """The share that all layers of a family lose."""
    shares = rule.shares(channels.convolutions)
    given = {layer: shares[layer] for layer in family.layers if layer in shares}
    if missing := [layer for layer in family.layers if layer not in given]:
        raise ConfigError(
            f"ratio gives {missing[0]} no share; by layer, every ranked layer needs one or must be skipped; a preset fits one "
            f"network only; for a share of all others add '*' to ratio"
        )
    if len(set(given.values())) > 1:
        (a, low), (b, high) = (pick(given.items(), key=lambda item: item[1]) for pick in (min, max))
        raise ConfigError(
            f"ratio gives {a} {low:g} and {b} {high:g}, which are tied; tied layers lose one share; give both the same"
        )
    return given[family.layers[0]]


def _whole(channels: Channels, order: Sequence[Unit], budget: str) -> int:
    """What the ratio is a share of."""
    if budget == "filters":
        return saving(channels, order, budget)
    return channels.sizes.params if budget == "params" else channels.sizes.macs


def _pooled(rankings: Sequence[Sequence[Unit]], rule: Rule) -> list[Unit]:
    """All units in the order in which they go: by score, or so that every layer has always lost nearly the same share."""
    if rule.scope == "global":
        return sorted((unit for units in rankings for unit in units), key=lambda unit: unit.score)
    places = [(Fraction(place, len(units)), unit) for units in rankings for place, unit in enumerate(units, 1)]
    return [unit for _, unit in sorted(places, key=lambda pair: pair[0])]


def _above_floor(channels: Channels, order: Iterable[Unit], rule: Rule) -> list[Unit]:
    """`order` without the units that would take a layer below its floor."""
    spare = {layer: len(written) - rule.floor(len(written)) for layer, written in channels.writes.items()}
    going: list[Unit] = []
    for unit in order:
        if all(len(numbers) <= spare[layer] for layer, numbers in unit.filters.items()):
            going.append(unit)
            for layer, numbers in unit.filters.items():
                spare[layer] -= len(numbers)
    return going
