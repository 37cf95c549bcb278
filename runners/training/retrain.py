"""Training the pruned shape from new weights, for as long or as much as the full network was trained."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import ceil

from torch import nn

from runners.data.splits import Splits
from runners.measuring.cost import macs
from runners.storage.resume import Checkpoints
from runners.training.fit import Fitted
from runners.training.recipe import Recipe


def scratch_b(
    network: nn.Module, splits: Splits, checkpoints: Checkpoints, *, fit: Callable[..., Fitted], recipe: Recipe, full: nn.Module
) -> Fitted:
    """`network` trained by `recipe`, stretched until it has cost the multiply-adds that `full` costs by it.

    Source:
        Liu et al. 2019, "Rethinking the value of network pruning", section 3: Scratch-B.
    """
    factor = macs(full, splits.example) / macs(network, splits.example)
    return fit(network, splits, checkpoints, recipe=stretched(recipe, factor))


def stretched(recipe: Recipe, factor: float) -> Recipe:
    """The recipe over `factor` times as many epochs (rounded up), its schedule stretched alike."""
    epochs = ceil(recipe.epochs * factor - 1e-9)
    if not recipe.epochs:
        return recipe
    return replace(recipe, epochs=epochs, schedule=partial(_slower, recipe.schedule, epochs=recipe.epochs))


def _slower(schedule: Callable[[float, int], float], time: float, longer: int, *, epochs: int) -> float:
    return schedule(time * epochs / longer, epochs)
