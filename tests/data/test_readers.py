"""Readers of published files: pixels and labels as they were written, upright and in order, and none but the pinned files."""

import inspect
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_sets
import torch
from small_sets import READERS, Bytes, images, pin, write, write_idx, write_idx_pair

from runners.data import checksums
from runners.data.cifar import cifar100, cifar100_part
from runners.data.mnist import emnist, fashion_mnist, mnist
from runners.data.raw import Pixels, Raw
from runners.data.svhn import svhn
from runners.process.errors import DataError
from support import raises_line


class Canary:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def read(name: str, root: Path | str | None, **options: Any) -> Raw:
    """The images of a data set below a root."""
    function = getattr(READERS[name][0], name)
    if "download_root" in inspect.signature(function).parameters:
        options["download_root"] = str(Path(root or "") / "never")
    if name == "svhn":
        options.setdefault("extra", True)
    return function(data_root=None if root is None else str(root), **options)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a small data set below a root, and makes it the published one."""

    def put(name: str) -> Path:
        small_sets.put(name, tmp_path, monkeypatch)
        return tmp_path

    return put


def arrays(part: object) -> tuple[Bytes, list[int]]:
    """Pixels and labels of images in memory."""
    assert isinstance(part, Pixels) and part.pixels.dtype == torch.uint8 and part.labels.dtype == torch.int64
    return part.pixels.numpy(), part.labels.tolist()


@pytest.mark.parametrize(("name", "n_train"), [("cifar10", 50), ("cifar100", 200), ("cifar100_part", 100)])
def test_rows_of_cifar_are_red_green_and_blue_planes(name: str, n_train: int, small: Callable[[str], Path]) -> None:
    raw = read(name, small(name))
    pixels, labels = arrays(raw.train)
    assert pixels.shape == (n_train, 3, 32, 32) and labels == [each % (10 if name == "cifar10" else 100) for each in labels]
    # Byte 1024 * channel + 32 * row + column of a row of `data` (Krizhevsky's page of the set).
    first = images(0, 10 if name == "cifar10" else n_train, 3072)[7]
    for channel, row, column in ((0, 0, 0), (0, 3, 30), (1, 9, 4), (2, 31, 31)):
        assert pixels[7, channel, row, column] == first[1024 * channel + 32 * row + column]
    assert all(path.is_file() for path in raw.read) and len(raw.read) == (7 if name == "cifar10" else 3)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_rows_of_mnist_stay_rows(name: str, small: Callable[[str], Path]) -> None:
    raw = read(name, small(name))
    for part, seed, n in ((raw.train, 0, 40), (raw.test, 1, 20)):
        pixels, labels = arrays(part)
        assert np.array_equal(pixels, images(seed, n, 28, 28)[:, None]) and labels == [each % 10 for each in range(n)]


def test_letters_of_emnist_are_put_upright(small: Callable[[str], Path]) -> None:
    raw = read("emnist", small("emnist"))
    for part, seed, n in ((raw.train, 0, 94), (raw.test, 1, 47)):
        pixels, labels = arrays(part)
        written = images(seed, n, 28, 28)
        assert all(pixels[5, 0, row, column] == written[5, column, row] for row, column in ((0, 27), (3, 9), (27, 1)))
        assert np.array_equal(pixels[:, 0], written.transpose(0, 2, 1)) and labels == [each % 47 for each in range(n)]


def test_classes_of_emnist_are_balanced_or_it_is_not_emnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("emnist", tmp_path)
    labels = (np.arange(94) % 47).astype(np.uint8)
    labels[0] = 1
    write_idx(tmp_path / "EMNIST/raw/emnist-balanced-train-labels-idx1-ubyte", labels)
    pin(monkeypatch, "emnist", tmp_path)
    with raises_line(DataError, tmp_path / "EMNIST/raw", 1, 3, "unpack"):
        read("emnist", tmp_path)


@pytest.mark.parametrize("extra", [True, False])
def test_house_numbers_are_in_order_with_the_extra_ones_last(extra: bool, small: Callable[[str], Path]) -> None:
    raw = read("svhn", small("svhn"), extra=extra)
    pixels, labels = arrays(raw.train)
    written = [(0, 20), (2, 30)] if extra else [(0, 20)]
    assert np.array_equal(pixels, np.concatenate([images(seed, n, 32, 32, 3) for seed, n in written]).transpose(0, 3, 1, 2))
    # The file calls the digits 2, 3, ..., 10, 1, 2, ...; 10 is the digit 0.
    assert labels == [(number % 10 + 1) % 10 for _, n in written for number in range(1, n + 1)]
    test_pixels, test_labels = arrays(raw.test)
    assert test_pixels.shape == (10, 3, 32, 32) and sorted(test_labels) == list(range(10))
    assert {path.name for path in raw.read} == {f"{part}_32x32.mat" for part in ["train", "test"] + ["extra"] * extra}


def test_without_the_extra_images_their_file_is_not_needed(small: Callable[[str], Path]) -> None:
    root = small("svhn")
    (root / "extra_32x32.mat").unlink()
    assert len(read("svhn", root, extra=False).train.labels) == 20
    with raises_line(DataError, "extra_32x32.mat", root, "http://ufldl.stanford.edu/housenumbers"):
        read("svhn", root)


@pytest.mark.parametrize("name", list(READERS))
def test_a_truncated_longer_or_missing_file_is_found_before_it_is_read(name: str, small: Callable[[str], Path]) -> None:
    root = small(name)
    files = getattr(checksums, READERS[name][1]).files({"extra": True})
    read(name, root)
    for file, wanted in files.items():
        content = (root / file).read_bytes()
        for damaged in (content[:-1], content + b"\0", b""):
            (root / file).write_bytes(damaged)
            with raises_line(DataError, file, wanted, (root / file).parent, "published"):
                read(name, root)
        (root / file).unlink()
        with raises_line(DataError, f"{file} is missing", (root / file).parent):
            read(name, root)
        (root / file).write_bytes(content)
    read(name, root)


@pytest.mark.parametrize("name", ["cifar100", "cifar100_part"])
def test_no_pickle_with_another_checksum_is_read(name: str, small: Callable[[str], Path]) -> None:
    root = small(name)
    canary = root / "canary"
    for file in ("train", "test", "meta"):
        content = (root / "cifar-100-python" / file).read_bytes()
        (root / "cifar-100-python" / file).write_bytes(pickle.dumps(Canary(canary)))
        with raises_line(DataError, f"cifar-100-python/{file}", "checksums"):
            read(name, root)
        (root / "cifar-100-python" / file).write_bytes(content)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary)))
    assert canary.exists()  # the control


@pytest.mark.parametrize("name", list(READERS))
def test_a_missing_set_says_what_to_put_where(name: str, tmp_path: Path) -> None:
    published = getattr(checksums, READERS[name][1])
    files = published.files({"extra": True})
    with raises_line(DataError, tmp_path, *(Path(file).name for file in files), published.address):
        read(name, tmp_path)
    if not published.archives:
        with raises_line(DataError, "data_root=null", *(Path(file).name for file in files), published.address, "data_root=DIR"):
            read(name, None)
    assert not list(tmp_path.iterdir())


def test_the_part_of_cifar100_is_not_taken_for_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("cifar100_part", tmp_path)
    pin(monkeypatch, "cifar100_part", tmp_path)
    with raises_line(DataError, "dataset=cifar100_part", tmp_path):
        cifar100(data_root=str(tmp_path), download_root="")
    assert len(cifar100_part(data_root=str(tmp_path)).train.labels) == 100
    write("cifar100", tmp_path / "whole")
    pin(monkeypatch, "cifar100", tmp_path / "whole")
    assert len(cifar100(data_root=str(tmp_path / "whole"), download_root="").train.labels) == 200
    with raises_line(DataError, "cifar-100-python/train", "checksums"):
        cifar100_part(data_root=str(tmp_path / "whole"))


@pytest.mark.parametrize("reader", [mnist, fashion_mnist, emnist])
def test_a_set_that_is_offered_is_fetched_to_the_download_root(
    reader: Callable[..., Raw], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, fetched = reader.__name__, []

    def fetch(archive: Any, root: Path) -> None:
        fetched.append(archive.name)
        if len(fetched) == 1:
            write(name, root)

    write(name, tmp_path / "source")
    published = pin(monkeypatch, name, tmp_path / "source")
    monkeypatch.setattr("runners.data.download.prepare", fetch)
    raw = reader(data_root=None, download_root=str(tmp_path / "here"))
    assert len(raw.test.labels) in (20, 47) and all(tmp_path / "here" in path.parents for path in raw.read)
    assert fetched == [archive.name for archive in published.archives]


def test_files_of_the_wrong_kind_under_right_names_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fashion-MNIST's files have MNIST's names: another set's folder is no mistake that stays unnoticed."""
    write_idx_pair(tmp_path / "FashionMNIST/raw", "train", 5, 40, 10)
    write_idx_pair(tmp_path / "FashionMNIST/raw", "t10k", 6, 20, 10)
    with raises_line(DataError, "FashionMNIST/raw/train-images-idx3-ubyte", "checksums"):
        fashion_mnist(data_root=str(tmp_path), download_root="")


@pytest.mark.slow
def test_the_part_of_cifar100_has_its_30000_images(real_data: Path) -> None:
    raw = cifar100_part(data_root=str(real_data))
    (train, labels), (test, test_labels) = arrays(raw.train), arrays(raw.test)
    assert train.shape == (20_000, 3, 32, 32) and test.shape == (10_000, 3, 32, 32)
    assert np.bincount(labels).tolist() == [200] * 100 and np.bincount(test_labels).tolist() == [100] * 100
    # 0.5071 0.4865 0.4409 in every code that normalises CIFAR-100; of 20,000 of its 50,000 images the means differ by
    # 0.25 / sqrt(20,000) / sqrt(effective pixels) or so.
    assert (train.mean((0, 2, 3)) / 255).tolist() == pytest.approx([0.5071, 0.4865, 0.4409], abs=3e-3)
    with raises_line(DataError, "dataset=cifar100_part"):
        cifar100(data_root=str(real_data), download_root="")


def test_extra_images_are_read_into_one_tensor(small: Callable[[str], Path]) -> None:
    part = svhn(data_root=str(small("svhn")), extra=True).train
    assert isinstance(part, Pixels) and len(part.labels) == 50 and part.pixels.shape[1:] == (3, 32, 32)
