"""The units that go: a plan and one score a unit in, arrays of units out."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import fsum

import numpy as np
from jaxtyping import Float64, Int64

from runners.selection.afford import affordable
from runners.selection.draft import Plan
from runners.selection.units import Units, Whole, taken

UnitScores = Float64[np.ndarray, " units"]


@dataclass(frozen=True)
class Steps:
    """Family after family, what goes first, second, ...: one unit of each kind, where filters must keep equal counts.

    Args:
        units: the units of all steps, one step after the other.
        starts: step -> where its units begin in `units`; and where the last ones end.
        family: step -> its family.
        place: step -> how many of its family go before it.
        score: step -> the mean of its units' scores.
    """

    units: Int64[np.ndarray, " units"]
    starts: Int64[np.ndarray, " steps+1"]
    family: Int64[np.ndarray, " steps"]
    place: Int64[np.ndarray, " steps"]
    score: Float64[np.ndarray, " steps"]

    def of(self, which: Whole) -> Whole:
        """The units of these steps."""
        return self.units[taken(self.starts, which)[0]]


def units_to_go(plan: Plan, scores: UnitScores) -> tuple[Whole, Whole]:
    """The units that would go if layers could be emptied, and those that do go, lowest first.

    Raises:
        ConfigError: a budget that cannot be met.
    """
    steps = in_steps(plan.units, scores)
    if plan.counts is not None:
        wanted = np.flatnonzero(steps.place < plan.counts[steps.family])
        return steps.of(wanted), steps.of(_above_floor(plan, steps, wanted))
    order = _pooled(plan, steps)
    whole = whole_of(plan, steps)
    allowed, wanted = (
        which[: affordable(saved_by(plan, steps, which), len(which), whole, plan.rule)]
        for which in (_above_floor(plan, steps, order), order)
    )
    return steps.of(wanted), steps.of(allowed)


def whole_of(plan: Plan, steps: Steps) -> int:
    """The number of which the ratio is a share: filters that can go, or the network's parameters or multiply-adds."""
    if plan.rule.ratio_of == "filters":
        return saved_by(plan, steps, np.arange(len(steps.family)))(len(steps.family))
    return {"params": plan.channels.sizes.params, "macs": plan.channels.sizes.macs}[plan.rule.ratio_of]


def exact_sums(values: Float64[np.ndarray, " n"], starts: Int64[np.ndarray, " rows+1"]) -> Float64[np.ndarray, " rows"]:
    """The sum of every row, rounded once: it does not depend on the order of the values."""
    sizes = np.diff(starts)
    total, rest = np.zeros(len(sizes)), np.zeros(len(sizes))
    exact = np.ones(len(sizes), dtype=bool)
    with np.errstate(invalid="ignore"):  # rows with an infinite value, which the last line adds up
        for place in range(sizes.max(initial=0)):
            rows = np.flatnonzero(sizes > place)
            total[rows], error = _two_sum(total[rows], values[starts[rows] + place])
            rest[rows], lost = _two_sum(rest[rows], error)
            exact[rows] &= lost == 0
        sums = total + rest
    for row in np.flatnonzero(~exact).tolist():
        sums[row] = fsum(values[starts[row] : starts[row + 1]])
    return sums


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rounded sum and what rounding lost; together they are exact (Knuth 1969, section 4.2.2)."""
    total = a + b
    shifted = total - a
    return total, (a - (total - shifted)) + (b - shifted)


def in_steps(units: Units, scores: UnitScores) -> Steps:
    """The units of each family, lowest score first, ties by position; one of each kind makes a step.

    The lowest of every kind make the first step, then the next of each; kinds go in the order of their lowest units.
    """
    order = np.lexsort((scores, units.family))
    if (units.kinds > 1).any():
        kind = units.kind[order]
        first = np.zeros(kind.max() + 1, dtype=np.int64)
        first[kind[::-1]] = np.arange(len(kind))[::-1]  # the last assignment stays
        by_kind = np.argsort(kind, kind="stable")
        place = np.empty_like(order)
        place[by_kind] = np.arange(len(order)) - np.searchsorted(kind[by_kind], kind[by_kind])
        kept = np.flatnonzero(place < units.steps[units.family[order]])
        order = order[kept[np.lexsort((first[kind[kept]], place[kept], units.family[order[kept]]))]]
    family = np.repeat(np.arange(len(units.families)), units.steps)
    starts = np.concatenate([[0], np.cumsum(units.kinds[family])])
    place = np.arange(len(family)) - np.searchsorted(family, family)
    return Steps(order, starts, family, place, exact_sums(scores[order], starts) / units.kinds[family])


def _pooled(plan: Plan, steps: Steps) -> Whole:
    """All steps in the order in which they go: by score, or so that every layer has always lost nearly the same share."""
    # A quotient is rounded once, so that equal shares are equal and others are not.
    by = steps.score if plan.rule.scope == "global" else (steps.place + 1) / plan.units.steps[steps.family]
    return np.argsort(by, kind="stable")


def _above_floor(plan: Plan, steps: Steps, order: Whole) -> Whole:
    """`order` without the steps that would take a layer below its floor."""
    layers, sizes = _layers(plan.units, steps, order)
    if (np.bincount(layers, minlength=len(plan.spare)) <= plan.spare).all():
        return order
    spare, each, going = plan.spare.tolist(), layers.tolist(), []
    for place, (start, end) in enumerate(pairwise([0, *np.cumsum(sizes).tolist()])):
        those = each[start:end]
        for layer in those:
            spare[layer] -= 1
        if min(spare[layer] for layer in those) >= 0:
            going.append(place)
        else:
            for layer in those:
                spare[layer] += 1
    return order[np.array(going, dtype=np.int64)]


def _layers(units: Units, steps: Steps, order: Whole) -> tuple[Whole, Whole]:
    """The layer of every filter of these steps, step after step, and how many filters each step has."""
    which, sizes = taken(steps.starts, order)
    filters, widths = taken(units.starts, steps.units[which])
    ends = np.concatenate([[0], np.cumsum(widths)])[np.concatenate([[0], np.cumsum(sizes)])]
    return units.layer[filters], np.diff(ends)


def saved_by(plan: Plan, steps: Steps, order: Whole) -> Callable[[int], int]:
    """A function of n: filters of convolutions, parameters or multiply-adds that the network loses with the first n steps."""
    if plan.costs is None:
        layers, sizes = _layers(plan.units, steps, order)
        convolutions = np.array([name in plan.channels.convolutions for name in plan.units.names], dtype=bool)
        ends = np.concatenate([[0], np.cumsum(convolutions[layers])])
        return ends[np.concatenate([[0], np.cumsum(sizes)])].tolist().__getitem__
    costs = plan.costs
    everything = np.ones(int(costs.sides.max(initial=0)) + 1, dtype=bool)
    whole = costs.left(everything, plan.rule.ratio_of)

    def saved(count: int) -> int:
        stays, gone = everything.copy(), plan.units.group[steps.of(order[:count])]
        stays[gone[gone >= 0]] = False
        return whole - costs.left(stays, plan.rule.ratio_of)

    return saved
