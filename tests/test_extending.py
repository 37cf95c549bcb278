"""The page on additions is true: its files are written into a copy of the project, and its commands give what it shows."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from support import ROOT, Ended

PAGE = (ROOT / "docs" / "extending.md").read_text()
PROJECT = ("analysis", "conf", "criteria", "hydra_plugins", "models", "runners", "prunescope.py", "run.py")
REFUSED = re.findall(r"^    \$ python run\.py (.+)\n    (error: .+)$", PAGE, re.MULTILINE)
ACCEPTED = re.findall(r"^    python run\.py (.+)$", PAGE, re.MULTILINE)
TRAINING = [command for command in ACCEPTED if "model=" in command]
BRIEF = ["recipe.epochs=1", "finetune.epochs=1"]


def added() -> dict[str, str]:
    """Path -> content of the files of the page."""
    return dict(re.findall(r"^`([\w/]+\.(?:py|yaml|csv))`\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the seven additions."""
    folder = tmp_path_factory.mktemp("project")
    for name in PROJECT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    for path, content in added().items():
        assert not (folder / path).exists(), f"{path} is a file of the project"
        (folder / path).write_text(content)
    return folder


def ran(copy: Path, command: str, *more: str) -> Ended:
    words = [word.replace('"', "") for word in command.split()]
    done = subprocess.run([sys.executable, "run.py", *words, *more], cwd=copy, capture_output=True, text=True, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def test_the_page_has_seven_additions_with_files_commands_and_refusals() -> None:
    sections = re.split(r"^## \d\. ", PAGE, flags=re.MULTILINE)[1:]
    assert len(sections) == 7
    for section in sections:
        assert re.search(r"^```", section, re.MULTILINE)
        assert re.search(r"^    python run\.py", section, re.MULTILINE)
        assert re.search(r"^    error: ", section, re.MULTILINE)
    assert len(added()) == 15


@pytest.mark.parametrize(("command", "error"), [each for each in REFUSED if "experiment=" not in each[0]])
def test_a_wrong_option_gives_the_line_that_the_page_shows(copy: Path, command: str, error: str) -> None:
    ended = ran(copy, command)
    assert (ended.code, ended.err.strip()) == (2, error)


def test_a_runner_that_loads_no_data_is_run_swept_and_reported(copy: Path) -> None:
    ends = {}
    for command in (each for each in ACCEPTED if "runner=" in each and "experiment" not in each):
        ends[command] = ran(copy, command)
        assert ends[command].code == 0, ends[command]
    single = pd.read_csv(ends["runner=normal_range"].folder / "normal_range.csv")
    assert {"model", "dataset", "ratio"}.isdisjoint(single.columns)
    assert single["range_mean"].item() == pytest.approx(3.735, abs=0.03)  # d2 of 20 draws


def test_a_printed_table_stands_beside_ours_as_the_page_shows(copy: Path) -> None:
    first, second = (each for each in ACCEPTED if "experiment=" in each)
    assert ran(copy, first).code == 0
    gathered = ran(copy, second)
    assert gathered.code == 0, gathered
    shown = re.findall(r"^\| (\d+) +\| (d\d) .*?\| ([^|]*?) +\| [^|]* +\|$", PAGE, re.MULTILINE)
    found = pd.read_csv(next(copy.glob("outputs/sweeps/normal_range-*/d2.csv"))).astype(str)
    assert list(zip(found["row"], found["column"], found["verdict"], strict=True)) == shown
    command, error = next(each for each in REFUSED if "experiment=" in each[0])
    assert ran(copy, command).err.strip() == error


@pytest.mark.slow
@pytest.mark.parametrize("command", TRAINING)
def test_what_is_added_trains_is_pruned_and_tuned(copy: Path, command: str) -> None:
    ended = ran(copy, command, *BRIEF)
    assert ended.code == 0, ended
    assert {"pruned", "tuned"} <= set(pd.read_csv(ended.folder / "accuracy.csv")["stage"])
