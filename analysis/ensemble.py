"""Several criteria as one: an operation on the score table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import pandas as pd
from annotated_types import MinLen


@dataclass(frozen=True)
class Ensemble:
    """The choice to rank by several criteria together.

    Args:
        members: the criteria, each once, by the names they have in the score table.
    """

    members: Annotated[Sequence[str], MinLen(2)]


def mean_rank(scores: pd.DataFrame, members: Sequence[str]) -> pd.DataFrame:
    """Mean over `members` of each filter's rank in its layer, as a share of the layer's filters.  [0..1]

    Rank r of n is (r - 1/2) / n, so that layers of different width compare; ties share their average rank. Members count
    alike, whatever the scale of their scores.

    Args:
        scores: one row a filter and criterion: `layer, index, criterion, filter, score`.

    Returns:
        `layer, index, filter, score`; nothing for a layer that lacks a member.
    """
    part = scores[scores["criterion"].isin(members)]
    by_layer = part.groupby(["layer", "criterion"])["score"]
    part = part.assign(score=(by_layer.rank() - 0.5) / by_layer.transform("size"))
    found = part.groupby(["index", "layer", "filter"])["score"].agg(["mean", "size"]).reset_index()
    return found[found["size"] == len(members)].rename(columns={"mean": "score"})[["layer", "index", "filter", "score"]]
