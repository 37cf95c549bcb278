"""A split that lies on the device as one uint8 tensor, and the batches drawn from it there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from runners.data.counter import fold, permutation, random_integers

Batch = tuple[Float[Tensor, "images channels h w"], Int64[Tensor, " images"]]


@dataclass(frozen=True)
class Images:
    """Labelled images and the normalisation their network expects."""

    pixels: UInt8[Tensor, "images channels h w"]
    labels: Int64[Tensor, " images"]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        """How many images."""
        return len(self.labels)

    def to(self, device: torch.device) -> "Images":
        """The same images on `device`."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def take(self, index: Int64[Tensor, " some"]) -> "Images":
        """Some of the images, in the order of `index`."""
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

    def normalise(self, pixels: UInt8[Tensor, "images channels h w"]) -> Float[Tensor, "images channels h w"]:
        """What the network sees: (pixels / 255 - mean) / std, channel by channel, in channels-last memory."""
        mean, std = (pixels.new_tensor(values, dtype=torch.float32)[:, None, None] for values in (self.mean, self.std))
        return pixels.float().div(255).sub(mean).div(std).contiguous(memory_format=torch.channels_last)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All images once, in their own order; the last batch may be smaller."""
        for pixels, labels in zip(self.pixels.split(batch_size), self.labels.split(batch_size), strict=True):
            yield self.normalise(pixels), labels


def augmented_epochs(
    images: Images, *, batch_size: int, crop_padding: int, flip: bool
) -> Callable[[int, int, int], Iterator[Batch]]:
    """The shuffled, cropped and flipped batches of any epoch from any step on, as a function of (seed, epoch, step).

    Uniform crops out of the zero-padded image and mirror images with probability one half, drawn independently for
    every image and epoch. The padded images and their mirror images are laid down once; a crop is an index into a
    view of all windows. Every image comes once an epoch; the last batch may be smaller.
    """
    padded = F.pad(images.pixels, (crop_padding,) * 4)
    copies = torch.stack([padded, padded.flip(-1)]) if flip else padded[None]
    height, width = images.pixels.shape[-2:]
    # (flips images dy dx channels h w), a view: unfolding copies nothing.
    windows = copies.unfold(3, height, 1).unfold(4, width, 1).permute(0, 1, 3, 4, 2, 5, 6)
    offsets = 2 * crop_padding + 1

    def draw(seed: int, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        key = fold(seed, epoch)
        order = permutation(len(images), key, 0, device=images.pixels.device)
        for index in order.split(batch_size)[first_step:]:
            dy, dx, mirror = (
                random_integers(index, below, key, which) for which, below in enumerate((offsets, offsets, len(copies)), 1)
            )
            yield images.normalise(windows[mirror, index, dy, dx]), images.labels[index]

    return draw
