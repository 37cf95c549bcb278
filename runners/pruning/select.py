"""Which filters go: a score table and a rule in, one row a layer out."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from runners.errors import ConfigError, NumericalError
from runners.pruning.channels import Channels
from runners.pruning.going import check_shares, units_to_go
from runners.pruning.normalise import normalised
from runners.pruning.remove import Removed
from runners.pruning.rule import Rule
from runners.pruning.units import Family, Unit, families, why_not

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


def select(scores: pd.DataFrame, criterion: str, channels: Channels, rule: Rule) -> pd.DataFrame:
    """One row a convolution (`SELECTION_COLUMNS`): filters before and after, and which go, lowest score first.

    `note` says why a layer is not ranked and is empty if it is; `obstacle` says what its filters are tied to, or what
    else keeps them from being removed one by one. Ties go by layer and filter index, the lower first. `floor_hit`: the
    layer would have lost more but for `min_keep`. `masked` filters are zeroed where they are.

    Raises:
        ConfigError: `criterion` has no scores for a ranked layer, or `rule` does not fit the network.
        NumericalError: scores that are not finite.
    """
    found = families(channels, rule)
    wanted, going = units_to_go(channels, found, _by_layer(scores, criterion, channels, found, rule), rule)
    return pd.DataFrame(
        [_row(channels, rule, found, layer, wanted, going) for layer in channels.convolutions], columns=SELECTION_COLUMNS
    ).astype({"index": int, "before": int, "after": int, "floor_hit": bool})


def removed_filters(selection: pd.DataFrame) -> Removed:
    """Layer -> indices of the filters that go, out of a selection table."""
    return _listed(selection, "removed")


def masked_filters(selection: pd.DataFrame) -> Removed:
    """Layer -> indices of the filters that are only zeroed; a table stored before there were any has no such column."""
    return _listed(selection, "masked") if "masked" in selection else {}


def _listed(selection: pd.DataFrame, column: str) -> Removed:
    pairs = zip(selection["layer"], selection[column], strict=True)
    return {layer: [int(number) for number in numbers.split()] for layer, numbers in pairs if numbers}


def _row(
    channels: Channels, rule: Rule, found: Sequence[Family], layer: str, wanted: Sequence[Unit], going: Sequence[Unit]
) -> tuple[object, ...]:
    before = len(channels.writes[layer])
    lost = {
        kind: [number for unit in going if bool(unit.groups) == (kind == "removed") for number in unit.filters.get(layer, ())]
        for kind in ("removed", "masked")
    }
    asked = sum(len(unit.filters.get(layer, ())) for unit in wanted)
    return (
        layer,
        1 + channels.convolutions.index(layer),
        before,
        before - len(lost["removed"]),
        asked > len(lost["removed"]) + len(lost["masked"]),
        "" if any(layer in family.layers for family in found) else why_not(channels, rule, layer),
        channels.obstacle(layer),
        " ".join(map(str, lost["removed"])),
        " ".join(map(str, lost["masked"])),
    )


def _by_layer(
    scores: pd.DataFrame, criterion: str, channels: Channels, found: Sequence[Family], rule: Rule
) -> dict[str, np.ndarray]:
    """The normalised scores of every ranked layer, in order of its filters."""
    chosen = scores[scores["criterion"] == criterion].sort_values(["index", "filter"])
    layers = [layer for family in found for layer in family.layers]
    pool = {str(layer): part["score"].to_numpy(dtype=float) for layer, part in chosen.groupby("layer", sort=False)}
    _check(pool, criterion, layers)
    modules = channels.sizes.modules
    dims = {layer: modules[layer].weights(len(channels.reads[layer]), 1) if layer in modules else 1 for layer in layers}
    return {layer: normalised(pool[layer], rule.normalise, dims[layer]) for layer in layers}


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
