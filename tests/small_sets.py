"""Data sets of a few images, in the formats and under the names of the published ones."""

import hashlib
import pickle
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from runners.data import checksums, cifar, mnist, svhn
from runners.data.published import Checksum, Published

Bytes = NDArray[np.uint8]
N_CLASSES = {"cifar100": 100, "cifar100_part": 100, "emnist": 47, "tiny_imagenet": 4, "folder": 2}
# Name -> the module that reads it, and its constant there and in the catalogue.
READERS = {
    "cifar10": (cifar, "CIFAR10"),
    "cifar100": (cifar, "CIFAR100"),
    "cifar100_part": (cifar, "CIFAR100_PART"),
    "mnist": (mnist, "MNIST"),
    "fashion_mnist": (mnist, "FASHION_MNIST"),
    "emnist": (mnist, "EMNIST"),
    "svhn": (svhn, "SVHN"),
}
NAMES = (*READERS, "tiny_imagenet", "folder")


def images(seed: int, n: int, *shape: int) -> Bytes:
    """Random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def write_cifar(folder: Path, files: Mapping[str, int], label_key: str, names_key: str, meta: str, n_classes: int) -> None:
    """File -> number of images: pickles of rows of 3,072 bytes, red, green, blue; labels count on from 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, n) in enumerate(files.items()):
        body = {"data": images(number, n, 3072), label_key: [each % n_classes for each in range(n)]}
        (folder / name).write_bytes(pickle.dumps(body))
    (folder / meta).write_bytes(pickle.dumps({names_key: [f"class {number}" for number in range(n_classes)]}))


def write_idx(path: Path, array: Bytes) -> None:
    """LeCun's format: two zeros, 8 for bytes, the number of dimensions, their sizes, and the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def write_idx_pair(folder: Path, prefix: str, seed: int, n: int, n_classes: int) -> None:
    """Images of 28x28, and labels that count on from 0."""
    write_idx(folder / f"{prefix}-images-idx3-ubyte", images(seed, n, 28, 28))
    write_idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8) % n_classes)


def write_svhn(path: Path, seed: int, n: int) -> None:
    """MATLAB's array of rows, columns, colours, images; the digit 0 is called 10."""
    savemat(path, {"X": images(seed, n, 32, 32, 3).transpose(1, 2, 3, 0), "y": np.arange(1, n + 1)[:, None] % 10 + 1})


def write_folder(root: Path, classes: Mapping[str, int], size: tuple[int, int] = (12, 10), mode: str = "RGB") -> None:
    """Class -> number of PNG images of one random colour each."""
    for number, (name, n) in enumerate(classes.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for each in range(n):
            colour = tuple(images(100 * number + each, 3).tolist())
            Image.new("RGB", size, colour).convert(mode).save(root / name / f"{each}.png")


def write_tiny_imagenet(root: Path) -> None:
    """Four classes of five training images, and six others with their annotations in an order of their own."""
    wnids = [f"n0{number}" for number in (4, 1, 7, 2)]
    for wnid in wnids:
        write_folder(root / "tiny-imagenet-200/train" / wnid, {"images": 5}, (64, 64))
    write_folder(root / "tiny-imagenet-200/val", {"images": 6}, (64, 64), "L")
    lines = [f"{each}.png\t{wnids[each * 3 % 4]}\t0\t0\t62\t62" for each in (3, 0, 5, 1, 2, 4)]
    (root / "tiny-imagenet-200/val/val_annotations.txt").write_text("\n".join(lines) + "\n")


def write(name: str, root: Path) -> None:
    """A small version of a data set below a root."""
    match name:
        case "cifar10":
            batches = {**{f"data_batch_{number}": 10 for number in range(1, 6)}, "test_batch": 20}
            write_cifar(root / "cifar-10-batches-py", batches, "labels", "label_names", "batches.meta", 10)
        case "cifar100" | "cifar100_part":
            n_train = 200 if name == "cifar100" else 100
            folder, keys = root / "cifar-100-python", ("fine_labels", "fine_label_names", "meta")
            write_cifar(folder, {"train": n_train, "test": 100}, *keys, 100)
        case "mnist" | "fashion_mnist":
            folder = root / ("MNIST/raw" if name == "mnist" else "FashionMNIST/raw")
            write_idx_pair(folder, "train", 0, 40, 10)
            write_idx_pair(folder, "t10k", 1, 20, 10)
        case "emnist":
            write_idx_pair(root / "EMNIST/raw", "emnist-balanced-train", 0, 94, 47)
            write_idx_pair(root / "EMNIST/raw", "emnist-balanced-test", 1, 47, 47)
        case "svhn":
            root.mkdir(parents=True, exist_ok=True)
            for seed, (part, n) in enumerate({"train": 20, "test": 10, "extra": 30}.items()):
                write_svhn(root / f"{part}_32x32.mat", seed, n)
        case "tiny_imagenet":
            write_tiny_imagenet(root)
        case "folder":
            for part in ("train", "test"):
                write_folder(root / part, {"cats": 6, "dogs": 5})
        case _:
            raise ValueError(name)


def pin(monkeypatch: pytest.MonkeyPatch, name: str, root: Path) -> Published:
    """Makes the files that lie there now the published ones."""
    module, constant = READERS[name]
    before: Published = getattr(checksums, constant)

    def again(files: Mapping[str, Checksum]) -> dict[str, Checksum]:
        contents = {file: (root / file).read_bytes() for file in files}
        return {
            file: len(contents[file]) if isinstance(wanted, int) else hashlib.sha256(contents[file]).hexdigest()
            for file, wanted in files.items()
        }

    archives = tuple(replace(archive, files=again(archive.files)) for archive in before.archives)
    found = replace(before, archives=archives, by_hand=again(before.by_hand))
    monkeypatch.setattr(module, constant, found)
    [target] = [target for target, each in checksums.PUBLISHED.items() if each is before]
    monkeypatch.setattr(checksums, constant, found)
    monkeypatch.setitem(checksums.PUBLISHED, target, found)  # pyright: ignore[reportArgumentType]
    return found


def put(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Writes a small version of a data set; the overrides that lead to it."""
    write(name, root)
    if name in READERS:
        pin(monkeypatch, name, root)
    classes = [f"dataset.num_classes={N_CLASSES[name]}"] if name == "tiny_imagenet" else []
    return [f"data_root={root}", "dataset.score_share=0.5", *classes]
