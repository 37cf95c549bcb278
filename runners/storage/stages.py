"""Runs every stage of an experiment once: what the store has is taken from it, what is made is kept there."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from torch import nn

from runners.process.errors import NumericalError, ResourceError, StoreError
from runners.process.interruption import stop_if_requested
from runners.storage.files import read_again
from runners.storage.keys import Keys, Stage
from runners.storage.locks import Locks
from runners.storage.resume import Checkpoints
from runners.storage.store import MANIFEST, Store, content, numerics
from runners.storage.tables import read_table
from runners.storage.weights import load_weights, save_weights

log = logging.getLogger(__name__)
Write = Callable[[Path], None]
Watch = Callable[[Mapping[Any, Any]], None]
Read = TypeVar("Read")
WEIGHTS, HISTORY, TABLE = "weights.safetensors", "history.csv", "table.csv"


def unwatched(row: Mapping[Any, Any]) -> None:
    """Shows nothing."""


@dataclass(frozen=True)
class Made:
    """Record of what a run has asked of the store so far, by the label of each stage.

    Args:
        keys: also of the stages that went into those.
        options: the names of the options that went in.
        seconds: of each kind of stage; `waited` for other processes.
        reused: stages whose results came from the store.
        contents: hash of what was found or made.
        made_on: numerics of all that had a part in it.
    """

    keys: dict[str, str] = field(default_factory=dict)
    options: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    contents: dict[str, str] = field(default_factory=dict)
    made_on: dict[str, list[str]] = field(default_factory=dict)

    def note_keys(self, stage: Stage, keys: Keys) -> None:
        """Adds a stage, and those before it."""
        other = keys.instead(stage)
        for earlier in [other] if other else stage.after:
            self.note_keys(earlier, keys)
        self.keys[stage.label] = keys.of(stage)
        self.options[stage.label] = list(stage.options)


@dataclass(frozen=True)
class Stages:
    """A store, this run's keys in it, and how long each stage took.

    Args:
        rerun: make every stage again; a stored result that differs is reported, and stands.
        lock: of results that two runs need, so that one makes them and the other waits; one of `locks.CHOICES`.
        watch: label of a stage -> what is shown the rows of its history, also of one that comes from the store.
    """

    store: Store
    keys: Keys
    rerun: bool = False
    lock: str = "auto"
    numerics: str = ""
    watch: Callable[[str], Watch] = lambda stage: unwatched
    made: Made = field(default_factory=Made)

    def network(
        self, stage: Stage, blank: nn.Module, make: Callable[[Checkpoints], tuple[nn.Module, pd.DataFrame]]
    ) -> tuple[nn.Module, pd.DataFrame]:
        """The network of a stage and its history; `blank` lends its shape and stays as it is."""
        checkpoints = Checkpoints(self.store.root / "unfinished" / self.keys.of(stage), {self.numerics})

        def produce() -> Write:
            network, history = make(checkpoints)
            _check_finite(stage.label, network)

            def write(folder: Path) -> None:
                save_weights(network, folder / WEIGHTS)
                history.to_csv(folder / HISTORY, index=False)

            return write

        entry = self._entry(stage, produce, checkpoints.numerics)
        checkpoints.clear()
        network = deepcopy(blank)
        self._read(stage, entry / WEIGHTS, lambda path: load_weights(network, path))
        history = self._read(stage, entry / HISTORY, read_table)
        if stage.label in self.made.reused:
            watch = self.watch(stage.label)
            for row in history.to_dict("records"):
                watch(row)
        return network.eval(), history

    def table(self, stage: Stage, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The table of a stage, as it is read back from its CSV."""

        def produce() -> Write:
            table = make()
            return lambda folder: table.to_csv(folder / TABLE, index=False)

        entry = self._entry(stage, produce, {self.numerics})
        return self._read(stage, entry / TABLE, read_table)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds the time of a block to `made.seconds`."""
        started = time.monotonic()
        yield
        self.made.seconds[what] = round(self.made.seconds.get(what, 0) + time.monotonic() - started, 3)

    def _entry(self, stage: Stage, produce: Callable[[], Write], made_on: Collection[str]) -> Path:
        """The folder of a stage's result: found; or found after another process made it; or made.

        Args:
            made_on: numerics of all that had a part in it, once it is made.
        """
        stop_if_requested(f"before stage {stage.label!r}")
        kind, key = stage.kind, self.keys.of(stage)
        self.made.note_keys(stage, self.keys)
        entry = self._found(stage)
        if entry is None:
            locks = Locks(self.store.root / "locks", self.lock)
            with self._waiting(locks.held(kind, key, unless=lambda: not self.rerun and self.store.has(kind, key))):
                entry = self._found(stage)
                if entry is None:
                    with self.timed(kind):
                        entry = self.store.publish(kind, key, produce(), made_on)
        self.made.contents[stage.label] = self._read(stage, entry / MANIFEST, content)
        self.made.made_on[stage.label] = self._read(stage, entry / MANIFEST, numerics)
        return entry

    def _found(self, stage: Stage) -> Path | None:
        if self.rerun:
            return None
        key = self.keys.of(stage)
        with self.timed(stage.kind):
            entry = self.store.find(stage.kind, key)
        if entry:
            self.made.reused.append(stage.label)
            log.info(f"{stage.label}: taken from the store ({key[:10]}), not made again")
        return entry

    @contextmanager
    def _waiting(self, lock: AbstractContextManager[None]) -> Iterator[None]:
        """Enters `lock` on the clock of `waited`."""
        with ExitStack() as held:
            with self.timed("waited"):
                held.enter_context(lock)
            yield

    def _read(self, stage: Stage, path: Path, read: Callable[[Path], Read]) -> Read:
        def opened() -> Read:
            path.stat()  # what is not there, or not yet, is worth another try
            return read(path)

        try:
            return read_again(opened)
        except OSError as error:
            if not self.store.root.exists():
                raise ResourceError(
                    f"store={self.store.root} was deleted while this run needed it; it must stay while runs go on; give the "
                    "same command to make everything anew"
                ) from error
            raise StoreError(
                f"stored {stage.label} {path} cannot be read ({error.strerror}); nobody may delete from store= while runs need "
                "it; check the disk, then give the same command"
            ) from error


def _check_finite(stage: str, network: nn.Module) -> None:
    for name, value in network.state_dict().items():
        if not value.isfinite().all():
            raise NumericalError(
                f"the result of stage {stage!r} has {name} not finite; it is not stored; lower the learning rate"
            )
