"""All that a rule means for one network before there are scores: units, shares, floors and costs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from runners.process.errors import ConfigError
from runners.selection.afford import Costs, costs_of
from runners.selection.rule import Rule, num_removed
from runners.selection.units import Units
from runners.tracing.channels import Channels


@dataclass(frozen=True)
class Plan:
    """A rule for one network, worked out as far as it goes without scores.

    Args:
        counts: family -> how many of its steps go (a step is one unit of each kind); None where layers are pooled.
        spare: layer that writes channels -> how many of its filters may go, whatever the scores.
        costs: what modules cost; None where the ratio is one of filters.
    """

    channels: Channels
    rule: Rule
    units: Units
    counts: Int64[np.ndarray, " families"] | None
    spare: Int64[np.ndarray, " layers"]
    costs: Costs | None


def draft(channels: Channels, rule: Rule, units: Units) -> Plan:
    """The plan, even one by which nothing can go; `plan` refuses those.

    Raises:
        ConfigError: a layer that is not there, or a ranked layer without a share.
    """
    spare = [len(written) - rule.floor(len(written)) for written in channels.writes.values()]
    costs = None if rule.ratio_of == "filters" else costs_of(channels)
    return Plan(channels, rule, units, _counts(channels, rule, units), np.array(spare, dtype=np.int64), costs)


def with_ratio(plan: Plan, ratio: float | Mapping[str, float]) -> Plan:
    """The same plan for another ratio.

    Raises:
        ConfigError: a ranked layer without a share.
    """
    rule = replace(plan.rule, ratio=ratio)
    return replace(plan, rule=rule, counts=_counts(plan.channels, rule, plan.units))


def pooled(rule: Rule) -> bool:
    """True where the ratio is met by all layers together, and no layer has a share of its own."""
    return rule.scope != "layer" or rule.ratio_of != "filters"


def _counts(channels: Channels, rule: Rule, units: Units) -> Int64[np.ndarray, " families"] | None:
    if pooled(rule):
        return None
    shares = rule.shares(channels.convolutions)
    each = zip(units.families, units.steps.tolist(), strict=True)
    return np.array([num_removed(steps, _share(layers, shares), rule.rounding) for layers, steps in each], dtype=np.int64)


def _share(layers: tuple[str, ...], shares: Mapping[str, float]) -> float:
    """The share that all layers of a family lose."""
    given = {layer: shares[layer] for layer in layers if layer in shares}
    if missing := [layer for layer in layers if layer not in given]:
        raise ConfigError(
            f"ratio gives {missing[0]} no share; by layer, every ranked layer needs one or must be skipped; a preset fits one "
            f"network only; for a share of all others add '*' to ratio"
        )
    if len(set(given.values())) > 1:
        (a, low), (b, high) = (pick(given.items(), key=lambda item: item[1]) for pick in (min, max))
        raise ConfigError(f"ratio gives {a} {low:g} and {b} {high:g}, but tied layers lose one share; give both the same")
    return given[layers[0]]
