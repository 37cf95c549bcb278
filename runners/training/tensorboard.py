"""Learning curves for TensorBoard, an epoch at a time."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from runners.process.errors import ConfigError

Watch = Callable[[Mapping[Any, Any]], None]
TAGS = {
    "lr": "lr",
    "train_loss_nats": "loss_nats/train",
    "train_top1_pct": "top1_pct/train",
    "test_top1_pct": "top1_pct/test",
}


def unwatched(row: Mapping[Any, Any]) -> None:
    """Nobody looks."""


def tensorboard(folder: Path) -> Watch:
    """Writes every row of a history that it is given to an event file in `folder`, which the first row makes.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    try:
        # An extra, and seconds of importing, for those who ask for it.
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "tensorboard=true needs the package tensorboard, which is not installed; pip install -e '.[tensorboard]', or "
            "leave it out: history.csv and history.png hold the same curves"
        ) from error

    @cache
    def writer() -> SummaryWriter:
        return SummaryWriter(str(folder))

    def watch(row: Mapping[Any, Any]) -> None:
        for column, tag in TAGS.items():
            writer().add_scalar(tag, row[column], row["epoch"])
        writer().flush()

    return watch
