"""A split that lies on the device as one uint8 tensor, and the batches drawn from it there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from runners.augmenting.changes import CHANGE_WORDS, CROP_WORDS, Changes, epoch_words
from runners.data.source import Batch, TrainingBatch
from runners.process.counter import fold, permutation, random_integers
from runners.process.interruption import beat

Crops = Callable[[Int64[Tensor, " some"], Int64[Tensor, " 3"]], UInt8[Tensor, "some channels h w"]]


@dataclass(frozen=True)
class Images:
    """Labelled images, the normalisation their network expects, and the augmentation that leaves their labels right.

    Args:
        crop_padding: pixels of zeros around a training image before it is cropped at random; 0 crops nothing.
        flip: mirror every second training image, at random.
    """

    pixels: UInt8[Tensor, "images channels h w"]
    labels: Int64[Tensor, " images"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 0
    flip: bool = False

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def example(self) -> Float[Tensor, "1 channels h w"]:
        """One normalised image, for tracing and timing."""
        return self.normalise(self.pixels[:1])

    def to(self, device: torch.device) -> "Images":
        """The same images on `device`."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def take(self, index: Int64[Tensor, " some"]) -> "Images":
        """Some of the images, in the order of `index`."""
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

    @cached_property
    def _scale(self) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
        """Mean and standard deviation, tiled along a row of pixels: operations run over long rows, not over 3 channels."""
        width = self.pixels.shape[3]
        mean, std = (self.pixels.new_tensor(values, dtype=torch.float32).repeat(width) for values in (self.mean, self.std))
        return mean, std

    def normalise(self, pixels: UInt8[Tensor, "images channels h w"]) -> Float[Tensor, "images channels h w"]:
        """The network's input: (pixels / 255 - mean) / std, channel by channel, in channels-last memory."""
        nhwc = pixels.permute(0, 2, 3, 1).contiguous()
        mean, std = self._scale
        return nhwc.flatten(2).float().div_(255).sub_(mean).div_(std).view(nhwc.shape).permute(0, 3, 1, 2)

    def content(self) -> Iterator[bytes]:
        """The bytes that make these images: shapes, pixels and labels."""
        for tensor in (self.pixels, self.labels):
            yield str(tuple(tensor.shape)).encode()
            yield tensor.cpu().numpy().tobytes()

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All images once, in their own order; the last batch may be smaller."""
        for pixels, labels in zip(self.pixels.split(batch_size), self.labels.split(batch_size), strict=True):
            beat()
            yield self.normalise(pixels), labels

    def steps(self, batch_size: int, *, stream: int, changes: Changes) -> "ResidentSteps":
        """Training batches whose order and changes are functions of `stream` and the epoch alone."""
        return ResidentSteps(self, batch_size, stream, changes)


class ResidentSteps:
    """Training batches of resident images: the order and random words of an epoch, in tensors that stay where they are.

    A captured step knows only the places of tensors, so `begin` writes into them, and `draw` counts its steps in one.
    """

    def __init__(self, images: Images, batch_size: int, stream: int, changes: Changes) -> None:
        self.images, self.batch_size, self.stream, self.changes = images, batch_size, stream, changes
        padding, flip = (images.crop_padding, images.flip) if changes.augment else (0, False)
        self.crops = crops(images.pixels, crop_padding=padding, flip=flip)
        sizes, device = (len(images), len(CROP_WORDS + CHANGE_WORDS), 1), images.labels.device
        self.order, self.words, self.position = (torch.zeros(size, dtype=torch.int64, device=device) for size in sizes)

    @property
    def sizes(self) -> list[int]:
        """Images of every step of an epoch; the last may have fewer."""
        return step_sizes(len(self.order), self.batch_size)

    def begin(self, epoch: int, *, position: int) -> None:
        """Starts an epoch of which `position` steps are finished."""
        self.order.copy_(epoch_order(len(self.order), self.stream, epoch, self.order.device))
        self.words.copy_(epoch_words(self.stream, epoch, CROP_WORDS + CHANGE_WORDS))
        self.position.fill_(position)

    def load(self) -> None:
        """Nothing: all images lie on the device."""

    def draw(self, size: int) -> TrainingBatch:
        """The batch of the next step: changed, normalised, on the device."""
        place = self.position * self.batch_size + torch.arange(size, device=self.position.device)
        index = self.order.index_select(0, place)
        of_crops, words = self.words.split([len(CROP_WORDS), len(CHANGE_WORDS)])
        pixels, labels = self.crops(index, of_crops), self.images.labels.index_select(0, index)
        batch = self.changes.make(pixels, labels, index=index, words=words, normalise=self.images.normalise)
        self.position.add_(1)
        return batch


def epoch_order(n_images: int, stream: int, epoch: int, device: torch.device) -> Int64[Tensor, " images"]:
    """The images of an epoch in its own random order."""
    return permutation(n_images, fold(stream, epoch), 0, device=device)


def step_sizes(n_images: int, batch_size: int) -> list[int]:
    """The number of images of every step of an epoch."""
    full, rest = divmod(n_images, batch_size)
    return [batch_size] * full + [rest] * (rest > 0)


def all_runs(flat: UInt8[Tensor, " bytes"], length: int) -> UInt8[Tensor, "runs length"]:
    """Every run of `length` bytes, from any byte on, as a view: of [7, 8, 9] by two [7, 8] and [8, 9]."""
    return flat.as_strided((flat.numel() - length + 1, length), (1, 1))


def crops(pixels: UInt8[Tensor, "images channels h w"], *, crop_padding: int, flip: bool) -> Crops:
    """Cropped and mirrored images, as a function of which images and of an epoch's random words.

    Uniform crops out of the zero-padded image and mirror images with probability one half, drawn independently for
    every image and epoch. The padded images and their mirror images are laid down once, row after row; a crop is the
    rows that begin where it begins. All of it is work on the device, of fixed shape: a CUDA graph can hold it.

    Example: one image [[1, 2], [3, 4]] of one channel, `crop_padding` 1, no mirror images.
        padded, byte by byte:  0 0 0 0  0 1 2 0  0 3 4 0  0 0 0 0   (a row is 4 bytes: the pitch)
        rows of a crop:        `runs[b]` is the bytes b and b + 1; 15 of them, a view
        down 1, right 0:       begins at byte 1 * 4 + 0 = 4, so its rows begin at 4 and 8
        the crop:              runs[[4, 8]] is [[0, 1], [0, 3]]
    """
    n_images, channels, height, width = pixels.shape
    padded = F.pad(pixels, (crop_padding,) * 4).permute(0, 2, 3, 1)
    copies = torch.stack([padded, padded.flip(2)] if flip else [padded]).flatten()
    runs = all_runs(copies, width * channels)
    pitch, offsets = (width + 2 * crop_padding) * channels, 2 * crop_padding + 1
    rows = torch.arange(height, device=copies.device) * pitch

    def draw(index: Int64[Tensor, " some"], words: Int64[Tensor, " 3"]) -> UInt8[Tensor, "some channels h w"]:
        below = (offsets, offsets, 1 + flip)
        dy, dx, mirror = (random_integers(index, choices, word) for choices, word in zip(below, words, strict=True))
        image = (mirror * n_images + index) * (height + 2 * crop_padding) + dy
        first = image * pitch + dx * channels
        found = runs.index_select(0, (first[:, None] + rows).flatten()).view(-1, height, width, channels)
        return found.permute(0, 3, 1, 2)

    return draw
