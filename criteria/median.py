"""The point with the smallest sum of distances to the filters of a layer."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from criteria.layer import Weights

TOLERANCE = 1e-9
WEISZFELD_STEPS = 200
NEWTON_STEPS = 100
_EPS = 1e-12


@dataclass(frozen=True)
class Median:
    """A geometric median and the proof of it.

    Args:
        point: the median.  [weight units]
        residual: norm of the mean unit vector from `point` to the filters, less the share of filters that lie on it:
            the smallest subgradient of the mean distance, 0 at a median.  [0..1]
    """

    point: Float64[Tensor, " d"]
    residual: float


def geometric_median(layer: Weights) -> Median:
    """The Fermat point of the filters: argmin over P of the sum of |F_j - P|.

    Where many points are medians (two filters, an even number on a line), it is the mean if that is one, else the centre
    of the filters that are. Otherwise Weiszfeld's iteration runs from the mean; where it crawls, because the median lies
    just beside a filter, Newton's finishes. The residual is checked on the filters themselves.

    Source:
        Weiszfeld 1937; the test whether a filter is the median: Kuhn 1973, Vardi & Zhang 2000.
    """
    mean = layer.filters.mean(0)
    scale = float((layer.filters - mean).abs().max())
    if scale == 0:
        return Median(mean, 0.0)
    filters = (layer.filters - mean) / scale
    if (residual := _residual(filters, torch.zeros_like(mean))) <= TOLERANCE:
        return Median(mean, residual)
    # A filter can only be a median if no other has a smaller sum of distances.
    sums = layer.distances.sum(1)
    nearest = layer.filters[sums <= sums.min() * (1 + _EPS)].unique(dim=0)
    if medians := [filter for filter in nearest if _residual(filters, (filter - mean) / scale) <= TOLERANCE]:
        centre = torch.stack(medians).mean(0)
        if (residual := _residual(filters, (centre - mean) / scale)) <= TOLERANCE:
            return Median(centre, residual)
    point = _weiszfeld(layer.gram / scale**2) @ filters
    if (residual := _residual(filters, point)) > TOLERANCE:
        point, residual = _newton(filters, point)
    return Median(mean + scale * point, residual)


def _residual(filters: Float64[Tensor, "out d"], point: Float64[Tensor, " d"]) -> float:
    """Norm of the mean unit vector from `point`, less the share of filters on it."""
    away = filters - point
    distances = away.norm(dim=1)
    here = distances <= _EPS
    units = torch.where(here, 0.0, 1 / distances) @ away
    return float((units.norm() - here.sum()).clamp(min=0)) / len(filters)


def _weiszfeld(gram: Float64[Tensor, "out out"]) -> Float64[Tensor, " out"]:
    """The median's shares of the filters, from their inner products: no step touches the filters."""
    squares = gram.diagonal()
    share = torch.full_like(squares, 1 / len(squares))
    for _ in range(WEISZFELD_STEPS):
        towards = gram @ share
        distances = (squares - 2 * towards + share @ towards).clamp(min=_EPS**2).sqrt()
        inverse = 1 / distances
        step = inverse / inverse.sum() - share
        share = share + step
        if inverse.mean() * (step @ gram @ step).clamp(min=0).sqrt() <= TOLERANCE / 10:
            break
    return share


def _newton(filters: Float64[Tensor, "out d"], point: Float64[Tensor, " d"]) -> tuple[Float64[Tensor, " d"], float]:
    """Newton's method in the filters' own subspace, and its residual; a step is halved until the gradient shrinks.

    Coordinates start at the filter nearest to the median, which may lie closer to it than sums of coordinates resolve.
    """
    origin = filters[(filters - point).norm(dim=1).argmin()]
    _, sizes, axes = torch.linalg.svd(filters - origin, full_matrices=False)
    axes = axes[sizes > sizes[0] * _EPS]
    rows, x = (filters - origin) @ axes.T, axes @ (point - origin)

    def derivatives(x: Float64[Tensor, " r"]) -> tuple[Float64[Tensor, " r"], Float64[Tensor, "r r"]]:
        away = rows - x
        inverse = 1 / away.norm(dim=1).clamp(min=_EPS**2)
        units = away * inverse[:, None]
        curvature = inverse.sum() * torch.eye(len(x), dtype=x.dtype, device=x.device)
        return -units.mean(0), (curvature - units.T @ (units * inverse[:, None])) / len(rows)

    slope, curvature = derivatives(x)
    for _ in range(NEWTON_STEPS):
        if slope.norm() <= TOLERANCE / 10:
            break
        step = -torch.linalg.pinv(curvature, hermitian=True) @ slope
        trials = ((trial, *derivatives(trial)) for trial in (x + step / 2**halving for halving in range(60)))
        better = next((trial for trial in trials if trial[1].norm() < slope.norm()), None)
        if better is None:
            break
        x, slope, curvature = better
    return origin + x @ axes, float(slope.norm())
