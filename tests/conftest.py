"""Fixtures that test files share: the command line without a new process, and the folder of the real data."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch.utils.benchmark import Timer

from runners.command import cli
from runners.process import interruption
from support import ROOT, Command, Ended


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    # Two threads on a busy machine are slower than one on layers this small.
    torch.set_num_threads(1)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`command("ratio=0.3", ...)` runs `python run.py outputs=TMP ratio=0.3 ...` in this process."""

    def run(*overrides: str, outputs: str | None = None) -> Ended:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [str(ROOT / "run.py"), f"outputs={outputs or tmp_path / 'outputs'}", *overrides])
        monkeypatch.setattr(interruption, "_noted", [])  # no signal came to this run yet
        # One pass for the latency of every stage, in place of 0.2 s of passes.
        monkeypatch.setattr(Timer, "blocked_autorange", lambda timer, **_: timer.timeit(1))
        capfd.readouterr()
        try:
            code = cli.main(ROOT)
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        captured = capfd.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder PRUNESCOPE_DATA: `cifar-10-batches-py/` of torchvision and `weights/resnet56-4bfd9763.th`."""
    folder = os.environ.get("PRUNESCOPE_DATA")
    if not folder:
        pytest.skip("PRUNESCOPE_DATA names no folder with CIFAR-10 and the published weights")
    return Path(folder)
