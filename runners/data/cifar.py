"""CIFAR-10, through torchvision's files and checksums."""

from pathlib import Path

import torch
from torchvision.datasets import CIFAR10

from runners.data.resident import Images
from runners.data.splits import Splits, make_splits
from runners.errors import DataError


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
    splits = [_read(root, train=train, download=data_root is None) for train in (True, False)]
    images = [Images(pixels, labels, tuple(mean), tuple(std)) for pixels, labels in splits]
    return make_splits(*images, num_classes=num_classes, channels=channels, score_share=score_share, seed=seed)


def _read(root: Path, *, train: bool, download: bool) -> tuple[torch.Tensor, torch.Tensor]:
    folder = root / CIFAR10.base_folder
    if not download and not folder.is_dir():
        raise DataError(
            f"data_root={root} has no folder {CIFAR10.base_folder!r}; torchvision's CIFAR-10 files are needed there; "
            "give the folder above it, or leave data_root out to download"
        )
    try:
        found = CIFAR10(root, train=train, download=download)
    except RuntimeError as error:
        raise DataError(
            f"the files in {folder} are incomplete or do not have the published checksums; torchvision's CIFAR-10 is "
            "needed; delete that folder and unpack or download it again"
        ) from error
    except OSError as error:
        raise DataError(
            f"CIFAR-10 could not be downloaded to {root} ({error}); a network or the files are needed; download them "
            "elsewhere and pass data_root=FOLDER"
        ) from error
    return torch.from_numpy(found.data).permute(0, 3, 1, 2), torch.tensor(found.targets)
