"""Photographs in one folder a class, as ImageNet is unpacked; the names of the folders, in order, are the classes."""

from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le

from runners.data.raw import Files, Raw
from runners.process.counter import fold, permutation
from runners.process.errors import ConfigError, DataError

SUFFIXES = {".jpg", ".jpeg", ".png"}

CropScale = tuple[Annotated[float, Gt(0), Le(1)], Annotated[float, Gt(0), Le(1)]]


def image_folders(
    *,
    data_root: str | None,
    train: str,
    test: str,
    image_size: int,
    resize: Annotated[int, Ge(1)],
    crop_scale: CropScale | None,
    num_workers: Annotated[int, Ge(0)],
) -> Raw:
    """Two folders of classes, for training and for test.

    Args:
        train: below `data_root`; so is `test`.
        image_size: and the rest as in `Files`.

    Raises:
        ConfigError: as `image_folder`.
        DataError: no such folders, a class without images, or not the same classes in both.
    """
    views = (image_size, resize, crop_scale, num_workers)
    parts = _files(data_root, train, *views), _files(data_root, test, *views)
    classes = [sorted({name.partition("/")[0] for name in part.names}) for part in parts]
    if classes[0] != classes[1]:
        raise DataError(
            f"{train} has {len(classes[0])} and {test} {len(classes[1])} classes, and they are not the same; labels follow "
            f"from the names of folders; look at data_root={data_root}"
        )
    return Raw(*parts)


def image_folder(
    *,
    data_root: str | None,
    folder: str,
    test_share: float,
    seed: int,
    image_size: int,
    resize: Annotated[int, Ge(1)],
    crop_scale: CropScale | None,
    num_workers: Annotated[int, Ge(0)],
) -> Raw:
    """One folder of classes, whose images are divided by `seed` into training and test images.

    Args:
        folder: below `data_root`.
        image_size: and the rest as in `Files`.

    Raises:
        ConfigError: images resized to less than is cut out of them, or a falling `crop_scale`.
        DataError: no such folder, or a class without images.
    """
    found = _files(data_root, folder, image_size, resize, crop_scale, num_workers)
    order = permutation(len(found.names), fold(seed, *b"test"))
    n_test = round(len(order) * test_share)
    return Raw(found.take(order[n_test:].sort().values), found.take(order[:n_test].sort().values))


def _files(
    data_root: str | None, name: str, image_size: int, resize: int, crop_scale: tuple[float, float] | None, num_workers: int
) -> Files:
    if data_root is None or not (Path(data_root) / name).is_dir():
        raise DataError(
            f"data_root={'null' if data_root is None else data_root} has no folder {name!r}; image folders are not downloaded; "
            "give the folder above it with data_root=DIR"
        )
    if resize < image_size:
        raise ConfigError(
            f"dataset.resize={resize} is smaller than dataset.image_size={image_size}; the centre is cut out of the resized "
            f"image; try dataset.resize={round(image_size * 256 / 224)}"
        )
    if crop_scale and crop_scale[0] > crop_scale[1]:
        raise ConfigError(
            f"dataset.crop_scale={list(crop_scale)} falls; the smallest share of the area comes first; try "
            f"dataset.crop_scale={list(crop_scale)[::-1]}"
        )
    root = Path(data_root) / name
    classes = sorted(path for path in root.iterdir() if path.is_dir())
    found = [
        (f"{folder.name}/{path.name}", label)
        for label, folder in enumerate(classes)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    filled = {name.partition("/")[0] for name, _ in found}
    if empty := [folder.name for folder in classes if folder.name not in filled]:
        raise DataError(f"{root} has the folder {empty[0]!r} without images; every folder is a class; fill it, or delete it")
    names, labels = tuple(name for name, _ in found), torch.tensor([label for _, label in found], dtype=torch.int64)
    return Files(root, names, labels, image_size, resize, crop_scale, num_workers)
