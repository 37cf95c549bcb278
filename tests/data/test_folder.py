"""Images of one's own, in memory or streamed; whatever is wrong with them is one line before anything is trained."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import write_folder, write_tiny_imagenet

from runners.data import folder as folder_module
from runners.data.folder import folder, tiny_imagenet
from runners.data.image_folder import image_folder, image_folders
from runners.data.raw import Files, Pixels, Raw
from runners.data.splits import load
from runners.process.errors import ConfigError, DataError
from support import Command, check_refused, raises_line

OPTIONS: dict[str, Any] = {
    "train": "train",
    "test": "test",
    "num_classes": 2,
    "channels": 3,
    "image_size": None,
    "resize": None,
    "crop_scale": None,
    "num_workers": 2,
}
CLASSES = {"cats": 6, "dogs": 5}
STREAMED = {"resize": 8, "image_size": 8}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eleven training and four test images of 12x10 pixels, each of one colour."""
    write_folder(tmp_path / "train", CLASSES)
    write_folder(tmp_path / "test", {"cats": 2, "dogs": 2})
    return tmp_path


def read(root: Path, **changes: Any) -> Raw:
    return folder(data_root=str(root), **{**OPTIONS, **changes})


def slow(root: Path, mode: str) -> tuple[list[np.ndarray], list[int]]:
    """One image after another, by Pillow alone."""
    paths = [(path, label) for label, name in enumerate(sorted(CLASSES)) for path in sorted((root / name).iterdir())]
    return [np.asarray(Image.open(path).convert(mode)) for path, _ in paths], [label for _, label in paths]


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (1, "L")])
def test_images_are_taken_as_they_are(channels: int, mode: str, root: Path) -> None:
    raw = read(root, channels=channels)
    for part, name in ((raw.train, "train"), (raw.test, "test")):
        pixels, labels = slow(root / name, mode)
        assert isinstance(part, Pixels) and part.labels.tolist() == labels
        assert part.pixels.shape == (len(labels), channels, 10, 12)
        for found, wanted in zip(part.pixels, pixels, strict=True):
            assert np.array_equal(found.permute(1, 2, 0).numpy(), wanted.reshape(10, 12, channels))
    assert len(raw.read) == 15 and all(path.is_file() for path in raw.read)


def test_resized_images_are_streamed(root: Path) -> None:
    raw = read(root, **STREAMED, crop_scale=(0.5, 1))
    assert isinstance(raw.train, Files) and (raw.train.resize, raw.train.image_size, raw.train.crop_scale) == (8, 8, (0.5, 1))
    assert raw.train.labels.tolist() == [0] * 6 + [1] * 5 and raw.train.names[6] == "dogs/0.png" and raw.read == ()
    given = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "score_share": 0.5, "seed": 0}
    splits = load(folder, {**OPTIONS, **STREAMED, "num_workers": 0, "data_root": str(root), **given})
    assert next(splits.test.batches(4))[0].shape == (4, 3, 8, 8)


def broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("no image")


# A streamed image whose head is whole is found when it is decoded (tests/data/test_streamed.py).
@pytest.mark.parametrize(("damage", "streamed"), [(broken, False), (empty, False), (text, False), (empty, True), (text, True)])
@pytest.mark.parametrize("part", ["train", "test"])
def test_an_unreadable_image_is_named_before_anything_is_trained(
    damage: Callable[[Path], None], part: str, streamed: bool, root: Path
) -> None:
    damage(root / part / "dogs" / "1.png")
    with raises_line(DataError, root / part / "dogs" / "1.png", "cannot be read"):
        read(root, **(STREAMED if streamed else {}))


def test_a_jpeg_that_ends_early_is_named(root: Path) -> None:
    path = root / "train" / "cats" / "0.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(path)
    read(root)
    path.write_bytes(path.read_bytes()[:-60])
    with raises_line(DataError, path, "truncated"):
        read(root)


@pytest.mark.parametrize("part", ["train", "test"])
def test_images_of_differing_size_are_refused_unless_they_are_resized(part: str, root: Path) -> None:
    write_folder(root / part, {"dogs": 1}, (10, 12))
    with raises_line(DataError, root / part / "dogs/0.png", "10x12", "12x10", "dataset.resize=10", "dataset.image_size=10"):
        read(root)
    assert isinstance(read(root, resize=10, image_size=10).train, Files)


def test_the_number_of_classes_must_agree(root: Path) -> None:
    with raises_line(DataError, root / "train", 2, "dataset.num_classes=3", "dataset.num_classes=2"):
        read(root, num_classes=3)
    write_folder(root / "train", {"birds": 1})
    with raises_line(DataError, root / "train", 3, "dataset.num_classes=2", "dataset.num_classes=3"):
        read(root)
    with raises_line(DataError, 3, 2, "birds", "not the same"):
        read(root, num_classes=3)


@pytest.mark.parametrize("function", [image_folders, image_folder])
def test_folders_of_imagenet_are_counted_too(function: Callable[..., Raw], root: Path) -> None:
    given: dict[str, Any] = {"data_root": str(root), "image_size": 8, "resize": 8, "crop_scale": None, "num_workers": 0}
    given |= (
        {"train": "train", "test": "test"} if function is image_folders else {"folder": "train", "test_share": 0.5, "seed": 0}
    )
    assert len(function(**given, num_classes=2).test.labels)
    with raises_line(DataError, root / "train", 2, "dataset.num_classes=1000"):
        function(**given, num_classes=1000)


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_folder(tmp_path / part, {"cats": 4})
    given = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "score_share": 0.5, "seed": 0}
    with raises_line(DataError, 4, "label 0", "two classes"):
        load(folder, {**OPTIONS, "num_classes": 1, "data_root": str(tmp_path), **given})


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({"image_size": 8}, ("dataset.image_size=8", "resize=null")),
        ({"crop_scale": (0.5, 1.0)}, ("dataset.crop_scale", "resize=null")),
        ({"resize": 8}, ("dataset.resize=8", "dataset.image_size=8")),
        ({**STREAMED, "channels": 1}, ("dataset.channels=3", "dataset.resize=null")),
        ({"resize": 8, "image_size": 9}, ("dataset.resize=8", "dataset.image_size=9")),
        ({**STREAMED, "crop_scale": (1.0, 0.5)}, ("dataset.crop_scale=[1.0, 0.5]",)),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes: dict[str, Any], tokens: tuple[str, ...], root: Path) -> None:
    with raises_line(ConfigError, *tokens):
        read(root, **changes)


def test_more_than_fits_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "MOST_BYTES", 15 * 3 * 120)
    assert len(read(root).train.labels) == 11
    monkeypatch.setattr(folder_module, "MOST_BYTES", 15 * 3 * 120 - 1)
    with raises_line(DataError, 15, "12x10", "dataset.resize=256"):
        read(root)


def test_missing_folders_are_named(root: Path) -> None:
    with raises_line(DataError, "data_root=null", "'train'", "data_root=DIR"):
        folder(data_root=None, **OPTIONS)
    with raises_line(DataError, f"data_root={root}", "'val'"):
        read(root, test="val")


def tiny(root: Path, num_classes: int = 4) -> Raw:
    places = {"train": "tiny-imagenet-200/train", "test": "tiny-imagenet-200/val"}
    return tiny_imagenet(data_root=str(root), **places, num_classes=num_classes, num_workers=2)


def test_the_validation_images_of_tiny_imagenet_have_the_labels_of_their_annotations(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path)
    raw = tiny(tmp_path)
    assert isinstance(raw.train, Pixels) and isinstance(raw.test, Pixels)
    assert raw.train.labels.tolist() == [label for label in range(4) for _ in range(5)]  # n01, n02, n04, n07
    # Lines 3, 0, 5, 1, 2, 4 of wnids n04, n01, n07, n02 by three times the number modulo 4.
    assert raw.test.labels.tolist() == [[2, 0, 3, 1][3 * each % 4] for each in (3, 0, 5, 1, 2, 4)]
    grey = np.asarray(Image.open(tmp_path / "tiny-imagenet-200/val/images/3.png"))
    assert torch.equal(raw.test.pixels[0], torch.from_numpy(grey.copy()).expand(3, 64, 64))
    assert len(raw.read) == 26


def test_what_is_wrong_with_tiny_imagenet_is_one_line(tmp_path: Path) -> None:
    with raises_line(DataError, "'tiny-imagenet-200/train'", "http://cs231n.stanford.edu/tiny-imagenet-200.zip"):
        tiny(tmp_path)
    write_tiny_imagenet(tmp_path)
    val = tmp_path / "tiny-imagenet-200/val"
    with raises_line(DataError, val.parent / "train", 4, "dataset.num_classes=200"):
        tiny(tmp_path, 200)
    lines = (val / "val_annotations.txt").read_text()
    (val / "val_annotations.txt").write_text(f"{lines}7.png\tn01\n")
    with raises_line(DataError, val / "images" / "7.png", "cannot be read"):
        tiny(tmp_path)
    (val / "val_annotations.txt").write_text(f"{lines}0.png\tn99\n")
    with raises_line(DataError, "n99", val):
        tiny(tmp_path)
    for content in ("0.png\n", None):
        (val / "val_annotations.txt").write_text(content) if content else (val / "val_annotations.txt").unlink()
        with raises_line(DataError, val / "val_annotations.txt", "wnid"):
            tiny(tmp_path)


def test_a_command_on_wrong_images_ends_in_one_line(command: Command, root: Path) -> None:
    given = ("dataset=folder", f"data_root={root}", "model=resnet20", "runner=score_only", "dataset.score_share=1")
    shutil.copytree(root / "train" / "cats", root / "train" / "birds")
    check_refused(command(*given), 3, root / "train", 3, "dataset.num_classes=3")
    check_refused(command(*given, "dataset.channels=2"), 2, "dataset.channels=2")
