"""Recipes: length, learning rate, regularisation, and their checks before anything is trained."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from runners.augmenting.changes import Changes
from runners.augmenting.draws import Draws, Erase, Mix, Policy
from runners.process.errors import ConfigError
from runners.training.penalty import Penalty


@dataclass(frozen=True)
class Recipe:
    """Length and settings of a training.

    Args:
        batch_size: images of a step, at least two for BatchNorm.
        lr: the learning rate that `schedule` multiplies.
        schedule: (time in epochs, epochs) -> factor, asked before every step.
        augment: crop and mirror training images as the data set says.
        label_smoothing: share of the target that all classes get alike.
        policy: changes the pixels of cropped training images (AutoAugment).
        erase: changes normalised training images (Cutout).
        mix: makes one batch of two, images and targets (Mixup, CutMix).
        penalty: adds to the gradients of a step, before the weights change.
    """

    epochs: Annotated[int, Ge(0)]
    batch_size: Annotated[int, Ge(2)]
    lr: Annotated[float, Gt(0)]
    weight_decay: Annotated[float, Ge(0)]
    schedule: Callable[[float, int], float]
    augment: bool = True
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0
    policy: Policy | None = None
    erase: Erase | None = None
    mix: Mix | None = None
    penalty: Penalty | None = None

    @property
    def changes(self) -> Changes:
        """Changes of training images, in the step."""
        return Changes(self.augment, self.policy, self.erase, self.mix)

    def rate(self, time: float) -> float:
        """The learning rate after `time` epochs."""
        return self.lr * self.schedule(time, self.epochs)


def check_recipe(recipe: Recipe, optimizer: Callable[..., Optimizer], label: str, n_images: int) -> None:
    """Refuses, before anything is trained, a recipe at which the first step or the last batch would fail.

    Raises:
        ConfigError: arguments that the optimizer or the schedule does not take, or a batch size that leaves a last batch
            of one image (BatchNorm needs two).
    """
    try:
        # The rate lies in a tensor, so that a captured step can follow the schedule.
        weight = torch.zeros(1, requires_grad=True)
        update = optimizer([weight], lr=torch.tensor(recipe.lr), weight_decay=recipe.weight_decay)
        weight.grad = torch.zeros(1)
        update.step()
        recipe.rate(0.0)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the optimizer or {label}.schedule cannot be used ({error}); their keys must fit; see --cfg job"
        ) from error
    if recipe.epochs and _last_batch(n_images, recipe.batch_size) == 1:
        better = next(size for size in count(recipe.batch_size + 1) if _last_batch(n_images, size) > 1)
        raise ConfigError(
            f"{label}.batch_size={recipe.batch_size} leaves a last batch of one image out of {n_images:,}; BatchNorm "
            f"needs two; choose {label}.batch_size={better}"
        )


def check_changes(changes: Changes, label: str, example: Float[Tensor, "1 channels h w"]) -> None:
    """Refuses, before anything is trained, changes that cannot be made to images of this size.

    Raises:
        ConfigError: a policy, erase or mix that fails.
    """
    x, draws = torch.zeros(2, *example.shape[1:]), Draws(torch.arange(2), torch.tensor(0))
    trials = {
        "policy": changes.policy and partial(changes.policy, x.to(torch.uint8), draws),
        "erase": changes.erase and partial(changes.erase, x, draws),
        "mix": changes.mix and partial(changes.mix, x, torch.arange(2), draws),
    }
    for place, trial in trials.items():
        try:
            if trial:
                trial()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"{label}.{place} cannot be used ({error}); it must fit images of {'x'.join(map(str, x.shape[1:]))}; change "
                f"its options or leave {place}@{label}.{place} out"
            ) from error


def _last_batch(n_images: int, batch_size: int) -> int:
    return n_images % batch_size or batch_size
