"""Images from files: the same batches for any number of workers, wherever an epoch is entered, against a slow version."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF
from torchvision.transforms import v2

from runners.augmenting.changes import Changes
from runners.augmenting.draws import Draws, Mixture
from runners.data.image_folder import image_folder, image_folders
from runners.data.raw import Files
from runners.data.source import Batch, Source, Steps
from runners.data.splits import Splits, load
from runners.data.streamed import Streamed, StreamedSteps
from runners.process.counter import fold, permutation
from runners.process.errors import ConfigError, DataError, ResourceError
from support import AUGMENTED, ROOT, labelled, raises_line

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
CLASSES, EACH = ("n01", "n02", "n10"), 7


def write(path: Path, seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> None:
    """A smooth random image: JPEG keeps it, and two seeds never give the same."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """`photos/<class>/<number>.png` and .JPEG, three classes of seven; one is grey, one is upright."""
    for number, name in enumerate(CLASSES):
        for each in range(EACH):
            suffix = "png" if each % 2 else "JPEG"
            mode, size = "L" if (number, each) == (1, 1) else "RGB", (30, 44) if each == 2 else (40, 30)
            write(tmp_path / "photos" / name / f"{each}.{suffix}", 10 * number + each, size, mode)
    return tmp_path


def files(root: Path, **changes: Any) -> Files:
    found = image_folder(
        data_root=str(root),
        folder="photos",
        test_share=1 / 3,
        seed=0,
        image_size=12,
        resize=16,
        crop_scale=(0.2, 1),
        num_workers=0,
    )
    assert isinstance(found.train, Files)
    return replace(found.train, **changes)


def streamed(root: Path, *, flip: bool = True, **changes: Any) -> Streamed:
    found = files(root, **changes)
    return Streamed(found, found.labels, MEAN, STD, flip)


def epoch(steps: Steps, number: int, *, position: int = 0) -> list[Batch]:
    steps.begin(number, position=position)
    found = []
    for size in steps.sizes[position:]:
        steps.load()
        found.append(steps.draw(size))
    return found


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True)
    )


def slow_image(path: Path, view: Callable[[Image.Image], Image.Image]) -> Tensor:
    with Image.open(path) as image:
        return TF.normalize(TF.to_tensor(view(image.convert("RGB"))), list(MEAN), list(STD))


def slow_epoch(source: Streamed, batch_size: int, stream: int, number: int) -> list[Batch]:
    """One image at a time, its own generator seeded for it."""
    order = permutation(len(source), fold(stream, number), 0)
    batches = []
    for index in order.split(batch_size):
        rows = []
        for each in index.tolist():
            torch.manual_seed(fold(stream, number, each))
            view = v2.Compose([v2.RandomResizedCrop(12, scale=(0.2, 1)), v2.RandomHorizontalFlip(0.5)])
            rows.append(slow_image(source.files.root / source.files.names[each], view))
        batches.append((torch.stack(rows), source.labels[index]))
    return batches


def test_the_workers_change_no_batch(root: Path) -> None:
    found = []
    for workers in (0, 1, 2):
        source = streamed(root, num_workers=workers)
        found.append((epoch(source.steps(4, stream=5, changes=AUGMENTED), 3), list(source.batches(5))))
    assert all(same(found[0][0], each[0]) and same(found[0][1], each[1]) for each in found[1:])


def test_training_batches_equal_the_slow_obvious_version(root: Path) -> None:
    source = streamed(root)
    steps = source.steps(4, stream=5, changes=AUGMENTED)
    assert list(steps.sizes) == [4, 4, 4, 2]
    for number in (0, 2):
        for (x, labels), (slow_x, slow_labels) in zip(epoch(steps, number), slow_epoch(source, 4, 5, number), strict=True):
            assert torch.equal(labels, slow_labels) and torch.allclose(x, slow_x, atol=1e-6)
            assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)


def test_changes_of_a_recipe_follow_the_images_of_each_batch(root: Path) -> None:
    """Pixels change before they are normalised, by draws of the batch's images and of the epoch."""
    source = streamed(root)
    drawn: list[Draws] = []

    def policy(pixels: Tensor, draws: Draws) -> Tensor:
        drawn.append(replace(draws, index=draws.index.clone(), word=draws.word.clone()))
        return 255 - pixels

    def mix(x: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Mixture]:
        return x + 1, Mixture(labels, labels, torch.ones(len(labels)))

    plain = epoch(source.steps(4, stream=5, changes=AUGMENTED), 3)
    steps = source.steps(4, stream=5, changes=replace(AUGMENTED, policy=policy, mix=mix))
    found, order = epoch(steps, 3), permutation(len(source), fold(5, 3), 0).split(4)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    for (x, targets), (expected, labels), draws, index in zip(found, plain, drawn, order, strict=True):
        assert isinstance(targets, Mixture) and torch.equal(targets.labels, labels)
        assert torch.allclose(x, (1 - mean * 2) / std - expected + 1, atol=1e-6)
        assert torch.equal(draws.index, index) and draws.word.item() == fold(fold(5, 3), 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_is_entered_later_goes_on_with_the_same_batches(root: Path, workers: int) -> None:
    steps = streamed(root, num_workers=workers).steps(4, stream=5, changes=AUGMENTED)
    whole = epoch(steps, 1)
    for position in range(5):
        again = streamed(root, num_workers=workers).steps(4, stream=5, changes=AUGMENTED)
        assert same(epoch(again, 1, position=position), whole[position:])


def test_what_was_done_is_not_decoded_again(root: Path) -> None:
    source = streamed(root)
    done = permutation(len(source), fold(5, 0), 0)[:8].tolist()
    for each in done:
        (source.files.root / source.files.names[each]).write_bytes(b"")
    epoch(source.steps(4, stream=5, changes=AUGMENTED), 0, position=2)
    with pytest.raises(DataError):
        epoch(source.steps(4, stream=5, changes=AUGMENTED), 0, position=1)


def test_every_image_comes_once_and_other_streams_and_epochs_differ(root: Path) -> None:
    source = streamed(root)
    steps, other = source.steps(4, stream=5, changes=AUGMENTED), source.steps(4, stream=6, changes=AUGMENTED)
    found = [epoch(steps, 0), epoch(steps, 0), epoch(steps, 1), epoch(other, 0)]
    assert same(found[0], found[1]) and not same(found[0], found[2]) and not same(found[0], found[3])
    for batches in found:
        labels = torch.cat([labels for _, labels in batches])
        assert torch.equal(labels.sort().values, source.labels.sort().values)


def test_without_augmentation_images_are_those_that_measure_in_another_order(root: Path) -> None:
    source = streamed(root)
    plain = torch.cat([x for x, _ in source.batches(4)])
    order = permutation(len(source), fold(5, 0), 0)
    for steps in (
        source.steps(4, stream=5, changes=Changes()),
        streamed(root, flip=False, crop_scale=None).steps(4, stream=5, changes=AUGMENTED),
    ):
        assert torch.equal(torch.cat([x for x, _ in epoch(steps, 0)]), plain[order])


def test_about_half_the_images_are_mirrored_and_none_without_flip(root: Path) -> None:
    def mirrored(flip: bool) -> int:
        source = streamed(root, crop_scale=None, flip=flip)
        plain = torch.cat([x for x, _ in source.batches(20)])
        steps, count = source.steps(14, stream=1, changes=AUGMENTED), 0
        for number in range(20):
            [(x, _)] = epoch(steps, number)
            before = plain[permutation(len(source), fold(1, number), 0)]
            same = (x == before).flatten(1).all(1)
            assert (same | (x == before.flip(3)).flatten(1).all(1)).all()
            count += int((~same).sum())
        return count

    # 280 images: 140 +- 8.4; four standard deviations.
    assert abs(mirrored(True) - 140) < 34 and mirrored(False) == 0


def test_measured_images_are_the_centres_in_their_own_order_with_their_labels(root: Path) -> None:
    source = streamed(root)
    batches = list(source.batches(5))
    assert [len(labels) for _, labels in batches] == [5, 5, 4]

    def centre(image: Image.Image) -> Image.Image:
        return TF.center_crop(TF.resize(image, [16]), [12])  # pyright: ignore[reportArgumentType,reportReturnType]

    expected = torch.stack([slow_image(source.files.root / name, centre) for name in source.files.names])
    assert torch.allclose(torch.cat([x for x, _ in batches]), expected, atol=1e-6)
    assert torch.equal(source.example, batches[0][0][:1])
    of_name = [CLASSES.index(name.partition("/")[0]) for name in source.files.names]
    assert torch.cat([labels for _, labels in batches]).tolist() == of_name == source.labels.tolist()


def test_a_batch_stays_what_it_was_when_the_next_one_is_fetched(root: Path) -> None:
    steps = streamed(root).steps(4, stream=5, changes=AUGMENTED)
    steps.begin(0, position=0)
    steps.load()
    x, labels = labelled(steps.draw(4))
    before = x.clone(), labels.clone()
    steps.load()
    assert torch.equal(x, before[0]) and torch.equal(labels, before[1])


def test_batches_are_copied_to_where_they_were_before(root: Path) -> None:
    """A captured step knows only places in memory."""
    steps = streamed(root).steps(4, stream=5, changes=AUGMENTED)
    assert isinstance(steps, StreamedSteps)
    places = steps._pixels.data_ptr(), steps._labels.data_ptr()
    for number in (0, 1):
        epoch(steps, number)
    assert places == (steps._pixels.data_ptr(), steps._labels.data_ptr())


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_draws_nothing_from_the_generator_that_dropout_uses(root: Path, workers: int) -> None:
    source = streamed(root, num_workers=workers)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    epoch(source.steps(4, stream=5, changes=AUGMENTED), 0)
    list(source.batches(5))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", [b"", b"no image", None, "missing"])
def test_a_broken_file_is_one_line(root: Path, workers: int, content: bytes | str | None) -> None:
    source = streamed(root, num_workers=workers)
    path = source.files.root / source.files.names[9]
    whole = path.read_bytes()
    path.unlink()
    if not isinstance(content, str):
        path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with raises_line(DataError, path):
        list(source.batches(5))
    with pytest.raises(DataError):
        epoch(source.steps(4, stream=5, changes=AUGMENTED), 0)


def test_a_killed_worker_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()

    def killed(path: object) -> object:
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL)

    source = streamed(root, num_workers=1)
    monkeypatch.setattr(Image, "open", killed)
    with raises_line(ResourceError, "dataset.num_workers=0"):
        list(source.batches(5))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_workers_decode_on_when_every_process_of_a_job_is_signalled(root: Path, number: signal.Signals) -> None:
    source = streamed(root, num_workers=2)
    coming = source.batches(2)
    found = [next(coming), next(coming)]  # one of each worker
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        assert worker.pid
        os.kill(worker.pid, number)
    assert same([*found, *coming], list(streamed(root).batches(2)))
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_the_content_is_names_sizes_and_labels(root: Path) -> None:
    source = streamed(root)
    digest = [b"".join(each.content()) for each in (source, streamed(root, num_workers=2, image_size=9))]
    assert digest[0] == digest[1]
    path = source.files.root / source.files.names[0]
    path.write_bytes(path.read_bytes() + b"\0")
    assert b"".join(source.content()) != digest[0]
    other = replace(source, labels=source.labels.roll(1))
    assert b"".join(other.content()) != b"".join(source.content())


def given(root: Path, **changes: Any) -> dict[str, Any]:
    """The keys of a data set's YAML."""
    look = {"num_classes": 3, "channels": 3, "score_share": 0.5, "mean": list(MEAN), "std": list(STD), "seed": 0, "flip": True}
    views = {"image_size": 12, "resize": 16, "crop_scale": [0.2, 1], "num_workers": 0}
    return {"data_root": str(root), "folder": "photos", "test_share": 1 / 3} | look | views | changes


def test_one_folder_is_divided_by_the_seed(root: Path) -> None:
    def names(splits: Splits) -> list[tuple[str, ...]]:
        parts = (splits.train, splits.test, splits.score)
        return [part.files.names for part in parts if isinstance(part, Streamed)]

    train, test, score = names(load(image_folder, given(root)))
    assert (len(train), len(test), len(score)) == (14, 7, 7) and set(score) < set(train)
    everything = {f"{name}/{each}.{'png' if each % 2 else 'JPEG'}" for name in CLASSES for each in range(EACH)}
    assert set(train) | set(test) == everything
    assert names(load(image_folder, given(root))) == [train, test, score]
    assert names(load(image_folder, given(root, seed=1)))[1] != test


def test_files_are_not_padded(root: Path) -> None:
    with raises_line(ConfigError, "dataset.crop_padding=4"):
        load(image_folder, given(root, crop_padding=4))


def test_random_labels_reach_the_batches(root: Path) -> None:
    plain, drawn = load(image_folder, given(root)), load(image_folder, given(root, random_labels=1))
    assert isinstance(plain.train, Streamed) and isinstance(drawn.train, Streamed)
    sources: list[Source] = [plain.train, drawn.train]
    labels = [torch.cat([labels for _, labels in source.batches(5)]) for source in sources]
    trained = torch.cat([labels for _, labels in epoch(drawn.train.steps(4, stream=5, changes=AUGMENTED), 0)])
    order = permutation(14, fold(5, 0), 0)
    assert not torch.equal(*labels) and torch.equal(trained, labels[1][order])
    assert torch.equal(plain.test.labels, drawn.test.labels)


def test_two_folders_have_the_same_classes(root: Path) -> None:
    for name in CLASSES[:2]:
        write(root / "val" / name / "0.jpg", 99)
    keys = {key: value for key, value in given(root).items() if key not in ("folder", "test_share")}
    with raises_line(DataError, "photos has 3", "val 2"):
        load(image_folders, keys | {"train": "photos", "test": "val"})
    write(root / "val" / CLASSES[2] / "0.jpg", 99)
    splits = load(image_folders, keys | {"train": "photos", "test": "val"})
    assert (len(splits.train), splits.test.labels.tolist()) == (21, [0, 1, 2])


@pytest.mark.parametrize("data_root", [None, "here"])
def test_folders_that_are_not_there_are_one_line(data_root: str | None, tmp_path: Path) -> None:
    with raises_line(DataError, "'photos'", "data_root=DIR"):
        load(image_folder, given(tmp_path) | {"data_root": data_root and str(tmp_path)})


def test_a_folder_without_images_is_one_line(root: Path) -> None:
    (root / "photos" / ".cache").mkdir()
    with raises_line(DataError, "'.cache'"):
        load(image_folder, given(root))


@pytest.mark.parametrize("changes", [{"resize": 6, "image_size": 12}, {"crop_scale": (1.0, 0.2)}])
def test_views_that_cannot_be_are_one_line(root: Path, changes: dict[str, Any]) -> None:
    [option, value] = next(iter(changes.items()))
    with raises_line(ConfigError, f"dataset.{option}={list(value) if isinstance(value, tuple) else value}"):
        load(image_folder, given(root) | changes)


def test_python_ends_beside_workers_that_were_signalled(root: Path) -> None:
    program = f"""
import multiprocessing, os, signal
from pathlib import Path
from test_streamed import streamed
coming = streamed(Path({str(root)!r}), num_workers=2).batches(1)
next(coming), next(coming)
for worker in multiprocessing.active_children():
    os.kill(worker.pid, signal.SIGTERM)
next(coming)
print("alive", len(multiprocessing.active_children()))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "alive 2\n"), done.stderr
