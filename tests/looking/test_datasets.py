"""The list of data sets: where each is, or what to put where; nothing is loaded, made or downloaded."""

from pathlib import Path

import pytest
from small_sets import READERS, put, write_folder

from runners.command.arguments import options
from runners.data.checksums import PUBLISHED
from runners.looking import datasets
from runners.looking.datasets import configs, state
from support import Command, check_line, names


def of(name: str, root: Path | None) -> datasets.Found:
    return state(configs(str(root) if root else None, "/out")[name])


@pytest.mark.parametrize("name", list(READERS))
def test_published_files_are_whole_missing_or_others(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = PUBLISHED[configs(None, "/out")[name]["_target_"]]
    found, files = of(name, tmp_path), published.files({"extra": True})
    assert found.state == "missing"
    check_line(found.line, f"data_root={tmp_path}", *(Path(file).name for file in files), published.address)
    without = of(name, None)
    if published.archives:
        assert without.state == "can be downloaded" and without.size == sum(archive.size for archive in published.archives)
        check_line(without.line, "/out/data")
        assert names(found.line, "data_root=null")
    else:
        assert without.state == "missing" and names(without.line, published.address)
    put(name, tmp_path, monkeypatch)
    whole = of(name, tmp_path)
    assert whole.state == "whole" and names(whole.line, len(files)) and whole.size
    assert whole.size == sum((tmp_path / file).stat().st_size for file in files)
    assert names(whole.line, "sizes") == (name == "emnist")
    last = tmp_path / list(files)[-1]
    last.write_bytes(last.read_bytes() + b"x")
    assert of(name, tmp_path).state == "other files" and names(of(name, tmp_path).line, list(files)[-1])


def test_a_set_that_was_downloaded_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("mnist", tmp_path / "data", monkeypatch)
    assert state(configs(None, str(tmp_path))["mnist"]).state == "whole"


def test_folders_are_there_or_missing(tmp_path: Path) -> None:
    assert of("folder", None).state == of("imagenet", None).state == of("tiny_imagenet", tmp_path).state == "missing"
    check_line(of("tiny_imagenet", tmp_path).line, "tiny-imagenet-200/val", "http://cs231n.stanford.edu/tiny-imagenet-200.zip")
    write_folder(tmp_path / "train", {"cats": 1, "dogs": 1})
    check_line(of("folder", tmp_path).line, "test is missing")
    write_folder(tmp_path / "test", {"cats": 1})
    found = of("folder", tmp_path)
    assert found.state == "there"
    check_line(found.line, tmp_path, "2 folders in train", "1 folders in test")


def test_sets_without_files_and_unknown_ones() -> None:
    assert of("digits", None).state == of("fake", None).state == "embedded"
    assert state({"_target_": "mine.x", "data_root": None}).state == "not known"


def test_what_a_yaml_inherits_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text("_target_: x.y\ndata_root: ${data_root}\nnum_classes: 3\n")
    (tmp_path / "b.yaml").write_text("defaults: [a, _self_]\nnum_classes: 4\n")
    monkeypatch.setattr(datasets, "CONF", tmp_path)
    assert configs("/d", "/out")["b"] == {"_target_": "x.y", "data_root": "/d", "num_classes": 4}


def test_the_runner_lists_every_data_set_and_makes_nothing(command: Command, tmp_path: Path) -> None:
    ended = command("runner=datasets", f"data_root={tmp_path}")
    assert ended.code == 0 and not (tmp_path / "outputs").exists()
    head, *lines = ended.out.splitlines()
    assert head.split() == ["dataset", "state", "images", "classes", "MB", "about"]
    listed = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert listed == sorted(options("dataset")) and len(lines) == 2 * len(listed)
    [cifar] = [line for line in lines if line.startswith("cifar10 ")]
    assert names(cifar, "50,000 + 10,000") and "missing" in cifar and names(cifar, "Krizhevsky")
