"""Data sets, and the batches drawn from them, against slow obvious versions."""

import inspect
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torchvision.datasets import CIFAR10
from torchvision.transforms import functional as TF

from runners.data.cifar import cifar10
from runners.data.digits import digits
from runners.data.fake import fake
from runners.data.raw import Pixels, Raw
from runners.data.resident import Images, crops
from runners.data.splits import Splits, load, make_splits
from runners.process.counter import fold, permutation, random_integers
from runners.process.errors import ConfigError, DataError
from support import augmented_epochs, raises_line, resident

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def some_images(n: int = 23, *, channels: int = 3, height: int = 6, width: int = 5) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(n), MEAN[:channels], STD[:channels])


def load_digits(**changes: Any) -> Splits:
    given: dict[str, Any] = {
        "num_classes": 10,
        "channels": 1,
        "image_size": 16,
        "test_share": 0.2,
        "score_share": 0.5,
        "seed": 0,
    }
    given |= {"mean": (0.3,), "std": (0.35,)}
    return load(digits, given | changes)


def raw_images(n: int = 23) -> Pixels:
    return Pixels(some_images(n).pixels, torch.arange(n))


def splits_of(train: Pixels, test: Pixels | None = None, **changes: Any) -> Splits:
    given: dict[str, Any] = {"num_classes": 23, "channels": 3, "score_share": 0.5, "mean": MEAN, "std": STD, "seed": 0}
    return make_splits(Raw(train, test or train), **{**given, **changes})


def test_digits_have_the_known_counts_and_every_image_once() -> None:
    splits = load_digits()
    # 1,797 digits; a fifth, rounded up, is 360.
    assert (len(splits.train), len(splits.test), len(splits.score)) == (1437, 360, 718)
    assert resident(splits.train).pixels.shape[1:] == (1, 16, 16)
    assert resident(splits.train).pixels.dtype == torch.uint8
    # Class sizes of load_digits: 178 182 177 183 181 182 181 179 174 180.
    sizes = torch.tensor([178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    train, test = (torch.bincount(images.labels, minlength=10) for images in (splits.train, splits.test))
    assert torch.equal(train + test, sizes)
    assert ((test - sizes * 360 / 1797).abs() < 1).all()


def test_digits_are_the_same_for_the_same_seed_only() -> None:
    first, again, other = load_digits(), load_digits(), load_digits(seed=1)
    for part in ("train", "score", "test"):
        a, b, c = (resident(getattr(splits, part)) for splits in (first, again, other))
        assert torch.equal(a.pixels, b.pixels) and torch.equal(a.labels, b.labels)
        assert not torch.equal(a.pixels, c.pixels)
    assert len(other.train) == 1437

    def all_rows(splits: Splits) -> list[bytes]:
        return sorted(pixels.numpy().tobytes() for images in (splits.train, splits.test) for pixels in resident(images).pixels)

    assert all_rows(first) == all_rows(other)


def test_digits_repeat_their_grey_channel_and_fill_the_range() -> None:
    colour = load_digits(channels=3, mean=MEAN, std=STD)
    assert torch.equal(resident(colour.train).pixels, resident(load_digits().train).pixels.repeat(1, 3, 1, 1))
    assert int(resident(colour.train).pixels.max()) == 255 and int(resident(colour.train).pixels.min()) == 0


def test_score_split_is_a_seeded_part_of_the_training_split() -> None:
    images = raw_images(100)
    chosen = [splits_of(images, num_classes=100, score_share=0.29, seed=seed).score for seed in (0, 0, 1)]
    assert len(chosen[0]) == 29  # 0.29 * 100 is 28.999999999999996 in floating point
    assert torch.equal(chosen[0].labels, chosen[1].labels) and not torch.equal(chosen[0].labels, chosen[2].labels)
    assert torch.equal(resident(chosen[0]).pixels, images.pixels[chosen[0].labels])
    assert len(set(chosen[0].labels.tolist())) == 29
    assert len(splits_of(images, num_classes=100, score_share=0.02).score) == 2
    with raises_line(DataError, "score_share=0.01", 100, 1):
        splits_of(images, num_classes=100, score_share=0.01)


def test_example_is_one_normalised_image() -> None:
    images = raw_images()
    splits = splits_of(images, score_share=1)
    expected = TF.normalize(images.pixels[:1].float() / 255, list(MEAN), list(STD))
    assert splits.example.shape == (1, 3, 6, 5)
    assert torch.allclose(splits.example, expected, atol=1e-6)


def slow_epoch(
    images: Images, batch_size: int, crop_padding: int, flip: bool, seed: int, epoch: int
) -> list[tuple[Tensor, Tensor]]:
    """One image at a time, with torchvision's functions and the same random draws."""
    key, n, offsets = fold(seed, epoch), len(images), 2 * crop_padding + 1
    order = permutation(n, key, 0)
    dy, dx, mirror = (
        random_integers(torch.arange(n), below, fold(key, draw)).tolist()
        for draw, below in ((1, offsets), (2, offsets), (3, 1 + flip))
    )
    batches = []
    for start in range(0, n, batch_size):
        rows = []
        for i in order[start : start + batch_size].tolist():
            image = images.pixels[i]
            height, width = image.shape[-2:]
            image = TF.hflip(image) if mirror[i] else image
            image = TF.crop(TF.pad(image, [crop_padding]), dy[i], dx[i], height, width)
            rows.append(TF.normalize(image.float() / 255, list(images.mean), list(images.std)))
        batches.append((torch.stack(rows), images.labels[order[start : start + batch_size]]))
    return batches


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("crop_padding", [0, 1, 4])
def test_augmented_batches_equal_the_slow_obvious_version(flip: bool, crop_padding: int) -> None:
    images = some_images()
    epochs = augmented_epochs(images, batch_size=5, crop_padding=crop_padding, flip=flip)
    for seed, epoch in ((0, 0), (0, 1), (7, 3)):
        found, expected = list(epochs(seed, epoch)), slow_epoch(images, 5, crop_padding, flip, seed, epoch)
        assert [len(labels) for _, labels in found] == [5, 5, 5, 5, 3]
        for (x, labels), (slow_x, slow_labels) in zip(found, expected, strict=True):
            assert torch.equal(labels, slow_labels)
            assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
            assert torch.allclose(x, slow_x, atol=1e-6)


def test_every_image_comes_once_an_epoch_in_an_order_of_its_own() -> None:
    epochs = augmented_epochs(some_images(50), batch_size=8, crop_padding=2, flip=True)
    orders = [torch.cat([labels for _, labels in epochs(*key)]).tolist() for key in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(50)) for order in orders)


def placed(n: int, *, flip: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets and mirroring of n images, read off the pixels of what comes out."""
    # Two marks, left and right of the centre, which no 9x9 crop out of 17x17 can lose together with the centre.
    pixels = torch.zeros(n, 1, 9, 9, dtype=torch.uint8)
    pixels[:, 0] = torch.arange(1, 82, dtype=torch.uint8).reshape(9, 9)
    images = Images(pixels, torch.arange(n), (0.0,), (1.0,))
    x, labels = next(augmented_epochs(images, batch_size=n, crop_padding=4, flip=flip)(3, 0))
    found = (x[labels.argsort(), 0] * 255).round().int().numpy()
    _, y_centre, x_centre = np.nonzero(found == 41)  # row 4, column 4
    assert len(y_centre) == n
    y, x_ = 8 - y_centre, 8 - x_centre
    rows = found[np.arange(n), y_centre]
    # In a row that is not mirrored the values grow from left to right wherever the crop lies.
    inside = [row[row > 0] for row in rows]
    mirrored = np.array([part[0] > part[-1] for part in inside])
    return y, x_, mirrored


def test_all_offsets_and_both_mirrors_come_equally_often_and_independently() -> None:
    n = 8100
    y, x, mirrored = placed(n, flip=True)
    counts = np.zeros((2, 9, 9))
    np.add.at(counts, (mirrored.astype(int), y, x), 1)
    # 162 cells of 50 images each; one in a thousand right generators would fail, and this one is a fixed one.
    assert chisquare(counts.ravel()).pvalue > 0.001
    biased = counts.copy()
    biased[0, 0, :] += 25  # the control: one edge half again as likely
    assert chisquare(biased.ravel()).pvalue < 0.001


def test_nothing_is_mirrored_without_flip() -> None:
    y, x, mirrored = placed(2000, flip=False)
    assert not mirrored.any()
    assert len({*zip(y.tolist(), x.tolist(), strict=True)}) == 81


def test_no_padding_and_no_flip_give_the_images_as_they_are() -> None:
    images = some_images()
    x, labels = next(augmented_epochs(images, batch_size=23, crop_padding=0, flip=False)(0, 0))
    assert torch.equal(x, images.normalise(images.pixels[labels]))


@pytest.mark.parametrize("flip", [True, False])
def test_crops_are_taken_from_a_view_of_the_padded_images(flip: bool) -> None:
    images = some_images(10, height=8, width=8)
    held = inspect.getclosurevars(crops(images.pixels, crop_padding=4, flip=flip)).nonlocals
    runs = held["runs"]
    assert runs.shape == ((1 + flip) * 10 * 3 * 16 * 16 - 23, 24), "every start of a row of 8 pixels of 3 bytes"
    # Padded to 16x16, once or twice; a copy of all windows would be 81 times the images.
    assert runs.untyped_storage().nbytes() == (1 + flip) * 10 * 3 * 16 * 16


def test_batches_are_the_images_in_order() -> None:
    images = some_images()
    batches = list(images.batches(10))
    assert [len(labels) for _, labels in batches] == [10, 10, 3]
    assert torch.equal(torch.cat([labels for _, labels in batches]), images.labels)
    assert torch.equal(torch.cat([x for x, _ in batches]), images.normalise(images.pixels))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_classes": 22}, ["training", "0 to 22", "dataset.num_classes=22", "0 to 21"]),
        ({"train": Pixels(some_images().pixels, torch.arange(23) - 1)}, ["training", "-1 to 21", "0 to 22"]),
        ({"train": raw_images(0)}, ["training", "empty"]),
        ({"test": raw_images(0)}, ["test", "empty"]),
        ({"channels": 1}, [3, "dataset.channels=1"]),
        ({"mean": MEAN[:1]}, ["dataset.mean has 1", "dataset.std 3"]),
        ({"std": STD[:2]}, ["dataset.mean has 3", "dataset.std 2"]),
        ({"train_images": 24}, ["dataset.train_images=24", 23]),
    ],
)
def test_wrong_splits_are_refused_in_one_line(changes: dict[str, Any], told: list[object]) -> None:
    splits_of(raw_images())
    with raises_line(DataError, *told):
        splits_of(**{"train": raw_images(), **changes})


def test_the_given_share_of_training_labels_is_drawn_at_random() -> None:
    n, num_classes = 20_000, 5
    labels = torch.arange(n) % num_classes
    images = Pixels(torch.zeros(n, 1, 1, 1, dtype=torch.uint8), labels)
    look: dict[str, Any] = {"num_classes": num_classes, "channels": 1, "score_share": 0.5, "mean": (0.5,), "std": (1.0,)}

    def drawn(share: float, seed: int = 0) -> Splits:
        return make_splits(Raw(images, images), **look, random_labels=share, seed=seed)

    half = drawn(0.5)
    changed = half.train.labels != labels
    # Half of them are drawn, and one in five of these is right by chance: 0.4; the standard deviation is 0.0035.
    assert float(changed.float().mean()) == pytest.approx(0.4, abs=0.0125)
    counts = torch.bincount(half.train.labels[changed] * num_classes + labels[changed], minlength=25).view(5, 5)
    assert chisquare(counts[~torch.eye(5, dtype=torch.bool)].numpy()).pvalue > 0.001
    assert torch.equal(half.test.labels, labels) and torch.equal(drawn(0).train.labels, labels)
    assert torch.equal(half.train.labels, drawn(0.5).train.labels)
    assert not torch.equal(half.train.labels, drawn(0.5, seed=1).train.labels)
    assert float((drawn(1).train.labels != labels).float().mean()) == pytest.approx(0.8, abs=0.0125)


def test_some_training_images_are_drawn_from_all_classes_alike() -> None:
    labels = torch.tensor([0] * 100 + [2] * 3 + [3] * 50)[permutation(153, 7)]
    images = Pixels(torch.arange(153, dtype=torch.uint8)[:, None, None, None], labels)
    look: dict[str, Any] = {"num_classes": 4, "channels": 1, "score_share": 0.5, "mean": (0.5,), "std": (1.0,)}

    def drawn(n: int | None, seed: int = 0) -> Images:
        return resident(make_splits(Raw(images, images), **look, train_images=n, seed=seed).train)

    for n, counts in ((9, [3, 0, 3, 3]), (20, [9, 0, 3, 8]), (153, [100, 0, 3, 50])):
        found = drawn(n)
        numbers = found.pixels.flatten().long()
        assert found.labels.bincount(minlength=4).tolist() == counts
        assert torch.equal(found.labels, labels[numbers]) and (numbers.diff() > 0).all()
    assert torch.equal(drawn(20).pixels, drawn(20).pixels) and not torch.equal(drawn(20).pixels, drawn(20, seed=1).pixels)
    assert set(drawn(9).pixels.flatten().tolist()) < set(drawn(20).pixels.flatten().tolist())
    assert torch.equal(drawn(None).pixels, images.pixels)


def test_keys_go_to_the_arguments_of_their_name_and_others_are_refused() -> None:
    wanted = {"num_images": 8, "channels": 1, "image_size": 4, "num_classes": 2, "mean": [0.5], "std": [0.5], "seed": 0}
    splits = load(fake, wanted | {"score_share": 0.5, "about": "", "_target_": "", "crop_padding": 3, "flip": True})
    assert isinstance(splits.train, Images) and (splits.train.crop_padding, splits.train.flip) == (3, True)
    with raises_line(ConfigError, "dataset.foo"):
        load(fake, wanted | {"score_share": 0.5, "foo": 1})
    with raises_line(ConfigError, "dataset.score_share"):
        load(fake, wanted)


def test_fake_images_have_balanced_labels_and_depend_on_the_seed() -> None:
    def make(seed: int) -> Splits:
        given = {"num_images": 40, "channels": 3, "image_size": 8, "num_classes": 4, "score_share": 0.5}
        return load(fake, given | {"mean": MEAN, "std": STD, "seed": seed})

    first, again, other = make(0), make(0), make(1)
    assert torch.bincount(first.train.labels).tolist() == [10] * 4
    assert torch.equal(resident(first.train).pixels, resident(again.train).pixels)
    assert not torch.equal(resident(first.train).pixels, resident(other.train).pixels)
    assert not torch.equal(resident(first.train).pixels, resident(first.test).pixels)
    brightness = torch.stack([resident(first.train).pixels[first.train.labels == label].float().mean() for label in range(4)])
    assert (brightness.diff() > 20).all()  # a quarter of 127 apart


def load_cifar(data_root: Path) -> Raw:
    return cifar10(data_root=str(data_root), download_root=str(data_root / "never"))


class Canary:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_cifar_says_which_folder_is_missing_and_downloads_nothing(tmp_path: Path) -> None:
    with raises_line(DataError, f"data_root={tmp_path}", "'cifar-10-batches-py'"):
        load_cifar(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cifar_reads_no_pickle_with_another_checksum(tmp_path: Path) -> None:
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    canary = tmp_path / "canary"
    for name in [name for name, _ in CIFAR10.train_list + CIFAR10.test_list] + ["batches.meta"]:
        (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    with raises_line(DataError, folder, "checksums"):
        load_cifar(tmp_path)
    assert not canary.exists()
    pickle.loads((folder / "data_batch_1").read_bytes())
    assert canary.exists()  # the control: the trap does go off when it is read


@pytest.mark.slow
def test_cifar_has_its_60000_images(real_data: Path) -> None:
    splits = load_cifar(real_data)
    assert isinstance(splits.train, Pixels) and (len(splits.train.labels), len(splits.test.labels)) == (50_000, 10_000)
    assert splits.train.pixels.shape[1:] == (3, 32, 32)
    assert torch.bincount(splits.train.labels).tolist() == [5000] * 10
    assert torch.bincount(splits.test.labels).tolist() == [1000] * 10
    # Mean of the training pixels, channel by channel: 0.4914 0.4822 0.4465 in every code that normalises CIFAR-10.
    mean = splits.train.pixels.permute(1, 0, 2, 3).flatten(1).double().mean(1) / 255
    assert mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_batch", "batches.meta"])
def test_cifar_refuses_one_changed_file_among_right_ones(real_data: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    for path in (real_data / CIFAR10.base_folder).iterdir():
        (folder / path.name).symlink_to(path.resolve())
    canary = tmp_path / "canary"
    (folder / name).unlink()
    (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(DataError):
        load_cifar(tmp_path)
    assert not canary.exists()
