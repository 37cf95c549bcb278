"""The number of units, from the front of a ranking, that a ratio pays for: of filters, parameters or multiply-adds."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from jaxtyping import Bool, Int64

from runners.process.errors import ConfigError
from runners.selection.rule import Rule, exact
from runners.tracing.channels import Channels

Each = Int64[np.ndarray, " modules"]


@dataclass(frozen=True)
class Costs:
    """The modules of a network as arrays: what they cost, and which groups of channels they read and write.

    Args:
        sides: the groups that the modules read and then those that they write, module after module.
        of: channel in `sides` -> the module it belongs to; of a module that writes it, that plus the number of modules.
    """

    kernel: Each
    groups: Each
    depthwise: Bool[np.ndarray, " modules"]
    per_channel: Each
    positions: Each
    sides: Int64[np.ndarray, " channels"]
    of: Int64[np.ndarray, " channels"]

    def left(self, stays: Bool[np.ndarray, " groups"], ratio_of: str) -> int:
        """Parameters (`params`) or multiply-adds (`macs`) of a network with the groups that stay."""
        inputs, outputs = np.bincount(self.of[stays[self.sides]], minlength=2 * len(self.kernel)).reshape(2, -1)
        weights = self.kernel * outputs * np.where(self.depthwise, 1, inputs // self.groups)
        if ratio_of == "macs":
            return int((weights * self.positions).sum())
        return int((weights + self.per_channel * np.where(self.kernel > 0, outputs, inputs)).sum())


def costs_of(channels: Channels) -> Costs:
    """The costs of the modules whose channels are followed."""
    modules = channels.sizes.modules
    fields = ("kernel", "groups", "depthwise", "per_channel", "positions")
    nothing = np.zeros(0, dtype=np.int64)
    sides = [*(channels.reads[name] for name in modules), *(channels.writes.get(name, nothing) for name in modules)]
    return Costs(
        *(np.array([getattr(size, field) for size in modules.values()]) for field in fields),
        sides=np.concatenate([nothing, *sides]),
        of=np.repeat(np.arange(len(sides)), [len(side) for side in sides]),
    )


def affordable(saved: Callable[[int], int], n_steps: int, whole: int, rule: Rule) -> int:
    """The number of steps, from the front of a ranking, that make up the rule's ratio of `whole`.

    `floor_pruned` saves no more than the ratio, `floor_kept` no less, `nearest` as near to it as the steps allow. Filters
    that a floor keeps are simply not removed; parameters and multiply-adds are a promise.

    Args:
        saved: what the first so many steps save; more with every step, or the same.
        n_steps: all there are.

    Raises:
        ConfigError: all steps together save less than the ratio asks for.
    """
    assert not isinstance(rule.ratio, Mapping)
    asked, counts, most = whole * exact(rule.ratio), range(n_steps + 1), saved(n_steps)
    if most < asked:
        if rule.ratio_of == "filters":
            return n_steps
        raise ConfigError(_too_much(rule, asked, most, whole))
    below, above = bisect_right(counts, asked, key=saved) - 1, bisect_left(counts, asked, key=saved)
    if rule.rounding == "floor_pruned":
        return below
    if rule.rounding == "floor_kept":
        return above
    return above if saved(above) - asked <= asked - saved(below) else below


def _too_much(rule: Rule, asked: Decimal, most: int, whole: int) -> str:
    what = {"params": "parameters", "macs": "multiply-adds"}[rule.ratio_of]
    share = int(10_000 * most / whole) / 10_000
    return (
        f"ratio={rule.ratio} of {whole:,} {what} is {int(asked):,}; at most {most:,} can be removed here, ratio={share:g}; "
        "lower the ratio or min_keep, skip fewer layers, or try coupled=group"
    )
