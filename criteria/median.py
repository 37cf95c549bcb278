"""The point with the smallest sum of distances to the filters of a layer."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from criteria.layer import Weights

TOLERANCE = 1e-9
MAX_ITERATIONS = 2000
_EPS = 1e-12


@dataclass(frozen=True)
class Median:
    """A geometric median and the proof of it.

    Args:
        point: the median.  [weight units]
        residual: norm of the mean unit vector from the filters to `point` (the gradient of the mean distance);
            0 at a filter that passed the vertex test.  [0..1]
    """

    point: Float64[Tensor, " d"]
    residual: float


def geometric_median(layer: Weights) -> Median:
    """The Fermat point of the filters: argmin over P of the sum of |F_j - P|.

    The filter with the smallest sum of distances is the median if the unit vectors from it to the other filters sum
    to no more than its own multiplicity (the vertex test). Otherwise Weiszfeld's iteration runs from the mean on
    barycentric coordinates, for which the Gram matrix is enough, and its end is checked against the filters
    themselves; where the Gram matrix was too coarse (a median very near a filter), the iteration goes on on them.

    Source:
        Weiszfeld 1937; Vardi & Zhang 2000 (vertex test and the step that leaves a filter).
    """
    filters = layer.filters
    nearest = filters[layer.distances.sum(1).argmin()]
    pull, n_here = _pull(filters, nearest)
    if pull.norm() <= n_here:
        return Median(nearest, 0.0)
    point, residual = _weiszfeld_on_gram(layer.gram) @ filters, math.inf
    for _ in range(MAX_ITERATIONS):
        pull, n_here = _pull(filters, point)
        residual = float((pull.norm() - n_here).clamp(min=0)) / len(filters)
        if residual <= TOLERANCE:
            break
        share = max(0.0, 1 - n_here / float(pull.norm()))
        point = point + share * pull / _inverse_distances(filters, point).sum()
    return Median(point, residual)


def _inverse_distances(filters: Float64[Tensor, "out d"], point: Float64[Tensor, " d"]) -> Float64[Tensor, " out"]:
    """1 / distance, and 0 for the filters that lie on the point."""
    distances = (filters - point).norm(dim=1)
    return torch.where(distances > _EPS, 1 / distances, 0.0)


def _pull(filters: Float64[Tensor, "out d"], point: Float64[Tensor, " d"]) -> tuple[Float64[Tensor, " d"], int]:
    """Sum of the unit vectors from `point` to the filters away from it, and how many filters lie on it."""
    inverse = _inverse_distances(filters, point)
    return inverse @ (filters - point), int((inverse == 0).sum())


def _weiszfeld_on_gram(gram: Float64[Tensor, "out out"]) -> Float64[Tensor, " out"]:
    """Barycentric coordinates of the median, as far as the Gram matrix tells."""
    squares = gram.diagonal()
    share = torch.full_like(squares, 1 / len(squares))
    for _ in range(MAX_ITERATIONS):
        towards = gram @ share
        distances = (squares - 2 * towards + share @ towards).clamp(min=0).sqrt().clamp(min=_EPS)
        inverse = 1 / distances
        step = share - inverse / inverse.sum()
        residual = inverse.mean() * (step @ gram @ step).clamp(min=0).sqrt()
        share = share - step
        if residual <= TOLERANCE / 10:
            break
    return share
