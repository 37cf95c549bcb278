"""MNIST, from its four published files."""

from pathlib import Path

from torchvision.datasets import MNIST

from runners.data.download import check_files
from runners.data.raw import Pixels, Raw
from runners.process.errors import DataError

FILES = {
    "MNIST/raw/train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "MNIST/raw/train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "MNIST/raw/t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "MNIST/raw/t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def mnist(*, data_root: str | None) -> Raw:
    """The 60,000 + 10,000 images of 28x28 grey levels (LeCun, Cortes and Burges 1998).

    Args:
        data_root: folder that holds `MNIST/raw`, unpacked.

    Raises:
        DataError: no such files, or files with another checksum.
    """
    if data_root is None:
        raise DataError("data_root=null; MNIST is not downloaded; give the folder above MNIST/raw as data_root=DIR")
    root = Path(data_root)
    check_files(FILES, root)
    return Raw(_read(root, train=True), _read(root, train=False), tuple(root / name for name in FILES))


def _read(root: Path, *, train: bool) -> Pixels:
    found = MNIST(root, train=train)
    return Pixels(found.data[:, None], found.targets)
