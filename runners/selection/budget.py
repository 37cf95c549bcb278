"""How far down a ranking a budget reaches: by filters, parameters or multiply-adds of what would be left."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from decimal import Decimal

import numpy as np

from runners.process.errors import ConfigError
from runners.selection.rule import Rule, exact
from runners.selection.units import Unit
from runners.tracing.channels import Channels

NOTHING = np.zeros(0, dtype=np.int64)  # what a module without filters writes


def saving(channels: Channels, units: Sequence[Unit], budget: str) -> int:
    """What a network loses with `units`: filters of convolutions, `params` or `macs`."""
    if budget == "filters":
        convolutions = set(channels.convolutions)
        return sum(len(numbers) for unit in units for layer, numbers in unit.filters.items() if layer in convolutions)
    groups = (*channels.reads.values(), *channels.writes.values())
    stays = np.ones(1 + max(int(part.max()) for part in groups), dtype=bool)
    stays[[group for unit in units for group in unit.groups]] = False
    saved = 0
    for name, size in channels.sizes.modules.items():
        of = size.params if budget == "params" else size.macs
        read, written = channels.reads[name], channels.writes.get(name, NOTHING)
        saved += of(len(read), len(written)) - of(int(stays[read].sum()), int(stays[written].sum()))
    return saved


def affordable(channels: Channels, order: Sequence[Unit], rule: Rule, whole: int) -> int:
    """How many units from the front of `order` the rule's ratio of `whole` takes.

    `floor_pruned` saves no more than the ratio, `floor_kept` no less, `nearest` as near to it as units allow. Filters
    that a floor keeps are simply not removed; parameters and multiply-adds are a promise.

    Raises:
        ConfigError: all of `order` together saves less than the budget asks for.
    """
    assert not isinstance(rule.ratio, Mapping)
    asked, counts = whole * exact(rule.ratio), range(len(order) + 1)

    def saved(count: int) -> int:
        return saving(channels, order[:count], rule.budget)

    most = saved(len(order))
    if most < asked:
        if rule.budget == "filters":
            return len(order)
        raise ConfigError(_too_much(rule, asked, most, whole))
    below, above = bisect_right(counts, asked, key=saved) - 1, bisect_left(counts, asked, key=saved)
    if rule.rounding == "floor_pruned":
        return below
    if rule.rounding == "floor_kept":
        return above
    return above if saved(above) - asked <= asked - saved(below) else below


def _too_much(rule: Rule, asked: Decimal, most: int, whole: int) -> str:
    what = {"params": "parameters", "macs": "multiply-adds"}[rule.budget]
    share = int(10_000 * most / whole) / 10_000
    return (
        f"ratio={rule.ratio} of {whole:,} {what} is {int(asked):,}; at most {most:,} can be removed here, ratio={share:g}; "
        "lower the ratio or min_keep, skip fewer layers, or try coupled=group"
    )
