"""Runs every stage of an experiment once: what the store has is taken from it, what is made is kept there."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from runners.storage.interruption import stop_if_requested
from runners.storage.keys import digest
from runners.storage.resume import Checkpoints
from runners.storage.store import Store
from runners.storage.weights import load_weights, save_weights

log = logging.getLogger(__name__)
Write = Callable[[Path], None]
WEIGHTS, HISTORY, TABLE = "weights.safetensors", "history.csv", "table.csv"
TEXT_COLUMNS = ("layer", "criterion", "note", "obstacle", "removed", "masked")


def read_table(path: Path) -> pd.DataFrame:
    """A table as it was written: the same numbers to the last bit, and empty text where text was empty."""
    header = pd.read_csv(path, nrows=0).columns
    text = [column for column in TEXT_COLUMNS if column in header]
    table = pd.read_csv(path, dtype=dict.fromkeys(text, str))
    return table.fillna(dict.fromkeys(text, ""))


@dataclass(frozen=True)
class Stages:
    """A store, this run's keys in it, and how long each stage took.

    Args:
        keys: stage -> key; `name` adds to them.
        rerun: make every stage again; a stored result that differs is reported, and stands.
        seconds: stage -> seconds, filled as stages run.
        reused: stages whose results came from the store.
    """

    store: Store
    keys: dict[str, str]
    rerun: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)

    def name(self, stage: str, what: Any) -> None:
        """Gives `kind/...` a key: what goes into every stage of its kind, and `what` (plain values) of this one.

        Stages of a kind lie together in the store, and are one result if all that goes into them is the same.
        """
        self.keys[stage] = digest([self.keys[_kind(stage)], what])

    def network(
        self, stage: str, blank: nn.Module, make: Callable[[Checkpoints], tuple[nn.Module, pd.DataFrame]]
    ) -> tuple[nn.Module, pd.DataFrame]:
        """The network of a stage and its history; `blank` lends its shape and stays as it is."""
        checkpoints = Checkpoints(self.store.root / "unfinished" / self.keys[stage])

        def produce() -> Write:
            network, history = make(checkpoints)

            def write(folder: Path) -> None:
                save_weights(network, folder / WEIGHTS)
                history.to_csv(folder / HISTORY, index=False)

            return write

        entry = self._entry(stage, produce)
        checkpoints.clear()
        network = deepcopy(blank)
        load_weights(network, entry / WEIGHTS)
        return network.eval(), read_table(entry / HISTORY)

    def table(self, stage: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The table of a stage, as it is read back from its CSV."""

        def produce() -> Write:
            table = make()
            return lambda folder: table.to_csv(folder / TABLE, index=False)

        entry = self._entry(stage, produce)
        return read_table(entry / TABLE)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time of a block to `seconds`."""
        started = time.monotonic()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0) + time.monotonic() - started, 3)

    def _entry(self, stage: str, produce: Callable[[], Write]) -> Path:
        key = self.keys[stage]
        stop_if_requested(f"before stage {stage!r}")
        kind = _kind(stage)
        with self.timed(kind):
            if not self.rerun and (entry := self.store.find(kind, key)):
                self.reused.append(stage)
                log.info(f"{stage}: taken from the store ({key[:10]}), not made again")
                return entry
            return self.store.publish(kind, key, produce())


def _kind(stage: str) -> str:
    """The part of a stage's name that many may share."""
    return stage.partition("/")[0]
