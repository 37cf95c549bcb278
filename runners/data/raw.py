"""Labelled images as a data set function returns them: neither normalised nor divided further."""

from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Int64, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Pixels:
    """Images in memory."""

    pixels: UInt8[Tensor, "images channels h w"]
    labels: Int64[Tensor, " images"]

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return self.pixels.shape[1]

    def take(self, index: Int64[Tensor, " some"]) -> "Pixels":
        """Some of the images, in the order of `index`."""
        return Pixels(self.pixels[index], self.labels[index])


@dataclass(frozen=True)
class Files:
    """Image files, read whenever they are needed.

    Args:
        names: paths below `root`, in the order of `labels`.
        image_size: side of the square that the network sees.
        resize: shorter side of a test image before its centre is cut out.
        crop_scale: a training crop's share of the image, least and most; null for no random crops.
        num_workers: processes that decode; changes no result.
    """

    root: Path
    names: tuple[str, ...]
    labels: Int64[Tensor, " images"]
    image_size: int
    resize: int
    crop_scale: tuple[float, float] | None
    num_workers: int

    @property
    def channels(self) -> int:
        """Every file is decoded to red, green and blue."""
        return 3

    def take(self, index: Int64[Tensor, " some"]) -> "Files":
        """Some of the files, in the order of `index`."""
        names = tuple(self.names[each] for each in index.tolist())
        return replace(self, names=names, labels=self.labels[index.to(self.labels.device)])


@dataclass(frozen=True)
class Raw:
    """The two parts of a data set.

    Args:
        read: the files from which pixels were read; none for embedded, generated or streamed images.
    """

    train: Pixels | Files
    test: Pixels | Files
    read: tuple[Path, ...] = ()
