"""The doctor finds a place fit, and finds what makes it unfit."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runners.data.published import Published
from runners.looking import datasets, doctor
from runners.looking.doctor import Finding, worst
from runners.storage import files
from runners.storage.store import Store
from support import names

FAKE: dict[str, Any] = {"names": {"dataset": "fake"}, "dataset": {"_target_": "runners.data.fake.fake"}, "device": "cpu"}
KEY = "ab" + "0" * 30


def is_left_as_it_was(folder: Path) -> bool:
    return [path for path in folder.rglob("*") if path.is_file()] == []


def test_a_place_that_is_fit_gets_a_verdict(tmp_path: Path) -> None:
    store, outputs = tmp_path / "outputs" / "store", tmp_path / "outputs"
    seen = doctor.run(store=str(store), outputs=str(outputs), **FAKE, verify=True, lock="auto")
    lines = seen.text.splitlines()
    assert seen.exit_code == 0
    what = ["versions", "store", "outputs", "lock", "devices", "data", "slurm", "stored"]
    assert [line.split()[1] for line in lines[:-1]] == what and not any(line.startswith("failed") for line in lines)
    assert lines[-1] in ("verdict: ok", "verdict: warning")
    [lock] = [line for line in lines if " lock " in line]
    assert lock.startswith("ok")
    assert is_left_as_it_was(tmp_path)


def test_a_place_that_is_not_fit_has_the_exit_code_of_resources(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    seen = doctor.run(store=str(tmp_path / "file"), outputs=str(tmp_path), **FAKE, verify=False, lock="none")
    assert seen.exit_code == 6 and seen.text.endswith("verdict: failed")


def test_processes_that_do_not_wait_for_each_other_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "HOLD", 'import time\nprint("held", flush=True)\ntime.sleep(60)')
    found = doctor.excludes(tmp_path, "flock")
    assert found.verdict == "warning" and names(found.line, "another lock=")
    monkeypatch.setattr(doctor, "HOLD", "raise SystemExit(1)")
    assert (found := doctor.excludes(tmp_path, "flock")).verdict == "warning" and names(found.line, tmp_path / "locks")
    assert doctor.excludes(tmp_path, "none").verdict == "warning"


def test_a_folder_whose_rename_is_none_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.takes_files("store", tmp_path).verdict == "ok" and is_left_as_it_was(tmp_path)
    replace_file = files.replace_file
    # A rename that leaves the file that is there.
    monkeypatch.setattr(files, "replace_file", lambda path, content: path.exists() or replace_file(path, content))
    found = doctor.takes_files("store", tmp_path)
    assert found.verdict == "failed" and names(found.line, "store=DIR") and is_left_as_it_was(tmp_path)


def test_a_file_in_the_place_of_a_folder_is_a_finding_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    text = doctor.run(store=str(tmp_path / "store"), outputs=str(tmp_path), **FAKE, verify=False, lock="none").text
    found = {line.split()[1]: line for line in text.splitlines()}
    assert found["store"].startswith("failed") and "FileExistsError" in found["store"] and found["outputs"].startswith("ok")


def test_a_device_that_is_not_there_is_found() -> None:
    assert doctor.devices("cpu").verdict == doctor.devices("auto").verdict == "ok"
    assert doctor.devices("cuda:63").verdict == "failed"


def test_data_that_is_missing_or_changed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {f"folder/{name}": name.encode() * 50 for name in ("a", "b", "meta")}
    published = {name: hashlib.sha256(value).hexdigest() for name, value in content.items()}
    monkeypatch.setattr(datasets, "PUBLISHED", {"runners.data.x.x": Published("https://example.org", by_hand=published)})
    dataset = {"_target_": "runners.data.x.x", "data_root": str(tmp_path)}
    assert doctor.data("x", dataset).verdict == "failed"
    (tmp_path / "folder").mkdir()
    for name, value in content.items():
        (tmp_path / name).write_bytes(value)
    assert doctor.data("x", dataset).verdict == "ok" and names(doctor.data("x", dataset).line, 3)
    (tmp_path / "folder/b").write_bytes(content["folder/b"][:-1] + b"c")
    assert doctor.data("x", dataset).verdict == "failed" and names(doctor.data("x", dataset).line, "folder/b")


@pytest.mark.parametrize(
    ("dataset", "verdict"),
    [
        ({"_target_": "runners.data.mnist.mnist", "data_root": None}, "failed"),
        ({"_target_": "runners.data.cifar.cifar10", "data_root": None, "download_root": "/no_such"}, "ok"),
        ({"_target_": "runners.data.fake.fake"}, "ok"),
    ],
)
def test_data_without_a_folder_is_downloaded_or_needs_one(dataset: dict[str, Any], verdict: str) -> None:
    assert doctor.data("x", dataset).verdict == verdict


@pytest.mark.parametrize(("body", "expected"), [("exit 0", "ok"), ("exit 1", "warning"), ("exec sleep 5", "warning")])
def test_slurm_that_does_not_answer_is_found(body: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sinfo", "sacct"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body if name == 'sacct' else 'exit 0'}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = doctor.slurm()
    assert found.verdict == expected and names(found.line, "sacct")
    assert names(found.line, "sinfo") == (expected == "ok")


def fill(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"weights")


def damaged(entry: Path) -> None:
    path = entry / "weights.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("damage", [damaged, lambda entry: (entry / "manifest.json").unlink(), lambda entry: None])
def test_every_stored_result_is_hashed_again(damage: Callable[[Path], Any], tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(3):
        store.publish("trained", f"{number}{KEY[1:]}", fill)
    entry = tmp_path / "trained" / "1b" / f"1{KEY[1:]}"
    damage(entry)
    found = doctor.verified(tmp_path)
    unharmed = (entry / "manifest.json").exists() and (entry / "weights.bin").read_bytes() == b"weights"
    assert found.verdict == ("ok" if unharmed else "failed") and entry.exists()
    assert names(found.line, 3) and names(found.line, "trained 1b00000000") == (not unharmed)


def test_the_verdict_is_the_worst() -> None:
    ok, warning, failed = (Finding(name, "") for name in ("ok", "warning", "failed"))
    assert [worst(found) for found in ([], [ok], [ok, warning], [failed, warning])] == ["ok", "ok", "warning", "failed"]
