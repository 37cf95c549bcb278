"""Hashes that are looked up: for the files that were hashed, and for no others."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runners.storage import fingerprints
from runners.storage.fingerprints import remembered

CONFIG = {"_target_": "runners.data.mnist.mnist", "seed": 0, "random_labels": 0.5}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files."""
    found = [tmp_path / "one", tmp_path / "two"]
    for path in found:
        path.write_bytes(b"pixels")
    return found


@pytest.fixture
def digest(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, int]]:
    """The hash, and how often something was hashed until now."""
    monkeypatch.setattr(fingerprints, "SETTLED_SECONDS", -1)
    hashed: list[str] = []

    def content() -> str:
        hashed.append("".join(path.read_text() for path in files))
        return hashed[-1]

    def look(config: dict[str, Any] = CONFIG, read: list[Path] = files) -> tuple[str, int]:
        return remembered(tmp_path / "store", read, config, content), len(hashed)

    return look


def test_what_was_hashed_once_is_looked_up(digest: Callable[..., tuple[str, int]], tmp_path: Path) -> None:
    assert [digest(), digest()] == [("pixelspixels", 1)] * 2
    assert len(list((tmp_path / "store" / "fingerprints").iterdir())) == 1


def _longer(path: Path) -> None:
    path.write_bytes(b"pixels+")


def _other_content(path: Path) -> None:
    path.write_bytes(b"pixelS")


def _other_content_and_the_old_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"pixelS")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _another_file_in_its_place(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"pixelS")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [_longer, _other_content, _other_content_and_the_old_time, _another_file_in_its_place])
def test_files_that_changed_are_hashed_again(
    change: Callable[[Path], None], digest: Callable[..., tuple[str, int]], files: list[Path]
) -> None:
    digest()
    time.sleep(0.05)  # longer than a tick of the file system's clock
    change(files[1])
    found = digest()
    assert found == ("pixels" + files[1].read_text(), 2) != ("pixelspixels", 2)


def test_another_config_or_other_code_is_hashed_again(
    digest: Callable[..., tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [digest()[1], digest(CONFIG | {"random_labels": 0})[1], digest()[1]] == [1, 2, 2]
    (tmp_path / "readers").mkdir()
    (tmp_path / "readers" / "mnist.py").write_text("other code")
    monkeypatch.setattr(fingerprints, "READERS", tmp_path / "readers")
    assert digest()[1] == 3


def test_without_files_or_with_young_ones_nothing_is_noted(
    digest: Callable[..., tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [digest(read=[])[1], digest(read=[])[1]] == [1, 2]
    monkeypatch.setattr(fingerprints, "SETTLED_SECONDS", 3600)
    assert [digest()[1], digest()[1]] == [3, 4]
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("broken", ["", "{", "[]", "{}", '{"content": 7}'])
def test_a_broken_note_is_made_anew(broken: str, digest: Callable[..., tuple[str, int]], tmp_path: Path) -> None:
    digest()
    [note] = (tmp_path / "store" / "fingerprints").iterdir()
    note.write_text(broken)
    assert [digest(), digest()] == [("pixelspixels", 2)] * 2
