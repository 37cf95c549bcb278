"""The kinds of criterion: a function of one layer, or a class that sees batches of images.

A function `layer -> Scores` asks for one view of a layer (`criteria.layer`), a `DataCriterion` for one view of batches of
images as they pass; its `finish` may ask for one view of the layer as well. Three ways to write a criterion:

    l1(layer: Weights)                                               a function of the filters
    APoZ(MeanOverImages): score(self, batch: Activations)            a mean over images of each image's score
    Wanda(DataCriterion): reduce(self, batch: Inputs), finish(self, state, layer: Weights)
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, get_args, get_type_hints

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from criteria.layer import Activations, BatchGradients, BatchNorm, Gates, Gradients, Inputs, Label, Scores, Weights

Site = Literal["post_act", "conv_out"]


class DataCriterion(ABC):
    """A criterion that sees images: the state it keeps of a batch, and the scores that come of all states.

    The states of all batches are added; their size does not grow with the batches.

    Attributes:
        joins: the states are concatenated instead (one row an image).
        site: of `Activations` and `Gates`: behind BatchNorm and the activation function, or right behind the layer.
        images: number of images of the split that are looked at, the first ones; None is all. Gradients of batches always
            take all.
    """

    joins: ClassVar[bool] = False
    site: Site = "post_act"
    images: int | None = None

    @abstractmethod
    def reduce(self, batch: Any) -> Tensor:
        """The state of one batch."""

    @abstractmethod
    def finish(self, *args: Any, **kwargs: Any) -> Scores:
        """Scores from the states of all batches.

        A subclass writes `finish(self, state)`, or `finish(self, state, layer: Weights)` to see the layer too, by any of the
        views that a function may ask for.
        """


class MeanOverImages(DataCriterion):
    """A criterion that is the mean over images of a score of each image.

    Attributes:
        chunk: images at a time, where the work of one image is large and should stay in the cache; None is the batch.
    """

    chunk: ClassVar[int | None] = None

    @abstractmethod
    def score(self, batch: Any) -> Shaped[Tensor, "images out *space"]:
        """The score of each image.

        A score at each position is averaged over the positions too. A single row stands for all images of the batch.
        """

    def reduce(self, batch: Any) -> Float64[Tensor, "2 out"]:
        """Sum of the scores, and the number of them."""
        step = self.chunk or batch.images
        parts = [batch] if step >= batch.images else [batch.cut(at, at + step) for at in range(0, batch.images, step)]
        totals, numbers = zip(*(_summed(self.score(part), part.images) for part in parts), strict=True)
        total = torch.stack(totals).sum(0)
        return torch.stack([total, torch.full_like(total, sum(numbers))])

    def finish(self, state: Float64[Tensor, "2 out"]) -> Scores:
        """The mean."""
        return state[0] / state[1]


def _summed(scores: Shaped[Tensor, "rows out *space"], images: int) -> tuple[Scores, int]:
    """The sum of the scores of some images, and the number of scores."""
    by_row = scores.reshape(*scores.shape[:2], -1)
    stands_for = images // len(scores)
    return by_row.sum(2).sum(0, dtype=torch.float64) * stands_for, by_row[:, 0].numel() * stands_for


LayerCriterion = Callable[..., Scores]
Criterion = LayerCriterion | DataCriterion
LAYER_VIEWS: tuple[type, ...] = (Label, Weights, BatchNorm, Gradients)
BATCH_VIEWS: tuple[type, ...] = (Inputs, Activations, Gates, BatchGradients)


def needs(criterion: Criterion) -> type:
    """The view that a function asks for, or a data criterion of every batch.

    Raises:
        TypeError: no annotated `layer` (or `batch`) argument, an unknown view, or a keyword the criterion does not take.
    """
    if isinstance(criterion, DataCriterion):
        if criterion.site not in get_args(Site):
            raise TypeError(f"site is {criterion.site!r}; it takes {list(get_args(Site))}")
        method = "score" if isinstance(criterion, MeanOverImages) else "reduce"
        name = f"{type(criterion).__name__}.{method}"
        return _declared(getattr(type(criterion), method), "batch", BATCH_VIEWS, name)
    function = criterion.func if isinstance(criterion, partial) else criterion
    name = getattr(function, "__name__", type(function).__name__)
    if isinstance(function, type) and issubclass(function, DataCriterion):
        raise TypeError(f"{name} is a class, and is built at once: leave _partial_ out")
    taken = list(inspect.signature(function).parameters)
    if unknown := sorted(set(criterion.keywords if isinstance(criterion, partial) else ()) - set(taken)):
        raise TypeError(f"{name} takes no keyword {unknown}; it takes {taken[1:]}")
    return _declared(function, "layer", LAYER_VIEWS, name)


def needs_of_layer(criterion: Criterion) -> type | None:
    """The view of the layer that a function asks for, or a data criterion's `finish`; None where that sees the state alone.

    Raises:
        TypeError: as `needs`.
    """
    if not isinstance(criterion, DataCriterion):
        return needs(criterion)
    finish = type(criterion).finish
    if len(inspect.signature(finish).parameters) <= 2:  # self, state
        return None
    return _declared(finish, "layer", LAYER_VIEWS, f"{type(criterion).__name__}.finish")


def _declared(function: Callable[..., Any], argument: str, views: tuple[type, ...], name: str) -> type:
    view = get_type_hints(function).get(argument)
    if view not in views:
        raise TypeError(f"{name} must annotate its argument {argument!r} with one of {[v.__name__ for v in views]}")
    return view
