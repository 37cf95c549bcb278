"""Learning curves for TensorBoard, an epoch at a time."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from runners.process.errors import ConfigError
from runners.storage.stages import Watch


def tag(column: str) -> str:
    """The curve of a history's column: `loss_nats/train` of `train_loss_nats`, `lr`; empty for what is no curve."""
    split, _, rest = column.partition("_")
    return f"{rest}/{split}" if split in ("train", "test") else column if column == "lr" else ""


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
        for column, value in row.items():
            if curve := tag(str(column)):
                writer().add_scalar(curve, value, row["epoch"])
        writer().flush()

    return watch
