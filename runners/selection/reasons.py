"""Reasons, a line each: no filter can go, none went, or few layers are ranked; and the options that change it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from decimal import ROUND_CEILING, Context, Decimal

import numpy as np
import pandas as pd

from runners.selection.draft import Plan
from runners.selection.going import in_steps, saved_by, whole_of
from runners.selection.rule import Rule, exact
from runners.selection.units import Units, units_of, why_not
from runners.tracing.channels import Channels

MOST_KINDS = 3  # of reasons in one line
UP = Context(prec=3, rounding=ROUND_CEILING)  # for ratios to try


def no_layer_ranked(channels: Channels, rule: Rule) -> str:
    """The most frequent reasons why a rule ranks no convolution, each with an example, and the options by which some are."""
    layers = channels.convolutions
    if not layers:
        return (
            "this network has no convolution; at least one must be free to shrink; choose another model, or runner=score_only"
        )
    reasons = {layer: why_not(channels, rule, layer) for layer in layers}
    kinds = {layer: _without_names(reason, channels) for layer, reason in reasons.items()}
    common = Counter(kinds.values()).most_common(MOST_KINDS)
    examples = {kind: next(layer for layer in layers if kinds[layer] == kind) for kind, _ in common}
    told = ", ".join(f"{count} like {examples[kind]} ({reasons[examples[kind]]})" for kind, count in common)
    return (
        f"none of the {len(layers)} convolutions of this network can lose filters: {told}; at least one must be free to "
        f"shrink; {_ways_out(channels, rule)}"
    )


def few_ranked(channels: Channels, rule: Rule, units: Units) -> list[str]:
    """A line for networks of which `coupled=skip` ranks less than half and `coupled=group` more; none for others."""
    ranked, total = len(units.ranked), len(channels.convolutions)
    if rule.coupled != "skip" or 2 * ranked >= total:
        return []
    more = _n_ranked(channels, replace(rule, coupled="group"))
    return [f"coupled=skip ranks {ranked} of {total} layers; coupled=group would rank {more}"] if more > ranked else []


def none_goes(plan: Plan) -> list[str]:
    """A line for plans by which no filter goes, whatever the scores, though the ratio is not 0; none for others.

    Plans that pool layers can come to nothing without it: then the scores decide whether the first filter is too dear.
    """
    if not _asks(plan):
        return []
    if plan.counts is not None and not plan.counts.any():
        return [_rounded(plan)]
    spare = dict(zip(plan.channels.writes, plan.spare.tolist(), strict=True))
    held = all(min(spare[layer] for layer in layers) <= 0 for layers in plan.units.families)
    return [_held(plan)] if held else []


def remarks(plan: Plan, selection: pd.DataFrame) -> list[str]:
    """Lines about a selection by this plan: that few layers are ranked, and why no filter goes, where that is so."""
    return [*few_ranked(plan.channels, plan.rule, plan.units), *none_went(plan, selection)]


def none_went(plan: Plan, selection: pd.DataFrame) -> list[str]:
    """A line for selections that remove and mask nothing; none for others."""
    if any(any(selection[column]) for column in ("removed", "masked") if column in selection):
        return []
    if not _asks(plan):
        return ["No filter goes: ratio is 0."]
    if selection["floor_hit"].any():
        return [_held(plan)]
    return [_too_dear(plan) if plan.counts is None else _rounded(plan)]


def _without_names(reason: str, channels: Channels) -> str:
    """A reason with dots for the names of modules, so that like reasons of different layers are equal."""
    if reason.startswith("tied to ") and not reason.startswith("tied to each other"):
        return "tied to others"
    names = {*channels.reads, *channels.writes}
    return " ".join("..." if word.strip(",") in names else word for word in reason.split())


def _ways_out(channels: Channels, rule: Rule) -> str:
    """The options by which some layers are ranked, with their number: the fewest that do it."""
    group, mask = {"coupled": "group"}, {"coupled": "mask"}
    unskipped = {"skip": ()} if rule.skip else {}
    unskipped |= {"start_layer": 0} if rule.start_layer else {}
    masks = [[mask], [mask | unskipped]] if rule.ratio_of == "filters" else []
    for ways in ([group, unskipped], [group | unskipped], *masks):
        found = [(way, n) for way in ways if (n := _n_ranked(channels, replace(rule, **way)))]
        if found:
            return "try " + ", or ".join(f"{_shown(way)}, which ranks {n}" for way, n in found)
    return "choose another model, or runner=score_only"


def _shown(options: Mapping[str, object]) -> str:
    return " ".join(f"{option}={[] if value == () else value}" for option, value in options.items())


def _n_ranked(channels: Channels, rule: Rule) -> int:
    return len(units_of(channels, rule).ranked)


def _asks(plan: Plan) -> bool:
    """True if the ratio of some ranked layer is not 0."""
    shares = plan.rule.shares(plan.channels.convolutions)
    return any(shares[layer] for layer in plan.units.ranked)


def _rounded(plan: Plan) -> str:
    """The layer whose share is nearest to a filter, and the share of it that makes one."""
    shares = plan.rule.shares(plan.channels.convolutions)
    each = enumerate(plan.units.families)
    products = [int(plan.units.steps[family]) * exact(shares[layers[0]]) for family, layers in each]
    nearest = max(range(len(products)), key=products.__getitem__)
    first, *tied = plan.units.families[nearest]
    n_steps, n_kinds = int(plan.units.steps[nearest]), int(plan.units.kinds[nearest])
    what = f"{n_steps} filters" if n_kinds == 1 else f"{n_steps} sets of {n_kinds} filters"
    where = f"{first} and {len(tied)} layers tied to it" if tied else first
    enough = _up(Decimal(1) / n_steps / (2 if plan.rule.rounding == "nearest" else 1))
    advice = f"the share {enough} of it" if isinstance(plan.rule.ratio, Mapping) else f"ratio={enough}"
    return (
        f"No filter goes: ratio {shares[first]:g} of the {what} of {where}, the most of all ranked layers, rounds to 0; try "
        f"{advice}, or rounding=floor_kept."
    )


def _held(plan: Plan) -> str:
    widths = {layer: len(plan.channels.writes[layer]) for layers in plan.units.families for layer in layers}
    widest = max(widths, key=widths.__getitem__)
    advice = "try min_keep=1" if plan.rule.min_keep != 1 else "rank other layers, by coupled=group or skip"
    return (
        f"No filter goes: min_keep={plan.rule.min_keep:g} keeps all those that would (the widest ranked layer, {widest}, has "
        f"{widths[widest]}); {advice}."
    )


def _too_dear(plan: Plan) -> str:
    """The ratio in numbers, and what the first filter of the dearest layer saves."""
    assert not isinstance(plan.rule.ratio, Mapping)
    steps = in_steps(plan.units, np.zeros(len(plan.units.group)))
    firsts = np.flatnonzero(steps.place == 0)
    saved = {layers[0]: saved_by(plan, steps, firsts[n : n + 1])(1) for n, layers in enumerate(plan.units.families)}
    dearest = max(saved, key=saved.__getitem__)
    whole = whole_of(plan, steps)
    what = {"filters": "filters", "params": "parameters", "macs": "multiply-adds"}[plan.rule.ratio_of]
    asked = float(whole * exact(plan.rule.ratio))
    return (
        f"No filter goes: ratio {plan.rule.ratio:g} of {whole:,} {what} is {asked:,.6g}, fewer than the first filter would "
        f"save (one of {dearest}, the dearest: {saved[dearest]:,}); try ratio={_up(Decimal(saved[dearest]) / whole)}, or "
        "rounding=floor_kept."
    )


def _up(ratio: Decimal) -> str:
    """Three digits of a ratio, and no less than it."""
    return f"{UP.create_decimal(ratio).normalize():f}"
