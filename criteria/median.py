"""The point with the smallest sum of distances to the filters of a layer: their geometric median, or Fermat point.

>>> layer = Weights(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))  # three filters, two weights each
>>> layer.filters.mean(0)  # the mean: its distances are 0.471, 0.745 and 0.745, in sum 1.962
tensor([0.3333, 0.3333], dtype=torch.float64)
>>> geometric_median(layer).point  # the median: its distances are 0.299, 0.816 and 0.816, in sum 1.932, the least possible
tensor([0.2113, 0.2113], dtype=torch.float64)

From the median, the unit vectors to the filters sum to 0 (here they meet at 120 degrees); the length of their mean is the
residual, and proves it. A filter is the median itself if the unit vectors to all others sum to a length of at most 1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from criteria.layer import Weights

TOLERANCE = 1e-9
# The residual at which Weiszfeld's iteration stops; the step that follows usually gains two more digits.
STILL = 1e-12
WEISZFELD_STEPS = 200
NEWTON_STEPS = 100
_EPS = 1e-12
# Error of the length of a sum that follows from inner products, as a share of the lengths of its terms.
NOISE = 1e-6
# Squared distances above this share of the squared lengths keep twelve digits.
RESOLVED = 1e-4


@dataclass(frozen=True)
class Median:
    """A geometric median and its proof.

    Args:
        point: the median.  [weight units]
        residual: norm of the mean unit vector from `point` to the filters, less the share of filters that lie on it:
            the smallest subgradient of the mean distance, 0 at a median.  [0..1]
    """

    point: Float64[Tensor, " d"]
    residual: float


def geometric_median(layer: Weights) -> Median:
    """The Fermat point of the filters: argmin over P of the sum of |F_j - P|.

    Several points can be medians (two filters, or an even number on a line): then it is the mean if that is one of them, else
    the centre of the filters that are. Otherwise Weiszfeld's iteration starts at the mean. It is slow where the median lies
    just beside a filter; there Newton's method finishes. Both work on inner products; the residual is checked on the filters.

    Source:
        Weiszfeld 1937; the test whether a filter is the median: Kuhn 1973, Vardi & Zhang 2000.
    """
    scale = float(layer.gram.diagonal().amax().sqrt())
    if scale == 0:
        return Median(layer.filters.mean(0), 0.0)
    if found := _at_mean(layer, scale) or _at_filters(layer, scale):
        return found
    median = _from_shares(layer, _weiszfeld(layer.gram, scale), scale)
    if median.residual <= TOLERANCE:
        return median
    # The median may lie so close to a filter that sums of coordinates lose it: the nearest filter becomes the origin.
    nearest = layer.filters[(layer.filters - median.point).norm(dim=1).argmin()]
    point, residual = _newton((layer.filters - nearest) / scale, (median.point - nearest) / scale)
    return Median(nearest + scale * point, residual)


def _at_mean(layer: Weights, scale: float) -> Median | None:
    """The mean, if it is a median."""
    share = torch.full_like(layer.gram[0], 1 / len(layer.gram))
    if not _may_be_median(layer.gram, share, layer.gram.diagonal().sqrt(), scale):
        return None
    return _proved(layer, layer.filters.mean(0), scale)


def _at_filters(layer: Weights, scale: float) -> Median | None:
    """The centre of the filters that are medians, if it is one and there are any."""
    # A filter can only be a median if no other has a smaller sum of distances.
    sums = layer.distance_sums
    nearest = [
        number
        for number in (sums <= sums.min() * (1 + _EPS)).nonzero()[:, 0].tolist()
        if _may_be_median(layer.gram, _only(number, sums), layer.distances[number], scale)
    ]
    medians = [filter for filter in layer.filters[nearest].unique(dim=0) if _proved(layer, filter, scale)] if nearest else []
    return _proved(layer, torch.stack(medians).mean(0), scale) if medians else None


def _only(number: int, like: Float64[Tensor, " out"]) -> Float64[Tensor, " out"]:
    share = torch.zeros_like(like)
    share[number] = 1
    return share


def _may_be_median(
    gram: Float64[Tensor, "out out"], share: Float64[Tensor, " out"], distances: Float64[Tensor, " out"], scale: float
) -> bool:
    """False if the point with these shares of the filters cannot be a median, even with rounding errors of inner products.

    The pull on the point (the sum of unit vectors) is a combination of the filters too; inner products give its norm.
    """
    here = distances <= _EPS * scale
    pull = _pull(torch.where(here, 0.0, 1 / distances), share)
    noise = NOISE * (pull.abs() @ gram.diagonal().sqrt())
    return bool((pull @ gram @ pull).clamp(min=0).sqrt() <= here.sum() + TOLERANCE * len(gram) + noise)


def _pull(inverse: Float64[Tensor, " out"], share: Float64[Tensor, " out"]) -> Float64[Tensor, " out"]:
    """The sum of the unit vectors to the filters, as a combination of these, from their inverse distances."""
    return inverse - inverse.sum() * share


def _proved(layer: Weights, point: Float64[Tensor, " d"], scale: float) -> Median | None:
    """The point, if it is a median."""
    residual = _residual(layer.filters, point, scale)
    return Median(point, residual) if residual <= TOLERANCE else None


def _residual(filters: Float64[Tensor, "out d"], point: Float64[Tensor, " d"], scale: float) -> float:
    """Norm of the mean unit vector from `point`, less the share of filters on it."""
    away = filters - point
    distances = away.norm(dim=1)
    here = distances <= _EPS * scale
    units = torch.where(here, 0.0, 1 / distances) @ away
    return float((units.norm() - here.sum()).clamp(min=0)) / len(filters)


def _weiszfeld(gram: Float64[Tensor, "out out"], scale: float) -> Float64[Tensor, " out"]:
    """The median's shares of the filters, from their inner products: no step touches the filters."""
    squares = gram.diagonal().contiguous()
    share = torch.full_like(squares, 1 / len(squares))
    # From the mean, about which the inner products are.
    towards = torch.zeros_like(squares)
    for _ in range(WEISZFELD_STEPS):
        squared = squares - 2 * towards + share @ towards
        inverse = squared.clamp(min=(_EPS * scale) ** 2).rsqrt()
        step = inverse / inverse.sum() - share
        change = gram @ step
        share, towards = share + step, towards + change
        if inverse.mean() * (step @ change).clamp(min=0).sqrt() <= STILL:
            break
    return share


def _from_shares(layer: Weights, share: Float64[Tensor, " out"], scale: float) -> Median:
    """The point with these shares of the filters, and its residual; one pass over the filters gives both."""
    squares, towards = layer.gram.diagonal(), layer.gram @ share
    sums = squares + share @ towards
    squared = sums - 2 * towards
    sought = torch.stack([share, _pull(squared.rsqrt(), share)])
    mean, centred = layer.about_mean
    offset, pull = sought @ centred
    point = mean + offset
    if (squared < RESOLVED * sums).any():
        return Median(point, _residual(layer.filters, point, scale))
    return Median(point, float(pull.norm()) / len(share))


def _newton(filters: Float64[Tensor, "out d"], point: Float64[Tensor, " d"]) -> tuple[Float64[Tensor, " d"], float]:
    """Newton's method in the filters' own subspace, and its residual; a step is halved until the gradient shrinks."""
    _, sizes, axes = torch.linalg.svd(filters, full_matrices=False)
    axes = axes[sizes > sizes[0] * _EPS]
    rows, x = filters @ axes.T, axes @ point

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
    return x @ axes, float(slope.norm())
