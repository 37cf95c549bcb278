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
        point = torch.stack(medians).mean(0)
        return Median(point, _residual(filters, (point - mean) / scale))
    point = _weiszfeld(layer.gram / scale**2) @ filters
    if _residual(filters, point) > TOLERANCE:
        point = _newton(filters, point)
    return Median(mean + scale * point, _residual(filters, point))


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


def _newton(filters: Float64[Tensor, "out d"], point: Float64[Tensor, " d"]) -> Float64[Tensor, " d"]:
    """Newton's method in the filters' own subspace; a step is halved until the gradient shrinks."""
    _, sizes, axes = torch.linalg.svd(filters, full_matrices=False)
    axes = axes[sizes > sizes[0] * _EPS]
    rows, x = filters @ axes.T, axes @ point

    def gradient(x: Float64[Tensor, " r"]) -> tuple[Float64[Tensor, " r"], Float64[Tensor, "r r"]]:
        away = rows - x
        distances = away.norm(dim=1).clamp(min=_EPS)
        units = away / distances[:, None]
        curvature = (1 / distances).sum() * torch.eye(len(x), dtype=x.dtype, device=x.device)
        return -units.sum(0), curvature - units.T @ (units / distances[:, None])

    slope, curvature = gradient(x)
    for _ in range(NEWTON_STEPS):
        if slope.norm() <= TOLERANCE * len(rows) / 10:
            break
        step = torch.linalg.lstsq(curvature, -slope[:, None], driver="gelsd" if x.device.type == "cpu" else None)
        for halving in range(60):
            trial = x + step.solution[:, 0] / 2**halving
            slope_there, curvature_there = gradient(trial)
            if slope_there.norm() < slope.norm():
                x, slope, curvature = trial, slope_there, curvature_there
                break
        else:
            break
    return x @ axes
