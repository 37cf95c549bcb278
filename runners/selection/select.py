"""Which filters go: a score table and a rule in, one row a layer out."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from runners.process.errors import ConfigError, NumericalError
from runners.selection.going import check_shares, units_to_go
from runners.selection.normalise import normalised
from runners.selection.rule import Rule
from runners.selection.units import Family, Unit, families, why_not
from runners.tracing.channels import Channels, Removed

SELECTION_COLUMNS = ["layer", "index", "before", "after", "floor_hit", "note", "obstacle", "removed", "masked"]


def check_prunable(channels: Channels, rule: Rule) -> None:
    """Refuses, before anything is trained, a rule that this network cannot follow.

    Raises:
        ConfigError: nothing can be removed, a layer is unknown or has no share, or a budget cannot be met.
    """
    found = families(channels, rule)
    if not found:
        layers = channels.convolutions
        why = f"{layers[0]} {why_not(channels, rule, layers[0])}" if layers else "it has none"
        raise ConfigError(
            f"no convolution of this network can lose filters ({why}); at least one must be free to shrink; choose another "
            "model, coupled=group, coupled=mask, or runner=score_only"
        )
    check_shares(channels, found, rule)
    constant = {layer: np.zeros(len(channels.writes[layer])) for layer in channels.convolutions}
    units_to_go(channels, found, constant, rule)


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
    found = families(channels, rule)
    wanted, going = units_to_go(channels, found, scores_by_layer(scores, criterion, channels, found, rule, gone), rule)
    asked = _filters(wanted)
    removed, masked = _filters(unit for unit in going if unit.groups), _filters(unit for unit in going if not unit.groups)
    ranked = {layer for family in found for layer in family.layers}
    rows = [
        (
            layer,
            index,
            before := len(channels.writes[layer]),
            before - len(removed[layer]),
            len(asked[layer]) > len(removed[layer]) + len(masked[layer]),
            "" if layer in ranked else why_not(channels, rule, layer),
            channels.obstacle(layer),
            " ".join(map(str, removed[layer])),
            " ".join(map(str, masked[layer])),
        )
        for index, layer in enumerate(channels.convolutions, 1)
    ]
    return pd.DataFrame(rows, columns=SELECTION_COLUMNS)


def removed_filters(selection: pd.DataFrame) -> Removed:
    """Layer -> indices of the filters that go, out of a selection table."""
    return _listed(selection, "removed")


def masked_filters(selection: pd.DataFrame) -> Removed:
    """Layer -> indices of the filters that are only zeroed; a table stored before there were any has no such column."""
    return _listed(selection, "masked") if "masked" in selection else {}


def _listed(selection: pd.DataFrame, column: str) -> Removed:
    pairs = zip(selection["layer"], selection[column], strict=True)
    return {layer: listed(numbers) for layer, numbers in pairs if numbers}


def listed(numbers: str) -> list[int]:
    """Filters as a table's cell lists them."""
    return [int(number) for number in numbers.split()]


def _filters(units: Iterable[Unit]) -> dict[str, list[int]]:
    """Layer -> its filters in `units`, in their order."""
    found: dict[str, list[int]] = defaultdict(list)
    for unit in units:
        for layer, numbers in unit.filters.items():
            found[layer].extend(numbers)
    return found


def scores_by_layer(
    scores: pd.DataFrame,
    criterion: str,
    channels: Channels,
    found: Sequence[Family],
    rule: Rule,
    gone: Callable[[str], set[int]] = nothing_gone,
) -> dict[str, np.ndarray]:
    """The normalised scores of every ranked layer, in order of its filters; below all others, those that are gone."""
    chosen = scores[scores["criterion"] == criterion].sort_values(["index", "filter"])
    layers = [layer for family in found for layer in family.layers]
    pool = {str(layer): part["score"].to_numpy(dtype=float) for layer, part in chosen.groupby("layer", sort=False)}
    _check(pool, criterion, layers)
    ordered = {layer: np.full(len(channels.writes[layer]), -np.inf) for layer in layers}
    for layer in layers:
        left = [number for number in range(len(ordered[layer])) if number not in gone(layer)]
        ordered[layer][left] = normalised(pool[layer], rule.normalise, _dim(channels, layer, rule))
    return ordered


def _dim(channels: Channels, layer: str, rule: Rule) -> int:
    """Weights of a filter, where the rule asks for them."""
    if rule.normalise != "sqrt_dim":
        return 1
    return channels.sizes.modules[layer].weights(len(channels.reads[layer]), 1)


def _check(pool: Mapping[str, np.ndarray], criterion: str, layers: Sequence[str]) -> None:
    if missing := [layer for layer in layers if layer not in pool]:
        raise ConfigError(
            f"criterion {criterion!r} has no scores for {missing[0]} (and {len(missing) - 1} more); every layer to prune "
            "needs them; pick another criterion, or skip the layer"
        )
    for layer in layers:
        if not np.isfinite(pool[layer]).all():
            raise NumericalError(
                f"criterion {criterion!r} gave scores for {layer} that are not finite; ranking needs numbers; pick another"
            )
