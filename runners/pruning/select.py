"""Which filters go: a score table and a rule in, one row a layer out."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal

import numpy as np
import pandas as pd

from runners.errors import ConfigError, NumericalError
from runners.pruning.channels import Channels
from runners.pruning.remove import Removed

SELECTION_COLUMNS = ["layer", "index", "before", "after", "floor_hit", "note", "removed"]
ROUNDINGS = {"floor_pruned": ROUND_FLOOR, "floor_kept": ROUND_CEILING, "nearest": ROUND_HALF_UP}


@dataclass(frozen=True)
class Rule:
    """How many filters go, and where from.

    Args:
        ratio: share of the ranked filters to remove, in [0, 1).
        scope: `layer` (every ranked layer loses that share) or `global` (the lowest scores of all ranked layers go).
        rounding: of the number removed: `floor_pruned` down, `floor_kept` up (the number kept down), `nearest` halves
            up. Exact in decimals: 0.29 of 100 is 29.
        min_keep: filters that stay in every layer, whatever the ratio.
    """

    ratio: float
    scope: str = "layer"
    rounding: str = "floor_pruned"
    min_keep: int = 1


def check_prunable(channels: Channels) -> None:
    """Refuses a network of which nothing can be removed, before it is trained.

    Raises:
        ConfigError: no convolution's filters are free; the message says why of the first one.
    """
    notes = [(layer, channels.obstacle(layer)) for layer in channels.convolutions]
    if all(note for _, note in notes):
        why = f"{notes[0][0]} {notes[0][1]}" if notes else "it has none"
        raise ConfigError(
            f"no convolution of this network can lose filters ({why}); at least one must be free to shrink; choose another "
            "model, or runner=score_only"
        )


def num_removed(n_filters: int, ratio: float, rounding: str) -> int:
    """How many of `n_filters` a ratio means, in exact decimal arithmetic."""
    share = n_filters * Decimal(f"{ratio:.12g}")
    return int(share.to_integral_value(ROUNDINGS[rounding]))


def select(scores: pd.DataFrame, criterion: str, channels: Channels, rule: Rule) -> pd.DataFrame:
    """One row a convolution (`SELECTION_COLUMNS`): filters before and after, and which go, lowest score first.

    Ranked are the layers whose every filter is free to go alone; `note` says why another is not. Ties go by layer and
    filter index, the lower first. `floor_hit`: the layer would have lost more but for `min_keep`.

    Raises:
        ConfigError: `criterion` has no scores for a ranked layer.
        NumericalError: scores that are not finite.
    """
    notes = {layer: channels.obstacle(layer) for layer in channels.convolutions}
    chosen = scores[scores["criterion"] == criterion]
    free = [layer for layer, note in notes.items() if not note]
    pool = chosen[chosen["layer"].isin(free)].sort_values(["index", "filter"])
    _check(pool, criterion, free)
    pool = pool.assign(rank=pool.groupby("index")["score"].rank(method="first"))
    pool["size"] = pool.groupby("index")["score"].transform("size")
    protected = pool["rank"] > pool["size"] - rule.min_keep
    wanted = _lowest(pool, rule)
    going = _lowest(pool[~protected], rule, total=len(pool))
    removed = {layer: part.sort_values("rank")["filter"].tolist() for layer, part in going.groupby("layer")}
    asked = wanted.groupby("layer").size().to_dict()
    table = pd.DataFrame({"layer": channels.convolutions, "index": range(1, len(channels.convolutions) + 1)})
    table["before"] = [len(channels.writes[layer]) for layer in table["layer"]]
    table["after"] = [len(channels.writes[layer]) - len(removed.get(layer, [])) for layer in table["layer"]]
    table["floor_hit"] = [asked.get(layer, 0) > len(removed.get(layer, [])) for layer in table["layer"]]
    table["note"] = [notes[layer] for layer in table["layer"]]
    table["removed"] = [" ".join(map(str, removed.get(layer, []))) for layer in table["layer"]]
    return table[SELECTION_COLUMNS]


def removed_filters(selection: pd.DataFrame) -> Removed:
    """Layer -> indices of the filters that go, out of a selection table."""
    pairs = zip(selection["layer"], selection["removed"], strict=True)
    return {layer: [int(number) for number in removed.split()] for layer, removed in pairs if removed}


def _lowest(pool: pd.DataFrame, rule: Rule, total: int | None = None) -> pd.DataFrame:
    """The filters of `pool` that the ratio takes; `total` is how many filters the ratio counts, if more than these."""
    if rule.scope == "layer":
        counts = {size: num_removed(size, rule.ratio, rule.rounding) for size in pool["size"].unique()}
        return pool[pool["rank"] <= pool["size"].map(counts)]
    n = num_removed(len(pool) if total is None else total, rule.ratio, rule.rounding)
    return pool.sort_values("score", kind="stable").head(n)


def _check(pool: pd.DataFrame, criterion: str, ranked: list[str]) -> None:
    if missing := [layer for layer in ranked if layer not in set(pool["layer"])]:
        raise ConfigError(
            f"criterion {criterion!r} has no scores for {missing[0]} (and {len(missing) - 1} more); every layer to prune "
            "needs them; pick another criterion"
        )
    if not np.isfinite(pool["score"]).all():
        layer = pool.loc[~np.isfinite(pool["score"]), "layer"].iloc[0]
        raise NumericalError(
            f"criterion {criterion!r} gave scores for {layer} that are not finite; ranking needs numbers; pick another"
        )
