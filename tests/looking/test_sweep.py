"""The manifest of a sweep: read, refused where it is damaged, and found by what the user says."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweep_folders import COMMAND, GRID, change, make_sweep

from runners.looking.sweep import find_sweep, read_sweep, sweeps_below
from runners.process.errors import ConfigError
from support import raises_line


def test_a_manifest_is_read(tmp_path: Path) -> None:
    sweep = read_sweep(make_sweep(tmp_path, GRID))
    assert sweep.command == tuple(COMMAND) and sweep.started == "2026-11-21T15:00:00Z" and sweep.code["commit"] == "c0ffee"
    assert [job.number for job in sweep.jobs] == [0, 1, 2, 3]
    assert sweep.jobs[1].values == {"criterion": "l1", "ratio": 0.1, "seed": 1}
    assert sweep.jobs[1].overrides == ("criterion=l1", "ratio=0.1", "seed=1")
    assert sweep.jobs[1].folder == tmp_path / "l1-0.1-1"


def test_one_spelling_for_one_value(tmp_path: Path) -> None:
    sweep = read_sweep(make_sweep(tmp_path, [{"ratio": 0.30000000000000004}]))
    assert sweep.jobs[0].values == {"ratio": 0.3}


def damage(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: manifest | {key: value}


def damage_job(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: manifest | {"jobs": [*manifest["jobs"][1:], manifest["jobs"][0] | {key: value}]}


@pytest.mark.parametrize(
    ("damaged", "named"),
    [
        (lambda _: "no JSON", "char 0"),
        (lambda _: "", "char 0"),
        (lambda _: [], "JSON"),
        (lambda _: '{"version": 1, "started": NaN}', "NaN"),
        (lambda _: "[" * 200_000, "nested"),
        (lambda _: b"\xff\xfe\x00", "decode"),
        (damage("version", 0), "'version'"),
        (damage("version", True), "'version'"),
        (damage("version", "1"), "'version'"),
        (damage("command", "run.py"), "'command'"),
        (damage("command", [1]), "'command'"),
        (damage("started", None), "'started'"),
        (damage("code", None), "'code'"),
        (damage("jobs", []), "'jobs'"),
        (damage("jobs", {}), "'jobs'"),
        (damage("jobs", ["a"]), "'jobs'"),
        (damage_job("number", "0"), "'number'"),
        (damage_job("number", True), "'number'"),
        (damage_job("number", -1), "'number'"),
        (damage_job("number", 1), "'jobs'"),
        (damage_job("overrides", None), "'overrides'"),
        (damage_job("name", ""), "'name'"),
        (damage_job("name", ".."), "'name'"),
        (damage_job("values", []), "'values'"),
        (damage_job("folder", None), "'folder'"),
        (damage_job("folder", "/etc/l1-0.1-0"), "'folder'"),
        (damage_job("folder", "../../../other"), "'folder'"),
    ],
)
def test_a_damaged_manifest_is_one_line(tmp_path: Path, damaged: Callable[[dict[str, Any]], Any], named: str) -> None:
    sweep = make_sweep(tmp_path, GRID)
    path = sweep / "sweep.json"
    found = damaged(json.loads(path.read_text()))
    path.write_bytes(found if isinstance(found, bytes) else (found if isinstance(found, str) else json.dumps(found)).encode())
    with raises_line(ConfigError, path, named):
        read_sweep(sweep)


def test_a_newer_manifest_is_one_line(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, GRID)
    change(sweep / "sweep.json", version=2, jobs="of another kind")
    with raises_line(ConfigError, sweep / "sweep.json", 2, 1):
        read_sweep(sweep)


def three_sweeps(outputs: Path) -> list[Path]:
    """The last made is the oldest."""
    found = [make_sweep(outputs, GRID, name) for name in ("b", "a", "c")]
    for age, sweep in enumerate(found):
        os.utime(sweep / "sweep.json", (1_000_000 - age, 1_000_000 - age))
    return found


def test_where_no_sweep_is_others_are_listed_newest_first(tmp_path: Path) -> None:
    found = three_sweeps(tmp_path)
    assert sweeps_below(tmp_path) == sweeps_below(tmp_path / "sweeps") == found
    listed = ", ".join(map(str, found))
    for folder in (tmp_path, tmp_path / "sweeps", tmp_path / "sweeps" / "wrong"):
        with raises_line(ConfigError, f" {listed}; ", "sweep=DIR"):
            read_sweep(folder)


def test_where_nothing_is_a_sweep_can_be_started(tmp_path: Path) -> None:
    with raises_line(ConfigError, tmp_path / "nowhere", "--multirun"):
        read_sweep(tmp_path / "nowhere")


def test_a_long_list_of_sweeps_is_cut(tmp_path: Path) -> None:
    for number in range(12):
        make_sweep(tmp_path, GRID, f"sweep{number}")
    with raises_line(ConfigError, "2 more"):
        read_sweep(tmp_path)


def test_the_sweep_that_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b, a, c = three_sweeps(tmp_path / "outputs")
    outputs = str(tmp_path / "outputs")
    assert find_sweep(None, outputs) == b
    assert find_sweep(str(a), outputs) == a
    assert find_sweep("c", outputs) == c
    assert find_sweep(outputs, "elsewhere") == b
    assert find_sweep(str(b.parent), "elsewhere") == b
    monkeypatch.chdir(tmp_path)
    assert find_sweep("outputs/sweeps/a", "elsewhere") == Path("outputs/sweeps/a")


@pytest.mark.parametrize("given", [None, "typo", "a/b", "x" * 300, "/", "\0"])
def test_no_such_sweep_is_one_line(tmp_path: Path, given: str | None) -> None:
    with raises_line(ConfigError, "--multirun", "sweep=DIR"):
        find_sweep(given, str(tmp_path))
    found = three_sweeps(tmp_path)
    if given is not None:
        with raises_line(ConfigError, f" {found[0]}, {found[1]}"):
            find_sweep(given, str(tmp_path))
