"""Progress of a training for a person: a live line on a terminal, a plain line an epoch otherwise."""

import logging
import os
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from analysis.columns import shown

log = logging.getLogger(__name__)


class Progress:
    """Epochs, the values of their history, images/s and time left of one training, on stderr.

    Args:
        done: epochs that were trained before, the last of them perhaps in part.
    """

    def __init__(self, label: str, epochs: int, images_per_epoch: int, *, done: float = 0) -> None:
        self.label, self.epochs, self.images_per_epoch = label, epochs, images_per_epoch
        self.started, self.done = time.monotonic(), done
        self.bar = tqdm(
            total=epochs * images_per_epoch,
            initial=round(done * images_per_epoch),
            desc=label,
            unit="img",
            unit_scale=True,
            bar_format="{desc} |{bar:12}| {rate_fmt}, {remaining} left{postfix}",
            disable=not (epochs and _on_terminal()),
        )

    def close(self) -> None:
        """Ends the live line."""
        self.bar.close()

    def batch(self, n_images: int) -> None:
        """Another batch has been handed to the device."""
        self.bar.update(n_images)

    def epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        """Epoch `epoch` (from 1) has ended with these values of its history."""
        trained = epoch - self.done  # 0 of a run that goes on where only the test split was left to measure
        values = ", ".join(shown(name, value) for name, value in row.items())
        speed = ""
        if trained:
            seconds = time.monotonic() - self.started
            rate, left = trained * self.images_per_epoch / seconds, seconds / trained * (self.epochs - epoch)
            speed = f", {rate:,.0f} images/s, {_clock(left)} left"
        log.info(f"{self.label}: epoch {epoch}/{self.epochs}, {values}{speed}")
        self.bar.set_description_str(f"{self.label} {epoch}/{self.epochs}")
        self.bar.set_postfix_str(values)


class NotUnderTheBar(logging.Filter):
    """Keeps the plain lines, which go to the run's log in any case, off a terminal that shows the live line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """False for an epoch's line on a terminal."""
        return record.name != __name__ or not _on_terminal()


def _on_terminal() -> bool:
    """True where a person watches; a terminal of no width (some recorders) shows no bar."""
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
