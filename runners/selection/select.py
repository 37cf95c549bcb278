"""The filters that go, as a table: scores and a rule in, one row a layer out."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from runners.process.errors import ConfigError, NumericalError
from runners.selection.draft import Plan, draft
from runners.selection.going import UnitScores, exact_sums, units_to_go
from runners.selection.normalise import normalised
from runners.selection.rule import Rule
from runners.selection.units import Units, Whole, taken, units_of, why_not
from runners.tracing.channels import Channels, Removed

SELECTION_COLUMNS = ["layer", "index", "before", "after", "floor_hit", "note", "obstacle", "removed", "masked"]


def nothing_gone(layer: str) -> set[int]:
    """Before the first round."""
    return set()


def select(
    scores: pd.DataFrame,
    criterion: str,
    channels: Channels,
    rule: Rule,
    gone: Callable[[str], set[int]] = nothing_gone,
) -> pd.DataFrame:
    """One row a convolution (`SELECTION_COLUMNS`): filters before and after, and which go, lowest score first.

    `note` says why a layer is not ranked and is empty if it is; `obstacle` says what its filters are tied to, or what
    else keeps them from being removed one by one. Ties go by layer and filter index, the lower first. `floor_hit`: the
    layer would have lost more but for `min_keep`. `masked` filters are zeroed where they are.

    Args:
        gone: layer -> filters that went in an earlier round; they have no scores, and are the first of those that go.

    Raises:
        ConfigError: `criterion` has no scores for a ranked layer, or `rule` does not fit the network.
        NumericalError: scores that are not finite.
    """
    return choose(draft(channels, rule, units_of(channels, rule)), scores, criterion, gone)


def choose(plan: Plan, scores: pd.DataFrame, criterion: str, gone: Callable[[str], set[int]] = nothing_gone) -> pd.DataFrame:
    """The selection by a plan that is made already; see `select`."""
    return selection(plan, unit_scores(plan, scores, criterion, gone))


def selection(plan: Plan, scores: UnitScores) -> pd.DataFrame:
    """The table of a plan in which the units with the lowest scores go."""
    channels, units = plan.channels, plan.units
    wanted, going = units_to_go(plan, scores)
    asked = np.bincount(units.layer[taken(units.starts, wanted)[0]], minlength=len(units.names))
    asked = dict(zip(units.names, asked.tolist(), strict=True))
    removed, masked = _by_layer(units, going[units.group[going] >= 0]), _by_layer(units, going[units.group[going] < 0])
    rows = [
        (
            layer,
            index,
            before := len(channels.writes[layer]),
            before - len(removed[layer]),
            asked[layer] > len(removed[layer]) + len(masked[layer]),
            "" if layer in units.ranked else why_not(channels, plan.rule, layer),
            channels.obstacle(layer),
            " ".join(map(str, removed[layer])),
            " ".join(map(str, masked[layer])),
        )
        for index, layer in enumerate(channels.convolutions, 1)
    ]
    return pd.DataFrame(rows, columns=SELECTION_COLUMNS)


def removed_filters(selection: pd.DataFrame, column: str = "removed") -> Removed:
    """Layer -> indices of the filters that go, out of a selection table."""
    return {layer: listed(numbers) for layer, numbers in zip(selection["layer"], selection[column], strict=True) if numbers}


def masked_filters(selection: pd.DataFrame) -> Removed:
    """Layer -> indices of the filters that are only zeroed; a table stored before there were any has no such column."""
    return removed_filters(selection, "masked") if "masked" in selection else {}


def listed(numbers: str) -> list[int]:
    """Filters as a table's cell lists them."""
    return np.fromstring(numbers, dtype=np.int64, sep=" ").tolist()


def unit_scores(plan: Plan, scores: pd.DataFrame, criterion: str, gone: Callable[[str], set[int]] = nothing_gone) -> UnitScores:
    """The score of every unit: the sum of the normalised scores of its filters; below all others, those that are gone.

    Raises:
        ConfigError: a ranked layer without scores.
        NumericalError: scores that are not finite.
    """
    units, writes = plan.units, plan.channels.writes
    chosen = scores[scores["criterion"] == criterion]
    chosen = chosen.iloc[np.lexsort((chosen["filter"], chosen["index"]))]
    first = np.flatnonzero(np.diff(chosen["index"], prepend=-1))  # rows of one layer are side by side
    parts = np.split(chosen["score"].to_numpy(dtype=float), first[1:])
    pool = dict(zip(chosen["layer"].iloc[first].tolist(), parts, strict=bool(len(first))))
    layers = [layer for family in units.families for layer in family]
    _check(pool, criterion, layers)
    firsts = dict(zip(writes, np.cumsum([0, *map(len, writes.values())]).tolist(), strict=False))
    every = np.full(sum(map(len, writes.values())), -np.inf)
    for layer in layers:
        stays = np.ones(len(writes[layer]), dtype=bool)
        stays[list(gone(layer))] = False
        every[firsts[layer] + np.flatnonzero(stays)] = normalised(pool[layer], plan.rule.normalise, _dim(plan, layer))
    values = every[np.array(list(firsts.values()), dtype=np.int64)[units.layer] + units.number][units.scored]
    return exact_sums(values, np.concatenate([[0], np.cumsum(units.scored)])[units.starts])


def _by_layer(units: Units, which: Whole) -> dict[str, list[int]]:
    """Layer -> its filters in the units `which`, in their order."""
    filters, _ = taken(units.starts, which)
    layer = units.layer[filters]
    order = np.argsort(layer, kind="stable")
    ends = np.searchsorted(layer[order], np.arange(len(units.names) + 1))
    numbers = units.number[filters[order]].tolist()
    return {name: numbers[start:end] for name, (start, end) in zip(units.names, pairwise(ends.tolist()), strict=True)}


def _dim(plan: Plan, layer: str) -> int:
    """Weights of a filter, where the rule asks for them."""
    if plan.rule.normalise != "sqrt_dim":
        return 1
    return plan.channels.sizes.modules[layer].weights(len(plan.channels.reads[layer]), 1)


def _check(pool: Mapping[str, np.ndarray], criterion: str, layers: Sequence[str]) -> None:
    if missing := [layer for layer in layers if layer not in pool]:
        raise ConfigError(
            f"criterion {criterion!r} has no scores for {missing[0]} (and {len(missing) - 1} more); every layer to prune "
            "needs them; pick another criterion, or skip the layer"
        )
    for layer in layers:
        if not np.isfinite(pool[layer]).all():
            raise NumericalError(f"{criterion!r} gave {layer} scores that are not finite; ranking needs numbers; pick another")
