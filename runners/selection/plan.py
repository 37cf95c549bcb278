"""A plan that this network can follow, or the reason why it cannot, before anything is trained."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from runners.process.errors import ConfigError
from runners.selection.draft import Plan, draft, pooled
from runners.selection.going import units_to_go
from runners.selection.reasons import few_ranked, no_layer_ranked, none_goes
from runners.selection.rule import Rule, is_pattern, matching, num_removed
from runners.selection.units import Units, units_of
from runners.tracing.channels import Channels

log = logging.getLogger(__name__)


def plan(channels: Channels, rule: Rule) -> Plan:
    """All that `rule` means for a network before there are scores; made once, before anything is trained.

    Raises:
        ConfigError: nothing can be removed, a layer is unknown or has no share, or a budget cannot be met.
    """
    units = units_of(channels, rule)
    if not units.families:
        raise ConfigError(no_layer_ranked(channels, rule))
    _check_shares(channels, rule, units)
    found = draft(channels, rule, units)
    if found.costs is not None:
        units_to_go(found, np.zeros(len(found.units.group)))
    for line in [*few_ranked(channels, rule, units), *none_goes(found)]:
        log.info(line)
    return found


def alone(plan: Plan, ratios: Sequence[float]) -> dict[tuple[str, ...], dict[float, Plan]]:
    """Ranked layer (or family of tied layers) -> ratio -> the plan that removes that share of it and nothing else.

    Raises:
        ConfigError: a rule that pools layers, of which none is pruned alone.
    """
    if pooled(plan.rule):
        raise ConfigError(
            f"scope={plan.rule.scope} ratio_of={plan.rule.ratio_of} cannot be used with one layer at a time; each loses its "
            "own share of filters; try scope=layer ratio_of=filters"
        )

    def only(family: int, ratio: float) -> Plan:
        counts = np.zeros(len(plan.units.families), dtype=np.int64)
        counts[family] = num_removed(int(plan.units.steps[family]), ratio, plan.rule.rounding)
        return replace(plan, counts=counts)

    return {layers: {ratio: only(family, ratio) for ratio in ratios} for family, layers in enumerate(plan.units.families)}


def _check_shares(channels: Channels, rule: Rule, units: Units) -> None:
    """Refuses shares given by name to layers that cannot lose filters one by one."""
    if not isinstance(rule.ratio, Mapping):
        return
    may_have_one = units.ranked | set(rule.skipped(channels.convolutions))
    for key, share in rule.ratio.items():
        for layer in [] if is_pattern(key) or not share else matching(key, channels.convolutions, "ratio"):
            if layer not in may_have_one:
                raise ConfigError(
                    f"ratio gives {layer} the share {share:g}, but its filters cannot go one by one "
                    f"({channels.obstacle(layer)}); only ranked layers lose filters; leave it out, or try coupled=group "
                    "or coupled=mask"
                )
