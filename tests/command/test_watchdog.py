"""A run that hangs ends with its stacks and exit code 75; one that goes forward, however slowly, does not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from runners.data.resident import Images
from runners.process import interruption
from runners.process.interruption import Preempted, beats
from runners.scoring.score import score
from runners.tracing.channels import trace_channels
from support import ROOT, Ended, check_refused

PROGRAM = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from runners.process.interruption import beat
from runners.command.watchdog import watched

def waits_for_what_never_comes():
    for _ in range(40):
        {beat}
        time.sleep(0.05)

with watched(Path({folder!r}), {minutes}):
    waits_for_what_never_comes()
"""


def run(folder: Path, minutes: float | None, beat: str = "pass") -> "subprocess.CompletedProcess[str]":
    program = PROGRAM.format(root=str(ROOT), folder=str(folder), minutes=minutes, beat=beat)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_a_run_that_hangs_ends_with_75_and_says_where(tmp_path: Path) -> None:
    ended = run(tmp_path, 0.5 / 60)
    check_refused(Ended(ended.returncode, "", ended.stderr), 75, 0.00833333)
    assert "in waits_for_what_never_comes" in (tmp_path / "error.log").read_text()
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("stopped", 75)


@pytest.mark.parametrize(("minutes", "beat"), [(1.0 / 60, "beat()"), (None, "pass")])
def test_a_run_that_goes_forward_or_is_not_watched_ends_by_itself(minutes: float | None, beat: str, tmp_path: Path) -> None:
    assert run(tmp_path, minutes, beat).returncode == 0 and not list(tmp_path.iterdir())


def test_batches_and_questions_for_signals_are_steps_forward() -> None:
    before = beats()
    images = Images(torch.zeros(5, 3, 4, 4, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64), (0.5,) * 3, (0.5,) * 3)
    assert len(list(images.batches(2))) == 3 and beats() == before + 3
    interruption.requested()
    assert beats() == before + 4


def test_a_signal_ends_scoring_after_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from criteria.activation import APoZ

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
    images = Images(torch.zeros(6, 3, 4, 4, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64), (0.5,) * 3, (0.5,) * 3)
    channels = trace_channels(network, next(images.batches(1))[0])
    monkeypatch.setattr(interruption, "_noted", [interruption.SIGNALS[0]])
    with pytest.raises(Preempted, match="SIGTERM"):
        score(network, channels, {"apoz": APoZ(1e-4)}, images, batch_size=2)
