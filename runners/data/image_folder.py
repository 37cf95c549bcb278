"""Photographs in one folder a class, as ImageNet is unpacked; the names of the folders, in order, are the classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Int64
from torch import Tensor

from runners.data.raw import Files, Raw
from runners.process.counter import fold, permutation
from runners.process.errors import ConfigError, DataError, some

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
    num_classes: int | None = None,
) -> Raw:
    """Two folders of classes, for training and for test.

    Args:
        train: below `data_root`; so is `test`.
        image_size: and the rest as in `Files`.
        num_classes: the number of folders that there must be; null takes any.

    Raises:
        ConfigError: as `image_folder`.
        DataError: no such folders, a class without images, another number of classes, or not the same ones in both.
    """
    check_views(image_size, resize, crop_scale)
    views = (image_size, resize, crop_scale, num_workers)
    parts = listed_pair(data_root, train, test, num_classes)
    return Raw(parts[0].files(*views), parts[1].files(*views))


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
    num_classes: int | None = None,
) -> Raw:
    """One folder of classes, whose images are divided by `seed` into training and test images.

    Args:
        folder: below `data_root`.
        image_size: and the rest as in `Files`.
        num_classes: as `image_folders`.

    Raises:
        ConfigError: images resized to less than is cut out of them, or a falling `crop_scale`.
        DataError: no such folder, a class without images, or another number of classes.
    """
    check_views(image_size, resize, crop_scale)
    found = listed(data_root, folder, num_classes).files(image_size, resize, crop_scale, num_workers)
    order = permutation(len(found.names), fold(seed, *b"test"))
    n_test = round(len(order) * test_share)
    return Raw(found.take(order[n_test:].sort().values), found.take(order[:n_test].sort().values))


@dataclass(frozen=True)
class Listed:
    """The image files below a folder.

    Args:
        names: paths below `root`, in the order of `labels`.
    """

    root: Path
    names: tuple[str, ...]
    labels: Int64[Tensor, " images"]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The places of the files, in order."""
        return tuple(self.root / name for name in self.names)

    def files(self, image_size: int, resize: int, crop_scale: tuple[float, float] | None, num_workers: int) -> Files:
        """The same files, to be read whenever they are needed."""
        return Files(self.root, self.names, self.labels, image_size, resize, crop_scale, num_workers)


def listed_pair(data_root: str | None, train: str, test: str, num_classes: int | None) -> tuple[Listed, Listed]:
    """The files of two folders of the same classes.

    Raises:
        DataError: as `listed`, or not the same classes in both.
    """
    parts = listed(data_root, train, num_classes), listed(data_root, test, None)
    classes = [sorted({name.partition("/")[0] for name in part.names}) for part in parts]
    if classes[0] != classes[1]:
        alone = sorted(set(classes[0]) ^ set(classes[1]))
        raise DataError(
            f"{train} has {len(classes[0])} and {test} {len(classes[1])} classes, not the same ({some(alone, 3)} in "
            f"one alone); labels follow from the names of folders; look at data_root={data_root}"
        )
    return parts


def listed(data_root: str | None, name: str, num_classes: int | None) -> Listed:
    """The files of one folder a class, whose number in the order of names is the label.

    Raises:
        DataError: no such folder, a class without images, or another number of classes than `num_classes`.
    """
    root = folder_below(data_root, name)
    classes = sorted(path for path in root.iterdir() if path.is_dir())
    found = [(f"{folder.name}/{path.name}", label) for label, folder in enumerate(classes) for path in images_in(folder)]
    filled = {name.partition("/")[0] for name, _ in found}
    if empty := [folder.name for folder in classes if folder.name not in filled]:
        raise DataError(f"{root} has the folder {empty[0]!r} without images; every folder is a class; fill it, or delete it")
    if num_classes is not None and len(classes) != num_classes:
        raise DataError(
            f"{root} has {len(classes)} folders, each a class; dataset.num_classes={num_classes} must agree; try "
            f"dataset.num_classes={len(classes)}, or look for what is missing"
        )
    labels = torch.tensor([label for _, label in found], dtype=torch.int64)
    return Listed(root, tuple(name for name, _ in found), labels)


def folder_below(data_root: str | None, name: str, address: str = "") -> Path:
    """A folder of images.

    Args:
        address: where people find it.

    Raises:
        DataError: it is not there.
    """
    if data_root is None or not (Path(data_root) / name).is_dir():
        origin = f" (it comes from {address})" if address else ""
        raise DataError(
            f"data_root={'null' if data_root is None else data_root} has no folder {name!r}; image folders are not downloaded"
            f"{origin}; give the folder above it with data_root=DIR"
        )
    return Path(data_root) / name


def images_in(folder: Path) -> list[Path]:
    """The image files in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def check_views(image_size: int, resize: int, crop_scale: tuple[float, float] | None) -> None:
    """Checks that images can be cut as asked.

    Raises:
        ConfigError: they are resized to less than is cut out of them, or `crop_scale` falls.
    """
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
