"""What a criterion may ask to see of one convolution, and how it says so: by the annotation of its `layer` argument."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, get_type_hints

import torch
from jaxtyping import Float, Float64
from torch import Tensor

# Squared distances below this share of the squared lengths have lost half of their digits to cancellation.
CANCELS = 1e-7
Scores = Float64[Tensor, " out"]
Criterion = Callable[..., Scores]


@dataclass(frozen=True)
class Weights:
    """The weights of one layer, output channels first; what several criteria need of them is computed once."""

    weight: Float[Tensor, "out *kernel"]

    @cached_property
    def filters(self) -> Float64[Tensor, "out d"]:
        """One filter a row.  [weight units]"""
        return self.weight.detach().flatten(1).double()

    @cached_property
    def gram(self) -> Float64[Tensor, "out out"]:
        """Inner products of the filters about their mean: far from the origin, only the differences matter."""
        centred = self.filters - self.filters.mean(0)
        return centred @ centred.T

    @cached_property
    def distances(self) -> Float64[Tensor, "out out"]:
        """Euclidean distances between all filters.  [weight units]

        From the Gram matrix; the few pairs so near that their squares cancel in it are taken from the filters.
        """
        squares = self.gram.diagonal()
        sums = squares[:, None] + squares
        squared = (sums - 2 * self.gram).clamp(min=0)
        near = (squared < CANCELS * sums).fill_diagonal_(False)
        distances = squared.sqrt().fill_diagonal_(0)
        if len(rows := near.any(1).nonzero()[:, 0]):
            block = torch.cdist(self.filters[rows], self.filters[rows], compute_mode="donot_use_mm_for_euclid_dist")
            distances[near] = torch.zeros_like(distances).index_put((rows[:, None], rows), block)[near]
        return distances


VIEWS: tuple[type, ...] = (Weights,)


def needs(criterion: Criterion) -> type:
    """The view a criterion asks for.

    Raises:
        TypeError: no annotated `layer` argument, an unknown view, or a keyword the criterion does not take.
    """
    function = criterion.func if isinstance(criterion, partial) else criterion
    name = getattr(function, "__name__", type(function).__name__)
    signature = inspect.signature(function)
    keywords: dict[str, Any] = criterion.keywords if isinstance(criterion, partial) else {}
    if unknown := sorted(set(keywords) - set(signature.parameters)):
        raise TypeError(f"{name} takes no keyword {unknown}; it takes {list(signature.parameters)[1:]}")
    view = get_type_hints(function).get("layer")
    if view not in VIEWS:
        raise TypeError(f"{name} must annotate its argument 'layer' with one of {[v.__name__ for v in VIEWS]}")
    return view
