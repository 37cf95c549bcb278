"""Learning curves for TensorBoard, read back with its own reader."""

import sys
from pathlib import Path

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support import Command, check_refused

TAGS = {
    "lr": "lr",
    "train_loss_nats": "loss_nats/train",
    "train_top1_pct": "top1_pct/train",
    "test_top1_pct": "top1_pct/test",
}
TINY = ("dataset=fake", "model=resnet20", "recipe.epochs=3", "finetune.epochs=2", "recipe.batch_size=32", "tensorboard=true")


def curves(folder: Path) -> dict[str, pd.DataFrame]:
    """Stage -> one row an epoch, from the event files."""
    found: dict[str, pd.DataFrame] = {}
    for place in sorted((folder / "tensorboard").iterdir()):
        events = EventAccumulator(str(place)).Reload()
        columns = {column: {event.step: event.value for event in events.Scalars(tag)} for column, tag in TAGS.items()}
        found[place.name] = pd.DataFrame(columns).rename_axis("epoch").reset_index()
    return found


def assert_curves_are_the_history(folder: Path) -> None:
    history = pd.read_csv(folder / "history.csv")
    found = curves(folder)
    assert set(found) == {"trained", "tuned"}
    for stage, curve in found.items():
        expected = history[history["stage"] == stage][["epoch", *TAGS]].reset_index(drop=True)
        pd.testing.assert_frame_equal(curve, expected, check_dtype=False, rtol=1e-6)  # event files hold float32


def test_curves_are_the_history_whether_trained_or_reused(command: Command) -> None:
    trained = command(*TINY)
    assert trained.code == 0, trained.err
    assert_curves_are_the_history(trained.folder)
    reused = command(*TINY, "ratio=0.3")
    assert reused.code == 0 and "trained" in reused.facts["reused"]
    assert_curves_are_the_history(reused.folder)


@pytest.mark.slow
def test_nothing_is_written_unless_asked_for(command: Command) -> None:
    assert not (command(*TINY, "tensorboard=false").folder / "tensorboard").exists()


def test_a_missing_package_is_one_line_before_anything_is_trained(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    ended = command(*TINY)
    check_refused(ended, 2, "pip install -e '.[tensorboard]'")
    assert "epoch 1" not in ended.out
