"""Kills a tiny run at its durable writes. torch is imported once; every run is a forked child.

    python tests/drills/zygote.py FOLDER every=3 [forget=generators]

Prints one JSON line: how many durable calls a run makes, which were killed, and the runs whose tables came out different.
"""

import functools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402

import runners.command.imported  # noqa: E402, F401
import runners.measuring.accuracy  # noqa: E402
import runners.training.state  # noqa: E402
from runners.command import cli  # noqa: E402
from runners.training.state import Training  # noqa: E402

TINY = [
    "dataset=fake",
    "dataset.num_images=32",
    "dataset.image_size=8",
    "model=timm",
    "model.model_name=resnet10t",
    "+model.drop_rate=0.2",  # draws from the generator at every step
    "recipe.epochs=2",
    "recipe.batch_size=8",
    "finetune.epochs=2",
    "finetune.batch_size=8",
    "precision=fp32",
]
TABLES = ("accuracy", "spearman", "scores", "selection", "history")
DURABLE: tuple[tuple[Any, str], ...] = ((os, "fsync"), (Path, "rename"), (Path, "mkdir"), (Path, "unlink"))


def child(work: Callable[[], int]) -> int:
    """Runs `work` in a fork; its exit code, or minus the signal that ended it."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os._exit(work())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(folder: Path) -> int:
    sys.argv = ["run.py", f"outputs={folder}", *TINY]
    return cli.main(ROOT)


def run_killed(folder: Path, at: int, count_file: Path | None = None) -> int:
    """A run that gets SIGKILL just before its durable call number `at` (from 0)."""
    calls = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return original(*args, **kwargs)

        return call

    for owner, name in DURABLE:
        setattr(owner, name, counted(getattr(owner, name)))
    code = run(folder)
    if count_file:
        count_file.write_text(str(calls))
    return code


def tables(folder: Path) -> dict[str, str]:
    """The content of every table, less the measured latency."""
    import pandas as pd

    [one] = [path.parent for path in folder.glob("fake-*/accuracy.csv")]
    found = {name: pd.read_csv(one / f"{name}.csv").drop(columns="latency_ms", errors="ignore") for name in TABLES}
    return {name: table.to_csv() for name, table in found.items()}


def main() -> None:
    folder = Path(sys.argv[1])
    options = dict(option.split("=") for option in sys.argv[2:])
    torch.set_num_threads(1)
    runners.measuring.accuracy.cost = functools.partial(runners.measuring.accuracy.cost, seconds=0.001)
    if options.get("forget") == "generators":  # the negative control: a checkpoint without the generators' state
        original = Training.restore

        def restore(self: Training, state: dict[str, Any]) -> None:
            before = torch.get_rng_state()
            original(self, state)
            torch.set_rng_state(before)

        Training.restore = restore
    if "save_every_step" in options:
        runners.training.state.CHECKPOINT_SECONDS = 0.0
    count_file = folder / "calls"
    assert child(lambda: run_killed(folder / "whole", -1, count_file)) == 0
    expected, calls = tables(folder / "whole"), int(count_file.read_text())
    points = range(int(options.get("first", 0)), calls, int(options.get("every", 1)))
    different, failed = [], []
    for point in points:
        broken = folder / f"killed{point}"
        killed = child(lambda broken=broken, point=point: run_killed(broken, point))
        again = child(lambda broken=broken: run(broken))
        if killed != -signal.SIGKILL or again != 0:
            failed.append([point, killed, again])
        elif tables(broken) != expected:
            different.append(point)
        shutil.rmtree(broken, ignore_errors=True)
    print(json.dumps({"calls": calls, "points": len(points), "different": different, "failed": failed}))


if __name__ == "__main__":
    main()
