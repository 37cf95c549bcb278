"""Processes that want the same result at once. torch is imported once; every process is a forked child.

    python crowd.py FOLDER "once number=16 lock=auto killed=8" "takeover lock=flock" paused "rows number=50 each=20"

Prints one JSON line a scenario, about what they did.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from runners.process import interruption  # noqa: E402
from runners.process.errors import UserError  # noqa: E402
from runners.storage import folder as run_folder  # noqa: E402
from runners.storage import locks  # noqa: E402
from runners.storage.files import write_atomic, write_json  # noqa: E402
from runners.storage.keys import Stage, digest, file_digest  # noqa: E402
from runners.storage.resume import Checkpoints  # noqa: E402
from runners.storage.stages import Stages, read_table  # noqa: E402
from runners.storage.store import MANIFEST, Store, is_whole  # noqa: E402
from support import FixedKeys  # noqa: E402

KEY = digest("crowd")
STEPS, SECONDS = 40, 0.02


def start(work: Callable[[], int]) -> int:
    """Runs `work` in a fork; its process number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = work()
    except UserError as error:
        code = error.exit_code
    finally:
        os._exit(code)


def end(pid: int) -> int:
    """A child's exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def train(network: nn.Linear, checkpoints: Checkpoints, note: Path) -> tuple[nn.Module, pd.DataFrame]:
    """Steps whose result depends on each of them; every one is saved, and noted as `process step`."""
    saved = checkpoints.load() or {"step": 0, "weight": torch.zeros(4, 4)}
    weight = saved["weight"]
    for step in range(saved["step"], STEPS):
        with note.open("a") as file:
            file.write(f"{os.getpid()} {step}\n")
        weight = weight * 0.9 + step
        checkpoints.save({"step": step + 1, "weight": weight})
        time.sleep(SECONDS)
    network.load_state_dict({"weight": weight})
    return network, pd.DataFrame({"epoch": [1]})


def member(folder: Path, lock: str) -> int:
    """Gets the result, made or found, and notes its hash."""
    interruption.listen()
    stages = Stages(Store(folder / "store"), FixedKeys({"trained": KEY}), lock=lock)
    blank = nn.Linear(4, 4, bias=False)
    network, _ = stages.network(Stage("trained", 1), blank, lambda unfinished: train(blank, unfinished, folder / "steps"))
    (folder / f"got-{os.getpid()}").write_text(digest(network.state_dict()["weight"].tolist()))
    return 0


def steps(folder: Path) -> list[tuple[int, int]]:
    """Every step that was made: process and number."""
    try:
        lines = (folder / "steps").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(int(pid), int(step)) for pid, step in map(str.split, lines)]


def until(condition: Callable[[], Any], seconds: float = 30) -> float:
    """Waits, and says how long; fails after `seconds`."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds
        time.sleep(0.002)
    return time.monotonic() - started


def outcome(folder: Path, codes: list[int]) -> dict[str, Any]:
    made = steps(folder)
    entries = list(Store(folder / "store").entries())
    left = [
        path.name for path in (folder / "store").rglob("*") if path.name.startswith((".", "tmp.")) or "corrupt" in path.name
    ]
    return {
        "codes": sorted(codes),
        "trainings": len({pid for pid, _ in made}),
        "from_the_start": sum(step == 0 for _, step in made),
        "steps": len(made) / STEPS,
        "entries": len(entries),
        "whole": all(map(is_whole, entries)),
        "hashes": len({path.read_text() for path in folder.glob("got-*")}),
        "left": left,
        "locks": [path.name for path in (folder / "store" / "locks").glob("*")],
        "unfinished": len(list((folder / "store" / "unfinished").glob("*"))),
    }


def once(folder: Path, number: int, lock: str, killed: int = 0) -> dict[str, Any]:
    """Many processes at once, of which some are killed while they make the result."""

    def together() -> int:
        until((folder / "go").exists)
        return member(folder, lock)

    pids = [start(together) for _ in range(number)]
    (folder / "go").touch()
    codes = []
    for _ in range(killed):
        until(lambda: works_alone(folder, pids))
        holder = steps(folder)[-1][0]
        os.kill(holder, signal.SIGKILL)
        codes.append(end(holder))
        pids.remove(holder)
    return outcome(folder, codes + [end(pid) for pid in pids])


def works_alone(folder: Path, pids: list[int]) -> bool:
    """True if the last three steps are of one of `pids`."""
    last = [pid for pid, _ in steps(folder)[-3:]]
    return len(last) == 3 and len(set(last)) == 1 and last[0] in pids


def takeover(folder: Path, lock: str, forget: str = "") -> dict[str, Any]:
    """The holder is killed half-way; one waiter is told to stop before, the other goes on in its place.

    Args:
        forget: checkpoints, as a control: nobody reads them.
    """
    if forget == "checkpoints":
        Checkpoints.load = lambda self: None
    holder = start(lambda: member(folder, lock))
    until(lambda: len(steps(folder)) >= STEPS // 2)
    stopped, waiter = (start(lambda: member(folder, lock)) for _ in range(2))
    time.sleep(0.3 * STEPS * SECONDS)
    os.kill(stopped, signal.SIGTERM)
    codes = [end(stopped)]
    alone = len({pid for pid, _ in steps(folder)}) == 1
    os.kill(holder, signal.SIGKILL)
    codes.append(end(holder))
    seconds = until(lambda: waiter in {pid for pid, _ in steps(folder)})
    return outcome(folder, [*codes, end(waiter)]) | {"seconds": seconds, "alone": alone}


def paused(folder: Path, publish: str = "") -> dict[str, Any]:
    """The holder of a lease stands still for longer than that, and goes on while its successor is at work.

    Args:
        publish: first, as a control: results are written where they are read, by whoever is first, and nobody may be second.
    """
    locks.LEASE_SECONDS = 0.5
    if publish == "first":
        Store.publish = in_place
    holder = start(lambda: member(folder, "lease"))
    until(lambda: len(steps(folder)) >= STEPS // 4)
    os.kill(holder, signal.SIGSTOP)
    waiter = start(lambda: member(folder, "lease"))
    seconds = until(lambda: sum(pid == waiter for pid, _ in steps(folder)) >= 3)
    os.kill(holder, signal.SIGCONT)
    return outcome(folder, [end(holder), end(waiter)]) | {"seconds": seconds}


def in_place(self: Store, stage: str, key: str, write: Callable[[Path], None], numerics: Collection[str] = ()) -> Path:
    """An entry without a rename."""
    entry = self._entry(stage, key)
    entry.mkdir(parents=True)
    write(entry)
    files = {path.name: file_digest(path) for path in entry.iterdir()}
    write_json(entry / MANIFEST, {"stage": stage, "key": key, "sha256": files})
    return entry


def shared_rows(folder: Path, number: int, each: int) -> dict[str, Any]:
    """The control of `rows`: each is added to one table that all share."""
    path = folder / "rows.csv"
    pd.DataFrame({"who": [], "row": []}).to_csv(path, index=False)

    def work(who: int) -> int:
        for row in range(each):
            table = pd.concat([pd.read_csv(path), pd.DataFrame({"who": [who], "row": [row]})])
            write_atomic(path, table.to_csv(index=False).encode())
        return 0

    pids = [start(lambda who=who: work(who)) for who in range(number)]
    codes = [end(pid) for pid in pids]
    return outcome(folder, codes) | {"rows": len(pd.read_csv(path))}


def rows(folder: Path, number: int, each: int) -> dict[str, Any]:
    """Many processes that all finish rows and store tables, some of them the same."""

    def work(who: int) -> int:
        table = pd.DataFrame({"top1_pct": [who / 7], "loss_nats": [float("nan")]})
        for row in range(each):
            stages = Stages(Store(folder / "store"), FixedKeys({"scores": digest([row if row % 2 else who, row])}))
            stages.table(Stage("scores", 1), lambda row=row: pd.DataFrame({"score": [row / 3]}))
            run = folder / f"run-{who}-{row}"
            run.mkdir()
            for name in ("accuracy", "spearman"):
                run_folder.write_table(run, name, table)
            run_folder.write_text(run, "done")
            run_folder.finish(run, {"who": who, "row": row})
        return 0

    pids = [start(lambda who=who: work(who)) for who in range(number)]
    codes = [end(pid) for pid in pids]
    done = [path for path in folder.glob("run-*") if run_folder.is_done(path)]
    right = [
        read_table(path / "accuracy.csv")["top1_pct"].tolist() == [json.loads((path / "run.json").read_text())["who"] / 7]
        for path in done
    ]
    return outcome(folder, codes) | {"rows": len(done), "right": sum(right)}


def play(folder: Path, scenario: str) -> dict[str, Any]:
    """The outcome of a scenario, given as its name and options."""
    name, *given = scenario.split()
    options = dict(option.split("=") for option in given)
    numbers = {key: int(options.pop(key)) for key in ("number", "killed", "each") if key in options}
    scenarios = {"once": once, "takeover": takeover, "paused": paused, "rows": rows, "shared_rows": shared_rows}
    with ExitStack() as patched:
        if options.pop("fsync", "on") == "off":  # what is at stake is who writes, not the disk
            patched.enter_context(patch("os.fsync"))
        if options.pop("exchange", "on") == "off":  # of two names: what filelock takes over by, and network file systems refuse
            patched.enter_context(patch("filelock._soft.exchange_names", return_value=False))
        return scenarios[name](folder, **options, **numbers)


def main() -> None:
    torch.set_num_threads(1)
    for number, scenario in enumerate(sys.argv[2:]):
        folder = Path(sys.argv[1]) / str(number)
        folder.mkdir()
        print(json.dumps(play(folder, scenario)), flush=True)


if __name__ == "__main__":
    main()
