"""Runs every stage of an experiment once: what the store has is taken from it, what is made is kept there."""

import logging
import time
from collections.abc import Callable, Collection, Iterator
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
from runners.storage.keys import digest
from runners.storage.locks import Locks
from runners.storage.resume import Checkpoints
from runners.storage.store import MANIFEST, Store, content, numerics
from runners.storage.tables import read_table
from runners.storage.weights import load_weights, save_weights

log = logging.getLogger(__name__)
Write = Callable[[Path], None]
Read = TypeVar("Read")
WEIGHTS, HISTORY, TABLE = "weights.safetensors", "history.csv", "table.csv"


@dataclass(frozen=True)
class Stages:
    """A store, this run's keys in it, and how long each stage took.

    Args:
        keys: stage -> key; `name` adds to them.
        rerun: make every stage again; a stored result that differs is reported, and stands.
        lock: how two runs that need the same result are kept from both making it; one of `locks.CHOICES`.
        seconds: stage -> seconds, filled as stages run; `waited` for other processes.
        reused: stages whose results came from the store.
        contents: stage -> hash of what was found or made, filled as stages run.
        numerics: of this process.
        made_on: stage -> numerics of all that had a part in it, filled as stages run.
    """

    store: Store
    keys: dict[str, str]
    rerun: bool = False
    lock: str = "auto"
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    contents: dict[str, str] = field(default_factory=dict)
    numerics: str = ""
    made_on: dict[str, list[str]] = field(default_factory=dict)

    def name(self, stage: str, what: Any) -> None:
        """Gives `kind/...` a key: what goes into every stage of its kind, and `what` (plain values) of this one.

        Stages of a kind lie together in the store, and are one result if all that goes into them is the same.
        """
        self.keys[stage] = digest([self.keys[_kind(stage)], what])

    def network(
        self, stage: str, blank: nn.Module, make: Callable[[Checkpoints], tuple[nn.Module, pd.DataFrame]]
    ) -> tuple[nn.Module, pd.DataFrame]:
        """The network of a stage and its history; `blank` lends its shape and stays as it is."""
        checkpoints = Checkpoints(self.store.root / "unfinished" / self.keys[stage], {self.numerics})

        def produce() -> Write:
            network, history = make(checkpoints)

            _check_finite(stage, network)

            def write(folder: Path) -> None:
                save_weights(network, folder / WEIGHTS)
                history.to_csv(folder / HISTORY, index=False)

            return write

        entry = self._entry(stage, produce, checkpoints.numerics)
        checkpoints.clear()
        network = deepcopy(blank)
        self._read(stage, entry / WEIGHTS, lambda path: load_weights(network, path))
        return network.eval(), self._read(stage, entry / HISTORY, read_table)

    def table(self, stage: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The table of a stage, as it is read back from its CSV."""

        def produce() -> Write:
            table = make()
            return lambda folder: table.to_csv(folder / TABLE, index=False)

        entry = self._entry(stage, produce, {self.numerics})
        return self._read(stage, entry / TABLE, read_table)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time of a block to `seconds`."""
        started = time.monotonic()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0) + time.monotonic() - started, 3)

    def _entry(self, stage: str, produce: Callable[[], Write], made_on: Collection[str]) -> Path:
        """The folder of a stage's result: found; or found after another process made it; or made.

        Args:
            made_on: numerics of all that had a part in it, once it is made.
        """
        stop_if_requested(f"before stage {stage!r}")
        kind, key = _kind(stage), self.keys[stage]
        entry = self._found(stage)
        if entry is None:
            locks = Locks(self.store.root / "locks", self.lock)
            with self._waiting(locks.held(kind, key, unless=lambda: not self.rerun and self.store.has(kind, key))):
                entry = self._found(stage)
                if entry is None:
                    with self.timed(kind):
                        entry = self.store.publish(kind, key, produce(), made_on)
        self.contents[stage] = self._read(stage, entry / MANIFEST, content)
        self.made_on[stage] = self._read(stage, entry / MANIFEST, numerics)
        return entry

    def _found(self, stage: str) -> Path | None:
        if self.rerun:
            return None
        with self.timed(_kind(stage)):
            entry = self.store.find(_kind(stage), self.keys[stage])
        if entry:
            self.reused.append(stage)
            log.info(f"{stage}: taken from the store ({self.keys[stage][:10]}), not made again")
        return entry

    @contextmanager
    def _waiting(self, lock: AbstractContextManager[None]) -> Iterator[None]:
        """Enters `lock` on the clock of `waited`."""
        with ExitStack() as held:
            with self.timed("waited"):
                held.enter_context(lock)
            yield

    def _read(self, stage: str, path: Path, read: Callable[[Path], Read]) -> Read:
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
                f"stored {stage} {path} cannot be read ({error.strerror}); nobody may delete from store= while runs need it; "
                "check the disk, then give the same command"
            ) from error


def _check_finite(stage: str, network: nn.Module) -> None:
    for name, value in network.state_dict().items():
        if not value.isfinite().all():
            raise NumericalError(
                f"the result of stage {stage!r} has values in {name} that are not finite; such weights are not stored; lower "
                "the learning rate"
            )


def _kind(stage: str) -> str:
    """The part of a stage's name that many may share."""
    return stage.partition("/")[0]
