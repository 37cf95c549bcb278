"""Kills a run of five training steps at each of its durable writes, or at random; torch is imported once, runs are forks.

    python tests/drills/crashes.py FOLDER [calls=fsync,rename] [every=1] [random=10] [careless=1]

A kill at an fsync first halves the file: until then a power cut may leave anything. No fsync is really made: a kill alone
loses nothing that was written. Prints one JSON line: how many durable
calls a run makes, how many runs were killed, and those that did not come to the same bits when the command was given again.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import pandas as pd  # noqa: E402
import torch  # noqa: E402
import torch._dynamo  # noqa: E402, F401  (the first optimizer imports it)
from torch import nn  # noqa: E402
from torch.optim import SGD  # noqa: E402

from runners.data.fake import fake  # noqa: E402
from runners.data.splits import load  # noqa: E402
from runners.process import interruption  # noqa: E402
from runners.storage import folder as run_folder  # noqa: E402
from runners.storage import store  # noqa: E402
from runners.storage.keys import Stage, digest  # noqa: E402
from runners.storage.stages import WEIGHTS, Stages  # noqa: E402
from runners.storage.store import MANIFEST, Store  # noqa: E402
from runners.training import schedule, state  # noqa: E402
from runners.training.engine import Engine  # noqa: E402
from runners.training.fit import fit  # noqa: E402
from runners.training.recipe import Recipe  # noqa: E402
from support import FixedKeys  # noqa: E402

STEPS = 5
KEYS = {"trained": digest("trained"), "scores": digest("scores")}
RECIPE = Recipe(1, 4, 0.05, 1e-3, partial(schedule.cosine, warmup_epochs=0))
DATA = load(
    fake,
    dict(
        num_images=25,
        channels=2,
        image_size=6,
        num_classes=3,
        score_share=0.5,
        mean=(0.5,) * 2,
        std=(0.2,) * 2,
        seed=0,
        crop_padding=1,
        flip=True,
    ),
)
DURABLE: tuple[tuple[Any, str], ...] = (
    *((os, name) for name in ("fsync", "unlink", "rmdir")),
    *((Path, name) for name in ("rename", "mkdir", "unlink")),
)
COUNTED = {name for _, name in DURABLE}


def blank() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.4), nn.Flatten(), nn.Linear(96, 3))
    return nn.Sequential(*layers)


def run(folder: Path) -> int:
    """Train, score, write: what every run does with the disk."""
    interruption.listen()
    state.CHECKPOINT_SECONDS = 0.0
    stages = Stages(Store(folder / "store"), FixedKeys(KEYS))
    out = folder / "run"
    out.mkdir(parents=True, exist_ok=True)
    if run_folder.is_done(out):
        return 0
    run_folder.start(out, {"seed": 0})
    network, history = stages.network(
        Stage("trained", 1),
        blank(),
        lambda unfinished: fit(
            blank(),
            DATA,
            unfinished,
            recipe=RECIPE,
            optimizer=partial(SGD, momentum=0.9),
            engine=Engine("fp32"),
            seed=3,
            label="train",
        ),
    )
    first = next(network.parameters())
    scores = stages.table(Stage("scores", 1), lambda: pd.DataFrame({"score": first.detach().abs().sum(dim=(1, 2, 3)).numpy()}))
    for name, table in {"accuracy": history, "spearman": scores}.items():
        run_folder.write_table(out, name, table)
    run_folder.write_text(out, "done")
    run_folder.finish(out, {"contents": stages.made.contents})
    return 0


def child(work: Callable[[], int], kill_after: float | None = None) -> int:
    """Runs `work` in a fork; its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            code = work()
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_killed(folder: Path, at: int, count_file: Path | None = None) -> int:
    """A run that gets SIGKILL just before its durable call number `at` (from 0)."""
    calls = 0

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            if calls == at:
                if name == "fsync":
                    halve(Path(os.readlink(f"/proc/self/fd/{arguments[0]}")))
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return original(*arguments, **options)

        return call

    for owner, name in DURABLE:
        if name in COUNTED:
            setattr(owner, name, counted(name, getattr(owner, name)))
    code = run(folder)
    if count_file:
        count_file.write_text(str(calls))
    return code


def halve(path: Path) -> None:
    if path.is_file():
        os.truncate(path, path.stat().st_size // 2)


def outcome(folder: Path) -> str:
    """A hash of the weights and of everything that a reader of the run folder sees, less times."""
    [entry] = [path for path in Store(folder / "store").entries() if path.parent.parent.name == "trained"]
    files = [entry / WEIGHTS, *sorted((folder / "run").glob("*.csv")), folder / "run" / "run.json"]
    done = run_folder.is_done(folder / "run")
    left = [path.name for path in (folder / "store").rglob("*") if "corrupt" in path.name]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files) + repr((done, left)).encode()).hexdigest()


def careless_publish(self: Store, stage: str, key: str, write: Callable[[Path], None], numerics: Collection[str] = ()) -> Path:
    """The negative control: written where it is read, and believed unread."""
    entry = self.root / stage / key[:2] / key
    entry.mkdir(parents=True, exist_ok=True)
    write(entry)
    for path in entry.iterdir():
        store._sync_file(path)
    (entry / MANIFEST).write_text(json.dumps({"stage": stage, "key": key, "sha256": {}}))
    return entry


def campaign(folder: Path, *, every: int, number: int) -> dict[str, Any]:
    """Kills, gives the command again, compares: at every `every`th durable call, and `number` times at random."""
    count_file = folder / "calls"
    assert child(lambda: run_killed(folder / "whole", -1, count_file)) == 0
    expected, calls = outcome(folder / "whole"), int(count_file.read_text())
    lost: list[list[Any]] = []

    def killed(moment: float, first: Callable[[], int], after: float | None = None) -> bool:
        """True if `first` was killed; files that the command given again did not bring back are noted as `lost`."""
        ended = child(first, kill_after=after)
        again = child(lambda: run(folder / "broken"))
        if again != 0 or outcome(folder / "broken") != expected:
            lost.append([moment, ended, again])
        shutil.rmtree(folder / "broken", ignore_errors=True)
        return ended == -signal.SIGKILL

    at_calls = [killed(call, partial(run_killed, folder / "broken", call)) for call in range(0, calls, every)]
    started = time.monotonic()
    assert child(lambda: run(folder / "warm")) == 0
    rng, seconds, at_random, tries = random.Random(0), time.monotonic() - started, 0, 0
    while at_random < number:
        moment = rng.uniform(0, seconds)
        if killed(moment, partial(run, folder / "broken"), after=moment):
            at_random += 1
        else:  # it had ended: a machine is faster at one time than at another
            seconds *= 0.95
        tries += 1
    return {"calls": calls, "killed": sum(at_calls) + at_random, "at_random": at_random, "tries": tries, "lost": lost}


def main() -> None:
    folder = Path(sys.argv[1])
    options = dict(option.split("=") for option in sys.argv[2:])
    torch.set_num_threads(1)
    os.fsync = lambda fd: None
    if "calls" in options:
        COUNTED.intersection_update(options["calls"].split(","))
    if "careless" in options:
        Store.publish = careless_publish
        store.is_whole = lambda entry: True
    print(json.dumps(campaign(folder, every=int(options.get("every", 1)), number=int(options.get("random", 0)))))


if __name__ == "__main__":
    main()
