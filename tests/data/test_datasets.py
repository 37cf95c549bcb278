"""Every data set of conf/dataset: it composes, gives normalised batches, and augments as its YAML says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_sets
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_method
from omegaconf import OmegaConf
from PIL import Image

from runners.command.arguments import options
from runners.data import mnist
from runners.data.raw import Files, Pixels, Raw
from runners.data.resident import Images
from runners.data.splits import Splits, make_splits, parted
from runners.storage.keys import AUGMENTATION, DATASET_BOOKKEEPING
from support import AUGMENTED, ROOT, augmented_epochs

DATASETS = options("dataset")


def config(name: str, *overrides: str) -> dict[str, Any]:
    """The whole config of a run on a data set, as plain values."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        found = compose("config", [f"dataset={name}", f"outputs={ROOT / 'outputs'}", *overrides])
    return {key: OmegaConf.to_container(found[key], resolve=True) for key in ("dataset", "recipe", "finetune")}


def photographs(folder: Path, n: int) -> None:
    """One small image for each of `n` classes."""
    for number in range(n):
        path = folder / f"n{number:08d}" / "image.jpg"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((20, 30, 3), number % 256, np.uint8)).save(path)


def stand_in(name: str, monkeypatch: pytest.MonkeyPatch, root: Path) -> list[str]:
    """Puts small data where the large ones would lie; the overrides that lead to them."""
    if name.startswith("imagenet"):
        small = ["dataset.image_size=12", "dataset.resize=16", "dataset.num_workers=0", "dataset.num_classes=6"]
        for folder in ("train", "val", "imagenet_sample/val"):
            photographs(root / folder, 6)
        return [f"data_root={root}", "dataset.score_share=1", *small]
    if name in small_sets.NAMES:
        return small_sets.put(name, root, monkeypatch)
    return ["dataset.score_share=0.5"]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], tuple[Raw, Splits, dict[str, Any]]]:
    """The images, the splits and the config of a data set, small where the real one is not at hand."""

    def build(name: str) -> tuple[Raw, Splits, dict[str, Any]]:
        given = config(name, *stand_in(name, monkeypatch, tmp_path))["dataset"]
        function = get_method(given["_target_"])
        own, common = parted(function, given)
        raw = function(**own)
        return raw, make_splits(raw, **common), given

    return build


def pixels_of(part: Pixels | Files, index: int) -> torch.Tensor:
    """One image that measures, by hand."""
    if isinstance(part, Pixels):
        return part.pixels[index]
    with Image.open(part.root / part.names[index]) as image:  # 20 x 30, all of one colour
        colour = torch.tensor(np.asarray(image)[0, 0])
    return colour[:, None, None].expand(3, part.image_size, part.image_size)


@pytest.mark.parametrize("name", DATASETS)
def test_images_are_normalised_and_labels_in_range(name: str, built: Callable[[str], Any]) -> None:
    raw, splits, given = built(name)
    for part, split in ((raw.train, splits.train), (raw.test, splits.test)):
        x, labels = next(split.batches(4))
        assert labels.min() >= 0 and int(split.labels.max()) < given["num_classes"] and torch.equal(labels, part.labels[:4])
        assert x.shape == (min(4, len(split)), given["channels"], *splits.example.shape[2:])
        for channel, (mean, std) in enumerate(zip(given["mean"], given["std"], strict=True)):
            for row, column in ((0, 0), (5, 7)):
                slow = (int(pixels_of(part, 0)[channel, row, column]) / 255 - mean) / std
                assert float(x[0, channel, row, column]) == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize("name", DATASETS)
def test_training_images_are_augmented_as_the_data_set_says(name: str, built: Callable[[str], Any]) -> None:
    _, splits, given = built(name)
    train, shape = splits.train, splits.example.shape[1:]
    assert train.flip == given["flip"]
    if isinstance(train, Images):
        assert train.crop_padding == given["crop_padding"]
        epochs = augmented_epochs(train, batch_size=4, crop_padding=train.crop_padding, flip=train.flip)
        x, labels = next(epochs(0, 0))
    else:
        steps = train.steps(2, stream=0, changes=AUGMENTED)
        steps.begin(0, position=0)
        steps.load()
        x, labels = steps.draw(2)
    assert x.shape == (len(labels), *shape) and bool(x.isfinite().all())


@pytest.mark.parametrize("name", DATASETS)
def test_recipes_leave_augmentation_to_the_data_set(name: str) -> None:
    found = config(name, "data_root=here")
    assert set(found["dataset"]) & set(AUGMENTATION) and found["dataset"]["random_labels"] == 0
    for section in ("recipe", "finetune"):
        assert found[section]["augment"] is True and not set(found[section]) & set(AUGMENTATION)
    # Digits and letters are not what they were in a mirror; your own images may be such.
    assert found["dataset"]["flip"] is (name not in ("digits", "mnist", "emnist", "svhn", "folder"))


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_says_how_many_images_it_has_and_that_changes_no_key(name: str, built: Callable[[str], Any]) -> None:
    raw, _, given = built(name)
    assert name == "folder" or len(given.get("images", [0, 0])) == 2
    if name in ("digits", "fake"):  # those that are whole here
        assert given["images"] == [len(raw.train.labels), len(raw.test.labels)]
    assert {"images", "part_of", "about", "download_root"} <= DATASET_BOOKKEEPING


@pytest.mark.slow
def test_mnist_has_its_70000_images(real_data: Path) -> None:
    raw = mnist.mnist(data_root=str(real_data), download_root="")
    assert isinstance(raw.train, Pixels) and (len(raw.train.labels), len(raw.test.labels)) == (60_000, 10_000)
    # Class sizes of LeCun's two files.
    assert torch.bincount(raw.train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(raw.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    pixels = raw.train.pixels.double() / 255
    # 0.1307 and 0.3081 in every code that normalises MNIST.
    assert (float(pixels.mean()), float(pixels.std())) == (pytest.approx(0.1307, abs=5e-5), pytest.approx(0.3081, abs=5e-5))


@pytest.mark.slow
def test_the_photographs_are_one_of_each_class_of_imagenet(real_data: Path) -> None:
    given = config("imagenet_sample", f"data_root={real_data}")["dataset"]
    function = get_method(given["_target_"])
    own, common = parted(function, given)
    splits = make_splits(function(**own), **common)
    labels = torch.cat([splits.train.labels, splits.test.labels])
    assert (len(splits.train), len(splits.test)) == (500, 500) and labels.sort().values.tolist() == list(range(1000))
    x, _ = next(splits.test.batches(500))
    assert x.shape == (500, 3, 224, 224)
    # Photographs of many things are on average what ImageNet's mean and standard deviation say.
    assert x.mean((0, 2, 3)).abs().max() < 0.1 and (x.std((0, 2, 3)) - 1).abs().max() < 0.25
