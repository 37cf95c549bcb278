"""Filters drawn at random: from all of a layer, or from those whose scores lie in a window."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from runners.process.counter import permutation
from runners.process.errors import ConfigError
from runners.selection.draft import Plan
from runners.selection.going import UnitScores, in_steps, units_to_go
from runners.selection.rule import exact
from runners.selection.select import selection, unit_scores

Window = Sequence[float]


def check_window(plan: Plan, window: Window, *, needs_choice: bool) -> None:
    """Refuses, before anything is trained, a window that cannot be drawn from; it depends on counts alone.

    Args:
        needs_choice: draws that must all be the same are refused, too.

    Raises:
        ConfigError: no window, layers are pooled, a window holds fewer filters than must go, or no layer has a choice.
    """
    if window[0] >= window[1]:
        raise ConfigError(f"{_shown(window)} is empty; a lower and a higher quantile are allowed; try runner.window=[0,1]")
    if plan.counts is None:
        raise ConfigError(
            f"scope={plan.rule.scope} ratio_of={plan.rule.ratio_of} cannot be used with random filters in each layer; each "
            "loses its own share of filters; try scope=layer ratio_of=filters"
        )
    units = plan.units
    _, gone = units_to_go(plan, np.zeros(len(units.group)))
    counts = np.bincount(units.family[gone], minlength=len(units.families)) // units.kinds
    choice = False
    for layers, steps, going in zip(units.families, units.steps.tolist(), counts.tolist(), strict=True):
        held = int(within(steps, window).sum())
        if held < going:
            raise ConfigError(
                f"{_shown(window)} holds {held} of the {steps} filters of {layers[0]}, of which {going} must go; "
                "it must hold as many; widen it, or lower ratio"
            )
        choice |= 0 < going < held
    if needs_choice and not choice:
        raise ConfigError(
            f"{_shown(window)} leaves nothing to chance: every layer loses none or all of the filters in it; some layer needs "
            "a choice; widen it, change ratio, or take runner.vary=[seeds]"
        )


def within(n_filters: int, window: Window) -> np.ndarray:
    """True at the places of a layer, lowest score first, whose filters lie in the window of quantiles.

    The filter at place p, from 0 on, is the quantile (p + 1/2) / n. In exact decimals, so that windows which meet share
    a filter only where its quantile is the very bound.
    """
    low, high = (2 * n_filters * exact(bound) for bound in window)
    place = 2 * np.arange(n_filters) + 1
    return (place >= math.ceil(low)) & (place <= math.floor(high))


def draw(scores: pd.DataFrame, criterion: str, plan: Plan, *, window: Window, seed: int, repeat: int) -> pd.DataFrame:
    """A selection of as many filters as the plan removes, at random within `window` of the criterion's scores.

    A function of the seed, the layer and the repeat; with all filters in the window, of nothing else. Filters that are
    tied, or must go in equal counts, are drawn as they are ranked: together.

    Source:
        Huang et al. 2021, table 4, which does not say how the criterion enters the draw: the window is our reading.
    """
    return selection(plan, _drawn(plan, unit_scores(plan, scores, criterion), window, (seed, repeat)))


def _drawn(plan: Plan, scores: UnitScores, window: Window, words: tuple[int, int]) -> UnitScores:
    """Units inside the window get a random rank in [0, 1), those outside in [1, 2)."""
    units, steps = plan.units, in_steps(plan.units, scores)
    inside = np.concatenate([np.zeros(0, dtype=bool), *(within(n, window) for n in units.steps.tolist())])
    ranks = np.ones(len(units.group))
    ranks[steps.of(np.flatnonzero(inside))] = 0
    for family, layers in enumerate(units.families):
        own = np.flatnonzero(units.family == family)
        ranks[own] += permutation(len(own), *words, *layers[0].encode()).numpy() / len(own)
    return ranks


def _shown(window: Window) -> str:
    return f"runner.window=[{','.join(f'{bound:g}' for bound in window)}]"
