"""Scores of every filter of every convolution by every criterion, as one tidy table."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, fx, nn

from analysis.ensemble import Ensemble, mean_rank
from criteria.criterion import Criterion, DataCriterion, needs, needs_of_layer
from criteria.layer import BatchNorm, Gradients, Label, Weights
from criteria.median import TOLERANCE
from runners.data.source import Source
from runners.process.errors import ConfigError, NumericalError
from runners.scoring.observation import Observations, observe
from runners.scoring.sites import filters, find_batchnorm
from runners.tracing.channels import Channels, follow

log = logging.getLogger(__name__)
SCORE_COLUMNS = ["layer", "index", "criterion", "filter", "score"]
Ranking = Criterion | Ensemble


def check_criteria(criteria: Mapping[str, Ranking]) -> None:
    """Asks every criterion what it needs, so that a wrong one is found before anything is trained.

    Raises:
        ConfigError: a criterion that is annotated or configured wrongly.
    """
    for name, criterion in criteria.items():
        if isinstance(criterion, Ensemble):
            _check_members(name, criterion, criteria)
            continue
        try:
            needs(criterion)
            needs_of_layer(criterion)
        except TypeError as error:
            raise ConfigError(f"criterion {name!r}: {error}; see criteria/criterion.py; mend its function or YAML") from error


def check_rankable(network: nn.Module, channels: Channels, criteria: Mapping[str, Ranking], chosen: str) -> None:
    """Refuses to prune by a criterion that needs the BatchNorm of a layer which has none, before anything is trained.

    Raises:
        ConfigError: of the first layer to rank that lacks it.
    """
    criterion = criteria[chosen]
    members = [criteria[name] for name in criterion.members] if isinstance(criterion, Ensemble) else [criterion]
    if not any(needs_of_layer(each) is BatchNorm for each in members if not isinstance(each, Ensemble)):
        return
    traced = follow(network)
    for layer in channels.convolutions:
        if not channels.obstacle(layer) and find_batchnorm(traced, channels, layer) is None:
            raise ConfigError(
                f"cannot prune {layer} by {chosen!r}: no BatchNorm reads its output; each layer needs one; pick another"
            )


def score(
    network: nn.Module,
    channels: Channels,
    criteria: Mapping[str, Ranking],
    images: Source | None = None,
    *,
    batch_size: int = 128,
    layers: Sequence[str] | None = None,
) -> pd.DataFrame:
    """One row a filter and criterion (`SCORE_COLUMNS`); higher means keep.

    `index` counts the layers from 1, by default the convolutions in order of execution. A layer that lacks what a criterion
    needs has no rows of that criterion. `images` are passed once for all criteria, and not at all if none needs them.

    Args:
        batch_size: images at a time; only criteria that average over batches depend on it.
        layers: others than the convolutions, for a table of their own: `channels.linear`.

    Raises:
        NumericalError: weights, a loss or scores that are not finite.
        ConfigError: a criterion that does not give one score a filter.
    """
    single = _single(criteria)
    layers = list(dict.fromkeys(channels.convolutions if layers is None else layers))
    for layer in layers:
        _check_weights(network, layer)
    traced = follow(network)
    seen = _seen(network, layers, single, images, batch_size)
    return _scored(((layer, _views(traced, channels, seen, layer)) for layer in layers), criteria, seen)


def score_weights(weights: Mapping[str, Tensor], criteria: Mapping[str, Ranking]) -> pd.DataFrame:
    """As `score`, of layers of which the weights are known alone; all `criteria` are of `from_weights`.

    Args:
        weights: layer -> filters (out in h w).
    """
    views = ((layer, {Label: Label(layer, len(weight)), Weights: Weights(weight)}) for layer, weight in weights.items())
    return _scored(views, criteria, Observations())


def from_weights(criteria: Mapping[str, Ranking]) -> dict[str, Ranking]:
    """The criteria that need the weights of a layer and nothing else, and ensembles of such."""
    alone = {name for name, each in _single(criteria).items() if needs(each) in (Label, Weights)}
    return {
        name: each for name, each in criteria.items() if alone >= (set(each.members) if isinstance(each, Ensemble) else {name})
    }


def _single(criteria: Mapping[str, Ranking]) -> dict[str, Criterion]:
    """Those that score by themselves."""
    return {name: each for name, each in criteria.items() if not isinstance(each, Ensemble)}


def _scored(
    views_of: Iterable[tuple[str, Mapping[type, Any]]], criteria: Mapping[str, Ranking], seen: Observations
) -> pd.DataFrame:
    """The table of all layers, each with the views that it has, in order."""
    found: list[tuple[str, int, str, np.ndarray]] = []
    residuals: dict[str, float] = {}
    for index, (layer, views) in enumerate(views_of, 1):
        for name, criterion in _single(criteria).items():
            scores = _scores(criterion, views, seen.state(layer, name))
            if scores is not None:
                _check_scores(scores, name, layer, views[Label].num_filters)
                found.append((layer, index, name, scores))
        if "median" in vars(views.get(Weights, seen)):
            residuals[layer] = views[Weights].median.residual
    _report(residuals)
    table = _table(found) if found else pd.DataFrame(columns=SCORE_COLUMNS)
    ensembles = {name: each.members for name, each in criteria.items() if isinstance(each, Ensemble)}
    ranked = [mean_rank(table, members).assign(criterion=name) for name, members in ensembles.items()]
    return pd.concat([table, *ranked]).sort_values("index", kind="stable", ignore_index=True)[SCORE_COLUMNS]


def _table(found: Sequence[tuple[str, int, str, np.ndarray]]) -> pd.DataFrame:
    """One row a filter, from the scores of each layer by each criterion: in one piece, as small tables are slow to join."""
    layers, indices, names, scores = zip(*found, strict=True)
    lengths = [len(each) for each in scores]
    return pd.DataFrame(
        {
            "layer": pd.Series(layers).repeat(lengths).array,
            "index": np.repeat(indices, lengths),
            "criterion": pd.Series(names).repeat(lengths).array,
            "filter": np.concatenate([np.arange(length) for length in lengths]),
            "score": np.concatenate(scores),
        }
    )


def _seen(
    network: nn.Module, layers: Sequence[str], criteria: Mapping[str, Criterion], images: Source | None, batch_size: int
) -> Observations:
    """The states and gradients from one pass over the images; without a criterion that needs images there is no pass."""
    from_data = {name: each for name, each in criteria.items() if isinstance(each, DataCriterion)}
    gradients = any(needs_of_layer(each) is Gradients for each in criteria.values())
    if not from_data and not gradients:
        return Observations()
    if images is None:
        raise TypeError("needs images")
    return observe(network, layers, from_data, images, gradients=gradients, batch_size=batch_size)


def _views(traced: fx.GraphModule, channels: Channels, seen: Observations, layer: str) -> dict[type, Any]:
    """The views of one layer, without those that it cannot have."""
    weight = filters(traced, layer)
    views: dict[type, Any] = {Label: Label(layer, len(weight)), Weights: Weights(weight)}
    if layer in seen.gradients:
        views[Gradients] = Gradients(weight, seen.gradient(layer))
    if found := find_batchnorm(traced, channels, layer):
        views[BatchNorm] = found
    return views


@torch.no_grad()
def _scores(criterion: Criterion, views: Mapping[type, Any], state: Tensor | None) -> np.ndarray | None:
    """One score a filter; None if the layer lacks what the criterion needs."""
    kind = needs_of_layer(criterion)
    if kind is not None and kind not in views:
        return None
    layer = [] if kind is None else [views[kind]]
    if not isinstance(criterion, DataCriterion):
        return criterion(*layer).cpu().numpy()
    return None if state is None else criterion.finish(state, *layer).cpu().numpy()


def _check_members(name: str, ensemble: Ensemble, criteria: Mapping[str, Ranking]) -> None:
    if len(set(ensemble.members)) < len(ensemble.members):
        raise ConfigError(f"criterion {name!r} has the members {list(ensemble.members)}; each counts once; take the others out")
    known = [other for other, each in criteria.items() if not isinstance(each, Ensemble)]
    if unknown := [member for member in ensemble.members if member not in known]:
        raise ConfigError(
            f"criterion {name!r} has the member {unknown[0]!r}, which is not compared; members are some of {', '.join(known)}; "
            f"choose a larger set (criteria=all), or add +criterion@criteria.{unknown[0]}={unknown[0]}"
        )


def _check_weights(network: nn.Module, layer: str) -> None:
    if not network.get_parameter(f"{layer}.weight").isfinite().all():
        raise NumericalError(f"{layer} has weights that are not finite; scores need numbers; give other weights")


def _check_scores(scores: np.ndarray, name: str, layer: str, n_filters: int) -> None:
    if scores.shape != (n_filters,):
        raise ConfigError(
            f"criterion {name!r} gives {layer} scores of shape {scores.shape} for {n_filters} filters; one number a filter is "
            "needed; mend the criterion, or pick another"
        )
    if not np.isfinite(scores).all():
        raise NumericalError(
            f"criterion {name!r} gives {layer} scores that are not finite; its weights, outputs or gradients are too large; "
            "train again with a smaller learning rate, or pick another criterion"
        )


def _report(residuals: Mapping[str, float]) -> None:
    """Logs how exact the geometric medians are, if a criterion asked for them."""
    if residuals:
        worst = max(residuals, key=lambda layer: residuals[layer])
        text = f"geometric medians of {len(residuals)} layers: residual at most {residuals[worst]:.1e} ({worst})"
        log.info(text) if residuals[worst] <= TOLERANCE else log.warning(f"{text}, above the {TOLERANCE:.0e} aimed at")
