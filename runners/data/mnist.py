"""MNIST and the sets that share its format: four idx files, where torchvision unpacks them."""

from pathlib import Path

import torch
from torchvision import datasets

from runners.data.checksums import EMNIST, FASHION_MNIST, MNIST
from runners.data.download import find
from runners.data.raw import Pixels, Raw
from runners.process.errors import DataError


def mnist(*, data_root: str | None, download_root: str) -> Raw:
    """The 60,000 + 10,000 images of 28x28 grey levels (LeCun, Cortes and Burges 1998).

    Args:
        data_root: folder that holds `MNIST/raw`, unpacked; null downloads it to `download_root`.

    Raises:
        DataError: no such files, files with another checksum, or no network to download them.
    """
    root, files = find(MNIST, data_root, download_root)
    return Raw(_pixels(datasets.MNIST(root, train=True)), _pixels(datasets.MNIST(root, train=False)), files)


def fashion_mnist(*, data_root: str | None, download_root: str) -> Raw:
    """The 60,000 + 10,000 images of clothes, 28x28 grey levels (Xiao, Rasul and Vollgraf 2017).

    Args:
        data_root: folder that holds `FashionMNIST/raw`, unpacked; null downloads it to `download_root`.

    Raises:
        DataError: as `mnist`.
    """
    root, files = find(FASHION_MNIST, data_root, download_root)
    return Raw(_pixels(datasets.FashionMNIST(root, train=True)), _pixels(datasets.FashionMNIST(root, train=False)), files)


def emnist(*, data_root: str | None, download_root: str) -> Raw:
    """The split EMNIST Balanced: 112,800 + 18,800 digits and letters of 47 classes, upright (Cohen et al. 2017).

    The files, and so torchvision's images, have rows and columns exchanged; here a letter stands as it was written.

    Args:
        data_root: folder that holds `EMNIST/raw`, unpacked; null downloads 562 MB to `download_root`.

    Raises:
        DataError: as `mnist`; also classes of different sizes, since the files' checksums are not published.
    """
    root, files = find(EMNIST, data_root, download_root)
    train, test = (_upright(_pixels(datasets.EMNIST(root, split="balanced", train=train)), files[0]) for train in (True, False))
    return Raw(train, test, files)


def _upright(part: Pixels, file: Path) -> Pixels:
    sizes = torch.bincount(part.labels)
    if sizes.min() != sizes.max():
        raise DataError(
            f"the files in {file.parent} have classes of {int(sizes.min()):,} to {int(sizes.max()):,} images; EMNIST Balanced "
            f"has equally many of each; unpack {EMNIST.address} again"
        )
    return Pixels(part.pixels.transpose(2, 3).contiguous(), part.labels)


def _pixels(found: datasets.MNIST) -> Pixels:
    return Pixels(found.data[:, None], found.targets)
