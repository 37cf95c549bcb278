"""labels=random: permutations by the seed, of both parts; stored and written apart from what has the given labels."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from small_sets import put

from runners.data.fake import fake
from runners.data.raw import Files, Pixels, Raw
from runners.data.splits import load, make_splits, relabelled
from runners.storage import fingerprints
from support import Command


def raw(n: int = 300) -> Raw:
    labels = torch.arange(n) % 7 % 5  # classes of different sizes
    part = Pixels(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), labels)
    return Raw(part, part)


def test_every_class_keeps_its_size_and_both_parts_are_permuted() -> None:
    given = raw()
    one, again, other = (relabelled(given, "random", seed) for seed in (0, 0, 1))
    for part in ("train", "test"):
        before, found = getattr(given, part).labels, getattr(one, part).labels
        assert torch.equal(torch.bincount(found), torch.bincount(before)) and not torch.equal(found, before)
        assert torch.equal(found, getattr(again, part).labels) and not torch.equal(found, getattr(other, part).labels)
    assert not torch.equal(one.train.labels, one.test.labels)
    assert relabelled(given, "given", 0) is given


def test_a_permuted_label_says_nothing_about_the_given_one() -> None:
    given = raw(70_000).train.labels
    found = relabelled(raw(70_000), "random", 3).train.labels
    table = torch.zeros(5, 5).index_put((given, found), torch.ones(()), accumulate=True)
    expected = torch.outer(table.sum(1), table.sum(0)) / 70_000
    # Pearson's statistic with 16 degrees of freedom: above 39.25 in one of a thousand.
    assert float(((table - expected) ** 2 / expected).sum()) < 39.25


def test_files_are_relabelled_as_images_in_memory_are() -> None:
    labels = raw().train.labels
    files = Files(Path("/x"), tuple(map(str, range(300))), labels, 8, 8, None, 0)
    found = relabelled(Raw(files, files), "random", 0)
    assert torch.equal(found.train.labels, relabelled(raw(), "random", 0).train.labels)
    assert isinstance(found.train, Files) and found.train.names == files.names
    splits = make_splits(found, num_classes=5, channels=3, score_share=1, mean=(0,) * 3, std=(1,) * 3, seed=0)
    assert torch.equal(splits.train.labels, found.train.labels) and torch.equal(splits.score.labels, found.train.labels)


def test_the_share_of_random_labels_goes_with_it() -> None:
    given = {"num_images": 40, "channels": 1, "image_size": 4, "num_classes": 4, "mean": (0.5,), "std": (0.5,)}
    splits = load(fake, {**given, "seed": 0, "score_share": 0.5, "random_labels": 0.5})
    assert not torch.equal(splits.train.labels, torch.arange(40) % 4) and torch.equal(splits.test.labels, torch.arange(40) % 4)


def test_a_run_with_random_labels_has_keys_and_a_column_of_its_own(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the hash of the data is looked up by the files that were read."""
    monkeypatch.setattr(fingerprints, "SETTLED_SECONDS", -1)
    small = [*put("mnist", tmp_path / "data", monkeypatch), "model=resnet20", "runner=score_only", "recipe.epochs=0"]
    runs = [command("dataset=mnist", *small, *more) for more in ([], ["labels=random"])]
    assert [ended.code for ended in runs] == [0, 0], runs[1].err
    data = [ended.facts["keys"]["dataset"] for ended in runs]
    assert len(set(data)) == 2 and len({ended.folder for ended in runs}) == 2
    assert "labels: random" in runs[1].out and "labels: random" not in runs[0].out
    scores = [pd.read_csv(ended.folder / "scores.csv") for ended in runs[:2]]
    assert "labels" not in scores[0] and set(scores[1]["labels"]) == {"random"}


def test_a_part_of_a_set_says_so_in_every_table_and_in_the_log(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = put("cifar100_part", tmp_path / "data", monkeypatch)
    ended = command("dataset=cifar100_part", *small, "model=resnet20", "runner=score_only", "recipe.epochs=0")
    assert ended.code == 0, ended.err
    said = "100 + 100 images of the 50,000 + 10,000 of CIFAR-100"
    assert f"dataset_part: {said}" in ended.out and "100 training and 100 test images" in ended.out
    tables = {path.stem: pd.read_csv(path) for path in ended.folder.glob("*.csv")}
    assert set(tables["scores"]["dataset"]) == {"cifar100_part"} and set(tables["scores"]["dataset_part"]) == {said}
    assert all(set(rows["dataset_part"]) <= {said} for rows in tables.values())  # those without rows, too


def test_fewer_training_images_are_in_the_tables_and_in_the_keys(command: Command) -> None:
    fewer, all_of_them = (
        command("dataset=fake", "model=resnet20", "runner=score_only", "recipe.epochs=0", *more)
        for more in (["+dataset.train_images=20"], [])
    )
    assert set(pd.read_csv(fewer.folder / "accuracy.csv")["dataset_part"]) == {"20 + 64 images of fake"}
    assert "dataset_part" not in pd.read_csv(all_of_them.folder / "accuracy.csv")
    assert fewer.facts["keys"]["dataset"] != all_of_them.facts["keys"]["dataset"]
