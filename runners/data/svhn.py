"""The Street View House Numbers, from their published MATLAB files, which hold numbers alone."""

from pathlib import Path

import torch
from torchvision import datasets

from runners.data.checksums import SVHN
from runners.data.download import find
from runners.data.raw import Pixels, Raw


def svhn(*, data_root: str | None, extra: bool) -> Raw:
    """The 73,257 + 26,032 cropped digits of 32x32 pixels in colour (Netzer et al. 2011); label 0 is the digit 0.

    Args:
        data_root: folder that holds `train_32x32.mat` and `test_32x32.mat`, as torchvision stores them.
        extra: the 531,131 easier images of `extra_32x32.mat` are training images too, 604,388 in all: 1.9 GB on the device,
            and twice as much in memory while they are read.

    Raises:
        DataError: no such files, or files with another checksum.
    """
    root, files = find(SVHN, data_root, options={"extra": extra})
    parts = [_read(root, name) for name in (("train", "extra") if extra else ("train",))]
    train = Pixels(torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts]))
    return Raw(train, _read(root, "test"), files)


class Reader(datasets.SVHN):
    """torchvision's reader without its MD5 sums, which take longer than the SHA-256 that was checked."""

    split_list = {split: [url, name, None] for split, (url, name, _) in datasets.SVHN.split_list.items()}


def _read(root: Path, split: str) -> Pixels:
    found = Reader(root, split=split)
    return Pixels(torch.from_numpy(found.data), torch.from_numpy(found.labels))
