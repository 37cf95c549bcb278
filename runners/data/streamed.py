"""A split that lies in image files, decoded by worker processes while the device computes."""

import atexit
import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from multiprocessing.synchronize import Event

import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from runners.augmenting.changes import CHANGE_WORDS, Changes, epoch_words
from runners.data.raw import Files
from runners.data.resident import epoch_order, step_sizes
from runners.data.source import Batch, TrainingBatch
from runners.process.counter import fold
from runners.process.errors import DataError, ResourceError, lost_worker
from runners.process.interruption import SIGNALS, beat

BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # as Pillow says it of files that are no images


@dataclass(frozen=True)
class Streamed:
    """Labelled image files and the normalisation their network expects.

    Args:
        labels: on the device to which batches go.
        flip: mirror every second training image, at random.
    """

    files: Files
    labels: Int64[Tensor, " images"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool = False

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files.names)

    def to(self, device: torch.device) -> "Streamed":
        """The same images, their batches on `device`."""
        return replace(self, labels=self.labels.to(device))

    def take(self, index: Int64[Tensor, " some"]) -> "Streamed":
        """Some of the images, in the order of `index`."""
        return replace(self, files=self.files.take(index), labels=self.labels[index.to(self.labels.device)])

    @property
    def example(self) -> Float[Tensor, "1 channels h w"]:
        """One normalised image, for tracing and timing."""
        return self._example

    @cached_property
    def _example(self) -> Float[Tensor, "1 channels h w"]:
        return self.normalise(next(_pixels(Views(self.files), [[0]], num_workers=0)).to(self.labels.device))

    def content(self) -> Iterator[bytes]:
        """The names, sizes and labels of the files; not what is in them, since hashing a large data set takes hours.

        A file that is exchanged for another one of the same size is not noticed.
        """
        for name, label in zip(self.files.names, self.labels.tolist(), strict=True):
            yield f"{name}\0{(self.files.root / name).stat().st_size}\0{label}\n".encode()

    @cached_property
    def _scale(self) -> tuple[Float[Tensor, "1 channels 1 1"], Float[Tensor, "1 channels 1 1"]]:
        mean, std = (torch.tensor(values, device=self.labels.device).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return mean, std

    def normalise(self, pixels: UInt8[Tensor, "images channels h w"]) -> Float[Tensor, "images channels h w"]:
        """(pixels / 255 - mean) / std, channel by channel, in channels-last memory."""
        mean, std = self._scale
        return pixels.contiguous(memory_format=torch.channels_last).float().div_(255).sub_(mean).div_(std)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All images once, in their own order, not augmented; the last batch may be smaller."""
        index = [each.tolist() for each in torch.arange(len(self)).split(batch_size)]
        decoded = _pixels(Views(self.files), index, num_workers=self.files.num_workers)
        for pixels, labels in zip(decoded, self.labels.split(batch_size), strict=True):
            beat()
            yield self.normalise(pixels.to(self.labels.device)), labels

    def steps(self, batch_size: int, *, stream: int, changes: Changes) -> "StreamedSteps":
        """Training batches whose order and changes are functions of `stream` and the epoch alone."""
        return StreamedSteps(self, batch_size, stream, changes)


class StreamedSteps:
    """The training batches of one run; `load` copies the next one to the tensors from which `draw` takes it."""

    def __init__(self, source: Streamed, batch_size: int, stream: int, changes: Changes) -> None:
        self.source, self.batch_size, self.stream, self.changes = source, batch_size, stream, changes
        device, size, most = source.labels.device, source.files.image_size, min(batch_size, len(source))
        self._pixels = torch.zeros(most, source.files.channels, size, size, dtype=torch.uint8, device=device)
        sizes = (most, most, len(CHANGE_WORDS))
        self._labels, self._index, self._words = (torch.zeros(n, dtype=torch.int64, device=device) for n in sizes)
        self._coming: Iterator[tuple[Tensor, Tensor, Tensor]] = iter(())

    @property
    def sizes(self) -> Sequence[int]:
        """Images of every step of an epoch; the last may have fewer."""
        return step_sizes(len(self.source), self.batch_size)

    def begin(self, epoch: int, *, position: int) -> None:
        """Starts an epoch of which `position` steps are finished; their images are not decoded."""
        files, labels = self.source.files, self.source.files.labels
        order = epoch_order(len(self.source), self.stream, epoch, torch.device("cpu")).split(self.batch_size)[position:]
        words = (self.stream, epoch) if self.changes.augment else None
        self._words.copy_(epoch_words(self.stream, epoch, CHANGE_WORDS))
        pixels = _pixels(
            Views(files, words, flip=self.source.flip),
            [index.tolist() for index in order],
            num_workers=files.num_workers,
            pin_memory=self._labels.is_cuda,
        )
        self._coming = zip(pixels, (labels[index] for index in order), order, strict=True)

    def load(self) -> None:
        """Waits for the next batch and copies it to the device."""
        pixels, labels, index = next(self._coming)
        self._pixels[: len(labels)].copy_(pixels, non_blocking=True)
        self._labels[: len(labels)].copy_(labels)
        self._index[: len(labels)].copy_(index)

    def draw(self, size: int) -> TrainingBatch:
        """The batch that `load` fetched: changed, normalised, on the device."""
        pixels, labels, index = (part[:size] for part in (self._pixels, self._labels, self._index))
        normalise = self.source.normalise
        return self.changes.make(pixels, labels.clone(), index=index, words=self._words, normalise=normalise)


@dataclass(frozen=True)
class Views(Dataset[Tensor | str]):
    """Decoded files by their index: the centre, or, with `words`, a random crop that depends on them and the index alone.

    What is wrong with a file comes as text: an exception would lose its one line on the way out of a worker.

    Args:
        words: the stream and the epoch of training images.
    """

    files: Files
    words: tuple[int, int] | None = None
    flip: bool = False

    @cached_property
    def _transform(self) -> v2.Transform:
        size, scale = self.files.image_size, self.files.crop_scale
        crop = [v2.Resize(self.files.resize), v2.CenterCrop(size)]
        if self.words is not None and scale:
            crop = [v2.RandomResizedCrop(size, scale=scale)]
        mirror = [v2.RandomHorizontalFlip()] if self.words is not None and self.flip else []
        return v2.Compose([*crop, *mirror, v2.PILToTensor()])

    def __getitem__(self, index: int) -> Tensor | str:
        """One image, or what is wrong with its file."""
        path = self.files.root / self.files.names[index]
        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
        except BROKEN as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return f"{path} cannot be read ({reason}); every image file of the data set must be whole; unpack the data again"
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(fold(*self.words, index) if self.words else 0)
            return self._transform(image)


def _outlive_signals(worker: int, *, ending: Event) -> None:
    """A worker decodes on when clusters and Ctrl-C signal every process of a job: the run saves its state, and ends it.

    Args:
        ending: set before Python's exit signals the worker alone.
    """
    for number in (*SIGNALS, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0) if ending.is_set() else None)


def _pixels(views: Views, index: list[list[int]], *, num_workers: int, pin_memory: bool = False) -> Iterator[Tensor]:
    """The batches of images with these indices, decoded ahead of time by the workers.

    Raises:
        DataError: a file that is no whole image.
        ResourceError: a worker was killed.
    """
    with warnings.catch_warnings():
        # Python 3.12 warns of any fork beside threads; the workers decode images on one thread and use nothing else.
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # more workers than cores
        # A generator of its own: otherwise every start would draw a number from the one that dropout uses.
        own, ending = torch.Generator(), multiprocessing.Event()
        loader = DataLoader(
            views,
            batch_sampler=index,
            num_workers=num_workers,
            collate_fn=_collated,
            pin_memory=pin_memory,
            worker_init_fn=partial(_outlive_signals, ending=ending),
            generator=own,
        )
        coming = iter(loader)
    atexit.register(ending.set)
    try:
        for found in coming:
            if isinstance(found, str):
                raise DataError(found)
            yield found
    except RuntimeError as error:
        if line := lost_worker(error, num_workers):
            raise ResourceError(line) from error
        raise
    finally:
        ending.set()
        atexit.unregister(ending.set)


def _collated(images: list[Tensor | str]) -> Tensor | str:
    broken = next((image for image in images if isinstance(image, str)), None)
    return broken or torch.stack([image for image in images if isinstance(image, Tensor)])
