"""Pruning in rounds: the share that is gone after each, and the numbers of filters that have moved up."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from runners.selection.rule import Rule
from runners.selection.select import listed, masked_filters, removed_filters
from runners.tracing.channels import Removed

PACES = {
    "linear": lambda ratio, done: ratio * done,
    "geometric": lambda ratio, done: 1 - (1 - ratio) ** done,
}


@dataclass(frozen=True)
class Gone:
    """Filters that earlier rounds removed, or zeroed in place, by their original numbers."""

    removed: Removed = field(default_factory=dict)
    masked: Removed = field(default_factory=dict)

    def of(self, layer: str) -> set[int]:
        """All of one layer."""
        return {*self.removed.get(layer, ()), *self.masked.get(layer, ())}


def rules_of_rounds(rule: Rule, num_rounds: int, pace: str) -> list[Rule]:
    """The rule of every round, each a ratio of the original filters; the last is `rule` itself.

    Args:
        pace: `linear`, the same number in every round; `geometric`, the same share of what is left.
    """
    share = PACES[pace]

    def ratio(done: float) -> float | Mapping[str, float]:
        if isinstance(rule.ratio, Mapping):
            return {layer: share(part, done) for layer, part in rule.ratio.items()}
        return share(rule.ratio, done)

    return [replace(rule, ratio=ratio(number / num_rounds)) for number in range(1, num_rounds)] + [rule]


def gone_by(selection: pd.DataFrame) -> Gone:
    """The filters that are gone once `selection` is carried out."""
    return Gone(removed_filters(selection), masked_filters(selection))


def in_original_numbers(scores: pd.DataFrame, gone: Gone) -> pd.DataFrame:
    """Scores of the filters that are left, by the numbers that they had before the first round."""
    parts = [_renumbered(part, str(layer), gone) for layer, part in scores.groupby("layer", sort=False)]
    return pd.concat(parts, ignore_index=True)


def in_current_numbers(selection: pd.DataFrame, gone: Gone) -> pd.DataFrame:
    """The filters of a selection that are not gone yet, by their places in the network as it is now."""
    columns = {
        column: [_places(numbers, layer, gone) for layer, numbers in zip(selection["layer"], selection[column], strict=True)]
        for column in ("removed", "masked")
    }
    return selection.assign(**columns)


def _renumbered(part: pd.DataFrame, layer: str, gone: Gone) -> pd.DataFrame:
    removed = set(gone.removed.get(layer, ()))
    left = [number for number in range(int(part["filter"].max()) + 1 + len(removed)) if number not in removed]
    numbered = part.assign(filter=[left[place] for place in part["filter"]])
    return numbered[~numbered["filter"].isin(gone.masked.get(layer, ()))]


def _places(numbers: str, layer: str, gone: Gone) -> str:
    before, earlier = np.sort(np.array(gone.removed.get(layer, ()), dtype=np.int64)), gone.of(layer)
    fresh = np.array([number for number in listed(numbers) if number not in earlier], dtype=np.int64)
    return " ".join(map(str, (fresh - np.searchsorted(before, fresh)).tolist()))
