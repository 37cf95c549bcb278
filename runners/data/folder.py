"""Image folders that are small enough for memory: all images are decoded at the start, as they are."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import torch
from annotated_types import Ge
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from runners.data.checksums import TINY_IMAGENET
from runners.data.image_folder import CropScale, Listed, check_views, folder_below, images_in, listed_pair
from runners.data.raw import Pixels, Raw
from runners.data.streamed import BROKEN
from runners.process.errors import ConfigError, DataError
from runners.process.interruption import beat

MODES = {1: "L", 3: "RGB"}
CHUNK = 1024  # images between two signs of life
MOST_BYTES = 16e9

T = TypeVar("T")


def folder(
    *,
    data_root: str | None,
    train: str,
    test: str,
    num_classes: int,
    channels: Literal[1, 3],
    image_size: int | None,
    resize: Annotated[int, Ge(1)] | None,
    crop_scale: CropScale | None,
    num_workers: Annotated[int, Ge(0)],
) -> Raw:
    """Any images in one folder a class, below one folder for training and one for test.

    Args:
        train: below `data_root`; so is `test`.
        channels: 1 reads grey levels, 3 reads red, green and blue, whatever is in the files.
        image_size: with `resize`, as in `Files`.
        resize: null takes images as they are, all of one size, and keeps them on the device; a number streams them.

    Raises:
        ConfigError: options of streamed images without `resize`, or the other way round.
        DataError: no such folders, a class without images, another number of classes, not the same ones in both; a file
            that is no image; images of different sizes.
    """
    if resize is None:
        if image_size is not None or crop_scale is not None:
            raise ConfigError(
                f"dataset.image_size={image_size}, dataset.crop_scale={crop_scale}: both are of resized images; resize=null "
                "takes images as they are; try dataset.resize=256 dataset.image_size=224, or leave them out"
            )
        parts = listed_pair(data_root, train, test, num_classes)
        return _in_memory(*parts, channels, num_workers)
    if image_size is None or channels != 3:
        raise ConfigError(
            f"dataset.resize={resize} needs dataset.image_size, the side of what is cut out, and dataset.channels=3, and they "
            f"are {image_size} and {channels}; try dataset.image_size={resize} dataset.channels=3, or dataset.resize=null"
        )
    check_views(image_size, resize, crop_scale)
    parts = listed_pair(data_root, train, test, num_classes)
    for part in parts:
        _in_chunks(_size, part.paths, num_workers)
    train_files, test_files = (part.files(image_size, resize, crop_scale, num_workers) for part in parts)
    return Raw(train_files, test_files)


def tiny_imagenet(*, data_root: str | None, train: str, test: str, num_classes: int, num_workers: Annotated[int, Ge(0)]) -> Raw:
    """The 100,000 + 10,000 images of 64x64 pixels of 200 classes of ImageNet (Stanford CS231n 2015), 1.4 GB on the device.

    Training images lie in `<wnid>/images` below `train`. The test images are those that the set calls validation (its own test
    images have no labels): all in `images` below `test`, where `val_annotations.txt` has their wnids.

    Args:
        train: below `data_root`; so is `test`.

    Raises:
        DataError: no such folder, an annotation without an image or of an unknown class, a file that is no image.
    """
    roots = [folder_below(data_root, name, TINY_IMAGENET) for name in (train, test)]
    wnids = sorted(path.name for path in roots[0].iterdir() if path.is_dir())
    if len(wnids) != num_classes:
        raise DataError(
            f"{roots[0]} has {len(wnids)} folders, each a class; dataset.num_classes={num_classes} must agree; unpack "
            f"{TINY_IMAGENET} again"
        )
    found = {
        f"{wnid}/images/{path.name}": wnid for wnid in wnids for path in images_in(folder_below(str(roots[0] / wnid), "images"))
    }
    annotated = {f"images/{name}": wnid for name, wnid in _annotations(roots[1] / "val_annotations.txt").items()}
    if unknown := sorted(set(annotated.values()) - set(wnids)):
        raise DataError(
            f"{roots[1]} has images of {unknown[0]}, which is no folder of {roots[0]}; the same classes are needed; unpack "
            f"{TINY_IMAGENET} again"
        )
    parts = [
        Listed(root, tuple(part), torch.tensor([wnids.index(wnid) for wnid in part.values()], dtype=torch.int64))
        for root, part in zip(roots, (found, annotated), strict=True)
    ]
    return _in_memory(*parts, channels=3, num_workers=num_workers)


def _annotations(path: Path) -> dict[str, str]:
    """Image -> wnid: the first two words of every line."""
    try:
        return {words[0]: words[1] for words in map(str.split, path.read_text().splitlines())}
    except (OSError, IndexError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}); every line names an image and its wnid; unpack {TINY_IMAGENET} "
            "again"
        ) from error


def _in_memory(train: Listed, test: Listed, channels: int, num_workers: int) -> Raw:
    """The decoded images of both parts.

    Raises:
        DataError: a file that is no image, images of different sizes, or more than fits.
    """
    width, height = _size(train.paths[0])
    shape, n_images = (channels, height, width), len(train.names) + len(test.names)
    if (needed := n_images * channels * height * width) > MOST_BYTES:
        raise DataError(
            f"{n_images:,} images of {width}x{height} are {needed / 1e9:,.0f} GB in memory; at most {MOST_BYTES / 1e9:,.0f} GB "
            "are taken; stream them with dataset.resize=256 dataset.image_size=224"
        )
    pixels = [_decoded(part, shape, train.paths[0], num_workers) for part in (train, test)]
    return Raw(Pixels(pixels[0], train.labels), Pixels(pixels[1], test.labels), (*train.paths, *test.paths))


def _decoded(part: Listed, shape: tuple[int, int, int], first: Path, num_workers: int) -> UInt8[Tensor, "images channels h w"]:
    pixels = torch.empty(len(part.names), *shape, dtype=torch.uint8)

    def put(place: int) -> None:
        image = _opened(part.paths[place]).convert(MODES[shape[0]])
        if image.size != (shape[2], shape[1]):
            raise DataError(
                f"{part.paths[place]} is {image.width}x{image.height}, and {first} {shape[2]}x{shape[1]}; dataset.resize=null "
                f"takes images as they are, all of one size; try dataset.resize={min(shape[1:])} "
                f"dataset.image_size={min(shape[1:])}"
            )
        pixels[place] = TF.pil_to_tensor(image)

    _in_chunks(put, range(len(part.names)), num_workers)
    return pixels


def _in_chunks(do: Callable[[T], object], each: Sequence[T], num_threads: int) -> None:
    """Does something with every value, in threads: Pillow decodes without holding Python's lock."""
    with ThreadPoolExecutor(max(1, num_threads)) as pool:
        for start in range(0, len(each), CHUNK):
            beat()
            list(pool.map(do, each[start : start + CHUNK]))


def _size(path: Path) -> tuple[int, int]:
    """Width and height, from the head of an image file."""
    try:
        with Image.open(path) as image:
            return image.size
    except BROKEN as error:
        raise _broken(path, error) from error


def _opened(path: Path) -> Image.Image:
    """A decoded image."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except BROKEN as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return DataError(f"{path} cannot be read ({reason}); every image file of the data set must be whole; unpack the data again")
