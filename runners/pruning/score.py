"""Scores of every filter of every convolution by every criterion, as one tidy table."""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import nn

from criteria.layer import Criterion, Weights, needs
from runners.errors import ConfigError, NumericalError
from runners.pruning.channels import Channels

SCORE_COLUMNS = ["layer", "index", "criterion", "filter", "score"]


def check_criteria(criteria: Mapping[str, Criterion]) -> None:
    """Asks every criterion what it needs, so that a wrong one is found before anything is trained.

    Raises:
        ConfigError: a criterion that is annotated or configured wrongly.
    """
    for name, criterion in criteria.items():
        try:
            needs(criterion)
        except TypeError as error:
            raise ConfigError(f"criterion {name!r}: {error}; see criteria/layer.py; mend its function or YAML") from error


@torch.inference_mode()
def score(network: nn.Module, channels: Channels, criteria: Mapping[str, Criterion]) -> pd.DataFrame:
    """One row a filter and criterion (`SCORE_COLUMNS`); higher means keep.

    `index` counts the convolutions from 1 in order of execution.

    Raises:
        NumericalError: weights that are not finite.
    """
    tables: list[pd.DataFrame] = []
    for index, layer in enumerate(channels.convolutions, 1):
        weight = network.get_parameter(f"{layer}.weight")
        if not weight.isfinite().all():
            raise NumericalError(
                f"layer {layer} has weights that are not finite; scores need numbers; train again or give other weights"
            )
        view = Weights(weight)
        for name, criterion in criteria.items():
            scores = criterion(view).cpu().numpy()
            tables.append(
                pd.DataFrame({"layer": layer, "index": index, "criterion": name, "filter": range(len(scores)), "score": scores})
            )
    return pd.concat(tables, ignore_index=True)[SCORE_COLUMNS]
