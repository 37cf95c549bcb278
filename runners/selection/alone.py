"""Rules that prune one layer and leave the others whole."""

from collections.abc import Sequence
from dataclasses import replace

from runners.process.errors import ConfigError
from runners.selection.rule import Rule
from runners.selection.units import families
from runners.tracing.channels import Channels


def alone(channels: Channels, rule: Rule, ratios: Sequence[float]) -> dict[tuple[str, ...], dict[float, Rule]]:
    """Ranked layer (or family of tied layers) -> ratio -> the rule that removes that share of it and nothing else.

    Raises:
        ConfigError: a rule that pools layers, of which none is pruned alone.
    """
    if rule.scope != "layer" or rule.budget != "filters":
        raise ConfigError(
            f"scope={rule.scope} budget={rule.budget} cannot be used with one layer at a time; each loses its own share of "
            "filters; try scope=layer budget=filters"
        )
    return {
        family.layers: {ratio: replace(rule, ratio={"*": 0, **dict.fromkeys(family.layers, ratio)}) for ratio in ratios}
        for family in families(channels, rule)
    }
