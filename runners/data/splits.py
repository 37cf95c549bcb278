"""The three parts of a data set, made from raw images: normalisation, random labels and the part that scores filters."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from runners.data.raw import Files, Pixels, Raw
from runners.data.resident import Images
from runners.data.streamed import Streamed
from runners.process.counter import fold, permutation, random_integers
from runners.process.errors import ConfigError, DataError

S = TypeVar("S", bound=Images | Streamed)
Labels = Literal["given", "random"]
DESCRIPTIONS = ("about", "images", "part_of")  # keys of a data set's YAML that are for people


@dataclass(frozen=True)
class Splits(Generic[S]):
    """The splits a runner gets of a data set: `score` is a fixed part of `train`, and `test` only ever measures."""

    train: S
    score: S
    test: S
    read: tuple[Path, ...] = ()

    @property
    def example(self) -> Float[Tensor, "1 channels h w"]:
        """One normalised image, for tracing and timing."""
        return self.train.example

    def to(self, device: torch.device) -> "Splits":
        """The same splits on `device`."""
        return replace(self, train=self.train.to(device), score=self.score.to(device), test=self.test.to(device))

    def content(self) -> str:
        """Hash of the images and labels, so that other data under the same name is other data."""
        found = hashlib.sha256()
        for split in (self.train, self.test):
            for part in split.content():
                found.update(part)
        return found.hexdigest()


def parted(dataset: Callable[..., Raw], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys of a data set's YAML that `dataset` names, and those that `make_splits` names; some are in both.

    Raises:
        ConfigError: a key that neither takes, or an argument without a key.
    """
    parameters = [inspect.signature(function).parameters for function in (dataset, make_splits)]
    known = dict.fromkeys(("_target_", "raw", *DESCRIPTIONS)) | dict(parameters[0]) | dict(parameters[1])
    if unknown := sorted(set(given) - set(known)):
        raise ConfigError(f"dataset.{unknown[0]} is no option; {dataset.__name__} does not take it; leave it out")
    needed = {key for each in parameters for key, parameter in each.items() if parameter.default is parameter.empty}
    if missing := sorted(needed - set(given) - {"raw"}):
        raise ConfigError(f"dataset.{missing[0]} has no value; {dataset.__name__} needs one; add dataset.{missing[0]}=...")
    own, common = ({key: value for key, value in given.items() if key in each} for each in parameters)
    return own, common


def load(dataset: Callable[..., Raw], given: Mapping[str, Any]) -> Splits:
    """The splits of a data set by the keys of its YAML.

    Raises:
        ConfigError: as `parted`.
        DataError: as `dataset` and `make_splits`.
    """
    own, common = parted(dataset, given)
    return make_splits(dataset(**own), **common)


def relabelled(raw: Raw, labels: Labels, seed: int) -> Raw:
    """The images with their labels, or with a permutation of them that depends on `seed` alone, for each part its own.

    Every class keeps its number of images; whatever a network learns of permuted labels it has memorised (Zhang et al. 2017,
    section 2).
    """
    if labels == "given":
        return raw
    train, test = (
        replace(part, labels=part.labels[permutation(len(part.labels), fold(seed, *b"labels"), place)])
        for place, part in enumerate((raw.train, raw.test))
    )
    return replace(raw, train=train, test=test)


def make_splits(
    raw: Raw,
    *,
    num_classes: int,
    channels: int,
    score_share: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int,
    train_images: Annotated[int, Ge(2)] | None = None,
    random_labels: float = 0,
    crop_padding: int = 0,
    flip: bool = False,
) -> Splits:
    """Splits with `score_share` of the training images set apart (not taken away) for scoring.

    Args:
        train_images: so many of the training images, drawn by `seed`, from all classes alike; null takes all.
        random_labels: share of the training images whose label is drawn at random from all classes, the right one too.
        crop_padding: of training images in memory, as in `Images`; files are cropped by their `crop_scale`.
        flip: mirror every second training image, at random.

    Raises:
        ConfigError: `crop_padding` of files.
        DataError: an empty split, fewer than `train_images`, labels outside 0 .. `num_classes` - 1, training images of one
            class only, images with another number of channels, or a normalisation of the wrong length.
    """
    for name, part in (("training", raw.train), ("test", raw.test)):
        _check(name, part, num_classes, channels)
    if (raw.train.labels == raw.train.labels[0]).all():
        raise DataError(
            f"all {len(raw.train.labels):,} training images have the label {int(raw.train.labels[0])}; two classes are needed "
            "at least; look at the data set's files"
        )
    if not len(mean) == len(std) == channels:
        raise DataError(
            f"dataset.mean has {len(mean)} and dataset.std {len(std)} values; {channels} channels need one each; give as many"
        )
    some = raw.train if train_images is None else _some(raw.train, train_images, seed)
    drawn = replace(some, labels=_with_random(some.labels, random_labels, num_classes, seed))
    train, test = (_source(part, tuple(mean), tuple(std), crop_padding, flip) for part in (drawn, raw.test))
    n_score = int(len(train) * Decimal(str(score_share)))
    if n_score < 2:
        raise DataError(
            f"dataset.score_share={score_share} of {len(train):,} images is {n_score}; at least two must score; enlarge it"
        )
    return Splits(train, train.take(permutation(len(train), seed)[:n_score].sort().values), test, raw.read)


def _source(
    part: Pixels | Files, mean: tuple[float, ...], std: tuple[float, ...], crop_padding: int, flip: bool
) -> Images | Streamed:
    if isinstance(part, Pixels):
        return Images(part.pixels, part.labels, mean, std, crop_padding, flip)
    if crop_padding:
        raise ConfigError(
            f"dataset.crop_padding={crop_padding} is for images in memory; files have dataset.crop_scale; leave it out"
        )
    return Streamed(part, part.labels, mean, std, flip)


def _some(part: Pixels | Files, n: int, seed: int) -> Pixels | Files:
    """`n` images: the first of every class by a random order, then the second of every class, ...; in their own order.

    Raises:
        DataError: there are fewer.
    """
    if n > len(part.labels):
        raise DataError(
            f"dataset.train_images={n:,} are more than the {len(part.labels):,} training images; choose as many or fewer"
        )
    order = permutation(len(part.labels), fold(seed, *b"train images"))
    by_class = order[part.labels[order].argsort(stable=True)]
    counts = part.labels.bincount()
    place = torch.arange(n_all := len(order)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return part.take(by_class[place.argsort(stable=True)][:n].sort().values) if n < n_all else part


def _with_random(labels: Tensor, share: float, num_classes: int, seed: int) -> Tensor:
    """The labels, some of them drawn at random; which ones and what depends on `seed` alone."""
    if not share:
        return labels
    stream = fold(seed, *b"random labels")
    chosen = permutation(len(labels), stream)[: int(len(labels) * Decimal(str(share)))]
    return labels.index_put((chosen,), random_integers(chosen, num_classes, fold(stream, 1)))


def _check(name: str, part: Pixels | Files, num_classes: int, channels: int) -> None:
    if not len(part.labels):
        raise DataError(f"the {name} split is empty; at least one image is needed; look at the data set's files")
    low, high = int(part.labels.min()), int(part.labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"{name} labels run from {low} to {high}; dataset.num_classes={num_classes} allows 0 to {num_classes - 1}; "
            "set dataset.num_classes to what the files hold"
        )
    if part.channels != channels:
        raise DataError(
            f"the {name} images have {part.channels} channels; dataset.channels={channels} must agree; set it to theirs"
        )
