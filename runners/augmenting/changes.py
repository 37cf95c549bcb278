"""Changes of training images that a recipe asks for, and their order in a step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from runners.augmenting.draws import Draws, Erase, Mix, Normalised, Pixels, Policy, Targets
from runners.process.counter import fold

# Random words of an epoch, by their numbers: each use has its own, so that no draw of one is a draw of another.
CROP_WORDS = (1, 2, 3)  # down, right, mirror image
CHANGE_WORDS = (4, 5, 6)  # policy, erase, mix


@dataclass(frozen=True)
class Changes:
    """Changes of training images: crop and mirror image, policy, normalisation, erase, mix, in this order.

    Args:
        augment: crop and mirror images as the data set says.
    """

    augment: bool = False
    policy: Policy | None = None
    erase: Erase | None = None
    mix: Mix | None = None

    def make(
        self,
        pixels: Pixels,
        labels: Int64[Tensor, " images"],
        *,
        index: Int64[Tensor, " images"],
        words: Int64[Tensor, " 3"],
        normalise: Callable[[Pixels], Normalised],
    ) -> tuple[Normalised, Targets]:
        """The network's input and its targets, out of images that are already cropped.

        Args:
            index: of the images in their split.
            words: of the epoch, for `CHANGE_WORDS`.
        """
        of_policy, of_erase, of_mix = (Draws(index, word) for word in words)
        if self.policy:
            pixels = self.policy(pixels, of_policy)
        x = normalise(pixels)
        if self.erase:
            x = self.erase(x, of_erase)
        return self.mix(x, labels, of_mix) if self.mix else (x, labels)


def epoch_words(stream: int, epoch: int, which: Sequence[int]) -> Int64[Tensor, " words"]:
    """The random words of an epoch with these numbers."""
    return torch.tensor([fold(fold(stream, epoch), number) for number in which])
