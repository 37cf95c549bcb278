"""CIFAR-10, from its published files, which are pickles: none is read whose SHA-256 is not the published one."""

from pathlib import Path

import torch
from torchvision.datasets import CIFAR10

from runners.data.download import Archive, prepare, wrong_file
from runners.data.resident import Images
from runners.data.splits import Splits, make_splits
from runners.process.errors import DataError

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


def cifar10(
    *,
    data_root: str | None,
    download_root: str,
    num_classes: int,
    channels: int,
    score_share: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int,
) -> Splits:
    """The real 50,000 + 10,000 images (Krizhevsky 2009).

    Args:
        data_root: folder that holds `cifar-10-batches-py`; null downloads it to `download_root`.

    Raises:
        DataError: no such files, files with another checksum, or no network to download them.
    """
    root = Path(data_root or download_root)
    if data_root is None:
        prepare(ARCHIVE, root)
    _check_files(root)
    splits = [_read(root, train=train) for train in (True, False)]
    images = [Images(pixels, labels, tuple(mean), tuple(std)) for pixels, labels in splits]
    return make_splits(*images, num_classes=num_classes, channels=channels, score_share=score_share, seed=seed)


def _check_files(root: Path) -> None:
    folder = root / CIFAR10.base_folder
    if not folder.is_dir():
        raise DataError(
            f"data_root={root} has no folder {CIFAR10.base_folder!r}; torchvision's CIFAR-10 files are needed there; "
            "give the folder above it, or leave data_root out to download"
        )
    if wrong := wrong_file(ARCHIVE, root):
        raise DataError(
            f"the files in {folder} are incomplete or do not have the published checksums ({wrong}); torchvision's CIFAR-10 "
            "is needed; delete that folder and unpack or download it again"
        )


def _read(root: Path, *, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    found = CIFAR10(root, train=train)
    return torch.from_numpy(found.data).permute(0, 3, 1, 2), torch.tensor(found.targets)
