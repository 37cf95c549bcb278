"""CIFAR-10 and CIFAR-100, from their published files, which are pickles: none is read whose SHA-256 is not a pinned one."""

from pathlib import Path

import torch
from torchvision import datasets

from runners.data.checksums import CIFAR10, CIFAR100, CIFAR100_PART
from runners.data.download import find
from runners.data.published import wrong_file
from runners.data.raw import Pixels, Raw
from runners.process.errors import DataError


def cifar10(*, data_root: str | None, download_root: str) -> Raw:
    """The real 50,000 + 10,000 images of 10 classes (Krizhevsky 2009).

    Args:
        data_root: folder that holds `cifar-10-batches-py`; null downloads it to `download_root`.

    Raises:
        DataError: no such files, files with another checksum, or no network to download them.
    """
    root, files = find(CIFAR10, data_root, download_root)
    return Raw(_read(Ten, root, train=True), _read(Ten, root, train=False), files)


def cifar100(*, data_root: str | None, download_root: str) -> Raw:
    """The real 50,000 + 10,000 images of 100 fine classes (Krizhevsky 2009).

    Args:
        data_root: folder that holds `cifar-100-python`; null downloads it to `download_root`.

    Raises:
        DataError: as `cifar10`; also files that are the part of the set, which has a name of its own.
    """
    if data_root is not None and not wrong_file(CIFAR100_PART.files(), Path(data_root)):
        raise DataError(
            f"data_root={data_root} has a part of CIFAR-100 (20,000 of the 50,000 training images); dataset=cifar100 is the "
            "whole set; try dataset=cifar100_part, or the folder of the whole set"
        )
    root, files = find(CIFAR100, data_root, download_root)
    return Raw(_read(Hundred, root, train=True), _read(Hundred, root, train=False), files)


def cifar100_part(*, data_root: str | None) -> Raw:
    """A part of CIFAR-100: 200 of the 500 training images of each class, and all 10,000 test images; not the papers' set.

    Args:
        data_root: folder that holds the part's `cifar-100-python`.

    Raises:
        DataError: no such files, or files with another checksum, as the whole set has.
    """
    root, files = find(CIFAR100_PART, data_root)
    return Raw(_read(Hundred, root, train=True), _read(Hundred, root, train=False), files)


class Ten(datasets.CIFAR10):
    """torchvision's reader without its MD5 sums, which take longer than the SHA-256 that was checked."""

    train_list = [[name, None] for name, _ in datasets.CIFAR10.train_list]
    test_list = [[name, None] for name, _ in datasets.CIFAR10.test_list]
    meta = datasets.CIFAR10.meta | {"md5": None}


class Hundred(datasets.CIFAR100):
    """torchvision's reader of CIFAR-100, likewise without its MD5 sums."""

    train_list = [[name, None] for name, _ in datasets.CIFAR100.train_list]
    test_list = [[name, None] for name, _ in datasets.CIFAR100.test_list]
    meta = datasets.CIFAR100.meta | {"md5": None}


def _read(reader: type[datasets.CIFAR10], root: Path, *, train: bool) -> Pixels:
    found = reader(root, train=train)
    return Pixels(torch.from_numpy(found.data).permute(0, 3, 1, 2), torch.tensor(found.targets))
