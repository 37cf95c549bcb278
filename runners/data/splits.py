"""The three parts of a data set, and the seeded choice of the part that scores filters."""

from dataclasses import dataclass
from decimal import Decimal

import torch
from jaxtyping import Float
from torch import Tensor

from runners.data.counter import permutation
from runners.data.resident import Images
from runners.process.errors import DataError


@dataclass(frozen=True)
class Splits:
    """What a runner gets of a data set: `score` is a fixed part of `train`, and `test` only ever measures."""

    train: Images
    score: Images
    test: Images

    @property
    def example(self) -> Float[Tensor, "1 channels h w"]:
        """One normalised image, for tracing and timing."""
        return self.train.normalise(self.train.pixels[:1])

    def to(self, device: torch.device) -> "Splits":
        """The same splits on `device`."""
        return Splits(self.train.to(device), self.score.to(device), self.test.to(device))


def make_splits(train: Images, test: Images, *, num_classes: int, channels: int, score_share: float, seed: int) -> Splits:
    """Splits with `score_share` of the training images set apart (not taken away) for scoring.

    Raises:
        DataError: an empty split, labels outside 0 .. `num_classes` - 1, images with another number of channels, or a
            normalisation of the wrong length.
    """
    for name, images in (("training", train), ("test", test)):
        _check(name, images, num_classes, channels)
    n_score = int(len(train) * Decimal(str(score_share)))
    if n_score < 2:
        raise DataError(
            f"dataset.score_share={score_share} of {len(train):,} training images is {n_score}; at least two must score; "
            "choose a larger share"
        )
    chosen = permutation(len(train), seed).to(train.pixels.device)[:n_score].sort().values
    return Splits(train, train.take(chosen), test)


def _check(name: str, images: Images, num_classes: int, channels: int) -> None:
    if not len(images):
        raise DataError(f"the {name} split is empty; at least one image is needed; look at the data set's files")
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"{name} labels run from {low} to {high}; dataset.num_classes={num_classes} allows 0 to {num_classes - 1}; "
            "set dataset.num_classes to what the files hold"
        )
    if images.pixels.shape[1] != channels:
        raise DataError(
            f"the {name} images have {images.pixels.shape[1]} channels and dataset.channels={channels}; they must agree; "
            "set dataset.channels to what the files hold"
        )
    if not len(images.mean) == len(images.std) == channels:
        raise DataError(
            f"dataset.mean has {len(images.mean)} and dataset.std {len(images.std)} values for {channels} channels; each "
            "needs one a channel; give as many"
        )
