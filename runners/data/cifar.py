"""CIFAR-10, from its published files, which are pickles: none is read whose SHA-256 is not the published one."""

from pathlib import Path

import torch
from torchvision.datasets import CIFAR10

from runners.data.download import Archive, check_files, prepare
from runners.data.raw import Pixels, Raw

# The archive's SHA-256 is the one in Keras (keras.datasets.cifar10); those of its members are of files that have the MD5
# sums in torchvision.datasets.CIFAR10.
ARCHIVE = Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    170_498_071,
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    {
        "cifar-10-batches-py/batches.meta": "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb",
        "cifar-10-batches-py/data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
        "cifar-10-batches-py/data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
        "cifar-10-batches-py/data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
        "cifar-10-batches-py/data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
        "cifar-10-batches-py/data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
        "cifar-10-batches-py/test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
    },
)
FILES = ARCHIVE.files


def cifar10(*, data_root: str | None, download_root: str) -> Raw:
    """The real 50,000 + 10,000 images (Krizhevsky 2009).

    Args:
        data_root: folder that holds `cifar-10-batches-py`; null downloads it to `download_root`.

    Raises:
        DataError: no such files, files with another checksum, or no network to download them.
    """
    root = Path(data_root or download_root)
    if data_root is None:
        prepare(ARCHIVE, root)
    check_files(ARCHIVE.files, root)
    return Raw(_read(root, train=True), _read(root, train=False), tuple(root / name for name in ARCHIVE.files))


class Reader(CIFAR10):
    """torchvision's reader without its MD5 sums, which take longer than the SHA-256 that was checked."""

    train_list = [[name, None] for name, _ in CIFAR10.train_list]
    test_list = [[name, None] for name, _ in CIFAR10.test_list]
    meta = CIFAR10.meta | {"md5": None}


def _read(root: Path, *, train: bool) -> Pixels:
    found = Reader(root, train=train)
    return Pixels(torch.from_numpy(found.data).permute(0, 3, 1, 2), torch.tensor(found.targets))
