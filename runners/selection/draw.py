"""Filters drawn at random: from all of a layer, or from those whose scores lie in a window."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from runners.data.counter import permutation
from runners.process.errors import ConfigError
from runners.selection.going import units_to_go
from runners.selection.rule import Rule, exact
from runners.selection.select import scores_by_layer, select
from runners.selection.units import Family, Unit, families, ranked
from runners.tracing.channels import Channels

DRAWN = "drawn"
Window = Sequence[float]


def check_window(channels: Channels, rule: Rule, window: Window, *, needs_choice: bool) -> None:
    """Refuses, before anything is trained, a window that cannot be drawn from; it depends on counts alone.

    Args:
        needs_choice: whether draws that must all be the same are refused, too.

    Raises:
        ConfigError: layers are pooled, a window holds fewer filters than must go, or no layer has a choice.
    """
    if rule.scope != "layer" or rule.budget != "filters":
        raise ConfigError(
            f"scope={rule.scope} budget={rule.budget} cannot be used with random filters in each layer; each loses its own "
            "share of filters; try scope=layer budget=filters"
        )
    choice = False
    for family in families(channels, rule):
        going = len(units_to_go(channels, [family], {}, rule)[1])
        inside = within(len(ranked(channels, family, {})), window)
        held = int(inside.sum())
        if held < going:
            raise ConfigError(
                f"{_shown(window)} holds {held} of the {len(inside)} filters of {family.layers[0]}, of which {going} must go; "
                "it must hold as many; widen it, or lower ratio"
            )
        choice |= 0 < going < held
    if needs_choice and not choice:
        raise ConfigError(
            f"{_shown(window)} leaves nothing to chance: every layer loses none or all of the filters in it; some layer needs "
            "a choice; widen it, change ratio, or take runner.vary=[seeds]"
        )


def within(n_filters: int, window: Window) -> np.ndarray:
    """Whether the filter at each place of a layer, lowest score first, lies in the window of quantiles.

    The filter at place p, from 0 on, is the quantile (p + 1/2) / n. In exact decimals, so that windows which meet share
    a filter only where its quantile is the very bound.
    """
    low, high = (2 * n_filters * exact(bound) for bound in window)
    return np.array([low <= 2 * place + 1 <= high for place in range(n_filters)])


def draw(
    scores: pd.DataFrame, criterion: str, channels: Channels, rule: Rule, *, window: Window, seed: int, repeat: int
) -> pd.DataFrame:
    """A selection of as many filters as `rule` removes, at random within `window` of the criterion's scores.

    A function of the seed, the layer and the repeat; with all filters in the window, of nothing else. Filters that are
    tied, or must go in equal counts, are drawn as they are ranked: together.

    Source:
        Huang et al. 2021, table 4, which does not say how the criterion enters the draw: the window is our reading.
    """
    found = families(channels, rule)
    ranking = scores_by_layer(scores, criterion, channels, found, rule)
    numbers = {layer: np.zeros(len(channels.writes[layer])) for layer in ranking}
    for family in found:
        for (layer, which), number in _drawn(channels, family, ranking, window, (seed, repeat)).items():
            numbers[layer][which] = number
    table = pd.concat(
        pd.DataFrame(
            {"layer": layer, "index": index, "criterion": DRAWN, "filter": range(len(numbers[layer])), "score": numbers[layer]}
        )
        for index, layer in enumerate(channels.convolutions, 1)
        if layer in numbers
    )
    return select(table, DRAWN, channels, replace(rule, normalise="none"))


def _drawn(
    channels: Channels, family: Family, ranking: Mapping[str, np.ndarray], window: Window, words: tuple[int, int]
) -> dict[tuple[str, int], float]:
    """A random number below 1 for every unit, 1 more for those outside the window; its first filter bears it."""
    places = ranked(channels, family, ranking)
    inside = within(len(places), window)
    held = {member for unit, is_in in zip(places, inside, strict=True) if is_in for member in _members(unit)}
    order = permutation(len(family.units), *words, *family.layers[0].encode()).tolist()
    found: dict[tuple[str, int], float] = {}
    for unit, number in zip(family.units, order, strict=True):
        first = next(member for member in _members(unit) if member[0] in ranking)
        found[first] = number / len(order) + (first not in held)
    return found


def _members(unit: Unit) -> list[tuple[str, int]]:
    return [(layer, number) for layer, numbers in unit.filters.items() for number in numbers]


def _shown(window: Window) -> str:
    return f"runner.window=[{','.join(f'{bound:g}' for bound in window)}]"
