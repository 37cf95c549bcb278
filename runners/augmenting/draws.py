"""Random numbers for the images of a step, and the three kinds of changes that use them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from runners.process.counter import fold, ordered, random_bits, random_integers


@dataclass(frozen=True)
class Draws:
    """Random numbers of a step: functions of its images, of an epoch's word, and of which draw it is.

    The same image has the same numbers in an epoch whatever batch it is in. All of it is work on the device.

    Args:
        index: of the images in their split.
        word: of the training and the epoch (`fold`).
    """

    index: Int64[Tensor, " images"]
    word: Int64[Tensor, ""]

    @property
    def once(self) -> "Draws":
        """Draws that all images of the step share: those of its first image."""
        return replace(self, index=self.index[:1])

    def bits(self, which: int) -> Int64[Tensor, " images"]:
        """32 random bits for every image; other bits for every `which`.  [0 .. 2^32 - 1]"""
        return random_bits(self.index, self.word ^ fold(which))

    def integers(self, below: int, which: int) -> Int64[Tensor, " images"]:
        """A uniform whole number in [0, `below`) for every image."""
        return random_integers(self.index, below, self.word ^ fold(which))

    def uniform(self, which: int) -> Float[Tensor, " images"]:
        """A uniform number in [0, 1) for every image, a multiple of 2^-24."""
        return (self.bits(which) >> 8).float() * 2**-24

    def permutation(self, which: int) -> Int64[Tensor, " images"]:
        """A random order of the images of the step, by their places in it."""
        return ordered(self.bits(which))


class Mixture(NamedTuple):
    """Targets of a batch in which every image is made of two: the share of `labels`, and the rest of `partners`."""

    labels: Int64[Tensor, " images"]
    partners: Int64[Tensor, " images"]
    share: Float[Tensor, " images"]


Targets = Int64[Tensor, " images"] | Mixture
Pixels = UInt8[Tensor, "images channels h w"]
Normalised = Float[Tensor, "images channels h w"]
Policy = Callable[[Pixels, Draws], Pixels]
Erase = Callable[[Normalised, Draws], Normalised]
Mix = Callable[[Normalised, Int64[Tensor, " images"], Draws], tuple[Normalised, Mixture]]
