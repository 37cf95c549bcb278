"""The views of one layer that a criterion may ask for, by the annotations of its arguments (`criteria.criterion`).

Seen once: `Label`, `Weights`, `BatchNorm`, `Gradients`. Seen batch by batch of images: `Inputs`, `Activations`, `Gates`,
`BatchGradients`. A view that no criterion asks for is not computed.
"""

from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float64, Int64
from threadpoolctl import ThreadpoolController
from torch import Tensor

from criteria.compiled import product_sums

if TYPE_CHECKING:
    from criteria.median import Median

# Squared distances below this share of the squared lengths have lost half of their digits to cancellation.
CANCELS = 1e-7
ROWS = 96  # of distances at a time, so that they stay in the cache
CHUNK = 16  # images at a time, so that their feature maps stay in the cache
Scores = Float64[Tensor, " out"]


@dataclass(frozen=True)
class Label:
    """The place of a layer in its network, for criteria that look at no weight."""

    name: str
    num_filters: int


@dataclass(frozen=True)
class Weights:
    """The weights of one layer, output channels first; numbers that several criteria need are computed once."""

    weight: Float[Tensor, "out *kernel"]

    @cached_property
    def filters(self) -> Float64[Tensor, "out d"]:
        """One filter a row.  [weight units]"""
        return self.weight.detach().flatten(1).double()

    @cached_property
    def about_mean(self) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "out d"]]:
        """The mean filter, and the filters about it: far from the origin, only the differences matter.  [weight units]"""
        precise = self.weight.detach().flatten(1).to(torch.float64, copy=True)
        mean = precise.mean(0)
        return mean, precise.sub_(mean)

    @cached_property
    def gram(self) -> Float64[Tensor, "out out"]:
        """Inner products of the filters about their mean."""
        _, centred = self.about_mean
        if centred.is_cuda:
            return centred @ centred.T
        # NumPy's BLAS, unlike torch's, makes each pair once.
        with _blas().limit(limits=torch.get_num_threads(), user_api="blas"):
            return torch.from_numpy(centred.numpy() @ centred.numpy().T)

    @cached_property
    def products(self) -> Float64[Tensor, "out out"]:
        """Inner products of the filters as they are."""
        mean, _ = self.about_mean
        along = self.filters @ mean
        return self.gram + along[:, None] + along - mean @ mean

    @cached_property
    def median(self) -> "Median":
        """The Fermat point of the filters, and how exact it is."""
        from criteria.median import geometric_median  # it takes this view

        return geometric_median(self)

    @cached_property
    def distances(self) -> Float64[Tensor, "out out"]:
        """Euclidean distances between all filters.  [weight units]

        From the Gram matrix. Where two filters are so near that the squares cancel in it, their difference is taken instead.
        """
        squares, distances, crowded = self.gram.diagonal(), torch.empty_like(self.gram), []
        for some, inner, mine in zip(*(each.split(ROWS) for each in (distances, self.gram, squares)), strict=True):
            sums = mine[:, None] + squares
            torch.sub(sums, inner, alpha=2, out=some)
            # Every filter is near itself.
            crowded.append((some < sums.mul_(CANCELS)).sum(1) > 1)
            some.clamp_(min=0).sqrt_()
        if len(rows := torch.cat(crowded).nonzero()[:, 0]):
            near = self.filters[rows]
            block = torch.cdist(near, near, compute_mode="donot_use_mm_for_euclid_dist")
            distances[rows[:, None], rows] = block
            # A matrix product may round differently in its last rows; equal filters take the first one's distances.
            first = rows[(block == 0).int().argmax(1)]
            distances[rows] = distances[first]
            distances[:, rows] = distances[:, first]
        return distances.fill_diagonal_(0)

    @cached_property
    def distance_sums(self) -> Scores:
        """Sum of the distances from each filter to all.  [weight units]"""
        return self.distances.sum(1)


@cache
def _blas() -> ThreadpoolController:
    """The library that multiplies matrices for NumPy."""
    return ThreadpoolController()


@dataclass(frozen=True)
class BatchNorm:
    """Scale and shift of the BatchNorm that reads the layer's output; a layer without one has no such view."""

    gamma: Float[Tensor, " out"]
    beta: Float[Tensor, " out"]


@dataclass(frozen=True)
class Gradients:
    """The weights of a layer and the gradient there of the mean cross-entropy over the scoring split."""

    weight: Float[Tensor, "out *kernel"]
    grad: Float[Tensor, "out *kernel"]

    @cached_property
    def sums(self) -> Float64[Tensor, "3 out"]:
        """Sum, sum of absolute values and sum of squares of gradient times weight of each filter.  [nats, nats, nats^2]

        Gradient times weight is the loss that goes with that weight, to first order.
        """
        kind = torch.promote_types(self.weight.dtype, torch.float32)
        weight, grad = (each.detach().flatten(1).to(kind) for each in (self.weight, self.grad))
        if weight.is_cuda:
            product = weight.double() * grad
            return torch.stack([product.sum(1), product.abs().sum(1), product.square().sum(1)])
        return torch.from_numpy(product_sums(weight.numpy(), grad.numpy()))


@dataclass(frozen=True)
class BatchGradients(Gradients):
    """As `Gradients`, of the mean cross-entropy over one batch of `images`."""

    images: int


@dataclass(frozen=True)
class Labelled:
    """The labels of one batch of images: part of every view of single images."""

    labels: Int64[Tensor, " images"] = field(kw_only=True)

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.labels)

    def cut(self, start: int, stop: int) -> "Labelled":
        """The same view of some of the images."""
        return replace(self, **{each.name: getattr(self, each.name)[start:stop] for each in fields(self)})


@dataclass(frozen=True)
class Inputs(Labelled):
    """One batch of what goes into a layer, without its padding."""

    input: Float[Tensor, "images in *space"]

    @cached_property
    def maps(self) -> Float[Tensor, "images in h w"]:
        """Input channels, one a map; as `Activations.maps`."""
        return _maps(self.input)


@dataclass(frozen=True)
class Activations(Labelled):
    """One batch of what a layer puts out, at the site that the criterion names."""

    output: Float[Tensor, "images out *space"]

    @cached_property
    def maps(self) -> Float[Tensor, "images out h w"]:
        """Feature maps, also of layers without a height (1 x w) or without any space (1 x 1)."""
        return _maps(self.output)

    @cached_property
    def averages(self) -> Float[Tensor, "images out"]:
        """Global average pooling."""
        return self.maps.mean((2, 3))


@dataclass(frozen=True)
class Gates(Activations):
    """One batch of outputs, and the gradient there of each image's own cross-entropy."""

    grad: Float[Tensor, "images out *space"]

    @cached_property
    def slopes(self) -> Float[Tensor, "images out"]:
        """Derivative of each image's loss by a gate of 1 that multiplies the whole feature map.  [nats]"""
        product = self.output * self.grad
        return product.sum(tuple(range(2, product.dim()))) if product.dim() > 2 else product


def _maps(values: Float[Tensor, "images channels *space"]) -> Float[Tensor, "images channels h w"]:
    """At least float32, with a height and a width."""
    precise = values.to(torch.promote_types(values.dtype, torch.float32))
    shape = (*precise.shape[:2], *[1] * max(0, 4 - precise.dim()), *precise.shape[2:])
    return precise.reshape(shape).flatten(3)


def filters_first(weight: Tensor, *, transposed: bool = False, groups: int = 1, legacy_dim0: bool = False) -> Tensor:
    """The weights of a layer with one filter (the kernels of one output channel) a row of the first dimension.

    Only a transposed convolution keeps its input channels there: (in, out / groups, ...) becomes (out, in / groups, ...).

    Args:
        legacy_dim0: leave it so, as the papers' DCGAN tables do (ICLR'21 tables 50 to 52: 100 x 8192).
    """
    if not transposed or legacy_dim0:
        return weight
    return torch.cat([part.transpose(0, 1) for part in weight.chunk(groups)])
