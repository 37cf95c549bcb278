"""Reliability of the store, of checkpoints and of crowds of processes: everything is broken on purpose, and counted.

    python benchmarks/reliability.py [kills=1000] [flips=1000] [processes=64] [killed=8] [epochs=3] [data_root=DIR]

Prints a table: what was done, how often, how often it was survived or noticed, and the goal. With the numbers above it takes
about ten minutes on one core; data that a bit flips in are CIFAR-10's files below `data_root`. Needs pip install -e '.[dev]'.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim import SGD
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "storage")]

from test_store import network, payloads  # noqa: E402

from models.cifar_resnet import cifar_resnet  # noqa: E402
from runners.data.digits import digits  # noqa: E402
from runners.data.splits import load  # noqa: E402
from runners.process.errors import StoreError  # noqa: E402
from runners.storage import folder as run_folder  # noqa: E402
from runners.storage.keys import digest  # noqa: E402
from runners.storage.resume import Checkpoints  # noqa: E402
from runners.storage.store import Store, is_whole  # noqa: E402
from runners.storage.weights import load_weights, save_weights  # noqa: E402
from runners.training import schedule  # noqa: E402
from runners.training.engine import Engine  # noqa: E402
from runners.training.fit import fit  # noqa: E402
from runners.training.recipe import Recipe  # noqa: E402

Row = tuple[str, str, str, str]
OPTIONS: dict[str, Any] = {"kills": 1000, "flips": 1000, "processes": 64, "killed": 8, "epochs": 3, "data_root": None}
SEED = 0


def flipped(path: Path, notices: Callable[[], bool], tries: int) -> int:
    """Number of single flipped bits, of `tries` anywhere in a file, that were noticed; the file is whole again afterwards."""
    rng = random.Random(SEED)
    found = 0
    with path.open("r+b") as file:
        for _ in range(tries):
            place = rng.randrange(path.stat().st_size)
            file.seek(place)
            right = file.read(1)[0]
            for value in (right ^ 1 << rng.randrange(8), right):
                file.seek(place)
                file.write(bytes([value]))
                file.flush()
                found += value != right and notices()
    return found


def flips(folder: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Bits that flip in stored weights, in finished rows and in the data."""
    tries = options["flips"]
    entry = Store(folder / "store").publish(
        "trained", digest("flips"), lambda place: save_weights(cifar_resnet(depth=20, num_classes=10), place / "w.safetensors")
    )
    run = folder / "run"
    run.mkdir()
    table = pd.DataFrame({"top1_pct": [93.0 + number / 7 for number in range(20)]})
    for name in ("accuracy", "spearman"):
        run_folder.write_table(run, name, table)
    run_folder.write_text(run, "done")
    run_folder.finish(run, {"seed": 0})
    targets: dict[str, tuple[Path, Callable[[], bool]]] = {
        "stored weights": (entry / "w.safetensors", lambda: not is_whole(entry)),
        "a finished row": (run / run_folder.FACTS, lambda: not run_folder.is_done(run)),
    }
    if options["data_root"]:
        name, md5 = CIFAR10.test_list[0]
        copy = folder / name
        copy.write_bytes((Path(options["data_root"]) / CIFAR10.base_folder / name).read_bytes())
        targets["CIFAR-10"] = (copy, lambda: not check_integrity(str(copy), md5))
    for what, (path, notices) in targets.items():
        yield f"one bit flipped in {what}", f"{tries:,}", f"{flipped(path, notices, tries):,} noticed", f"{tries:,}"


def crowd(folder: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Processes that need one network at the same moment, some killed while they train it."""
    number, killed = options["processes"], options["killed"]
    for lock, victims in (("flock", killed), ("lease", killed), ("none", 0)):
        scenario = f"once number={number} lock={lock} killed={victims}"
        [found] = _script("crowd.py", folder / lock, scenario)
        what = f"processes on one key, lock={lock}, {victims} killed while holding"
        survived = (
            f"{found['codes'].count(0)} succeed, {found['entries']} entry, {found['hashes']} hash, {found['steps']:.2f}x steps"
        )
        goal = f"{number - victims} succeed, 1 entry, 1 hash" + (", at most 1.20x" if lock != "none" else "")
        yield what, str(number), survived, goal


def kills(folder: Path, options: dict[str, Any]) -> Iterator[Row]:
    """A run of five steps, killed at each of its durable calls and at random, and given again."""
    number = options["kills"]
    [found] = _script("crashes.py", folder / "kills", "every=1", f"random={number}")
    lost = [sum(isinstance(moment, kind) for moment, *_ in found["lost"]) for kind in (int, float)]
    for what, tried, gone in (("at every durable call", found["calls"], lost[0]), ("at random", number, lost[1])):
        yield f"SIGKILL {what}, then the same command", f"{tried:,}", f"{tried - gone:,} end in the same bits", f"{tried:,}"


def hostile(folder: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Files that would run code when they are unpickled: as given weights, and as checkpoints with a right hash."""
    canary = folder / "canary"
    tried = refused = 0
    for number, payload in enumerate(payloads(canary).values()):
        for kind in ("zip", "legacy", "named safetensors", "checkpoint"):
            place = folder / f"{kind} {number}"
            tried += 1
            if kind == "checkpoint":
                checkpoints = Checkpoints(place)
                checkpoints.save({"step": 1, "trap": payload})
                refused += _is_refused(checkpoints.load)
                continue
            path = place.with_suffix(".safetensors" if kind == "named safetensors" else ".pt")
            torch.save(payload, path, _use_new_zipfile_serialization=kind != "legacy")
            refused += _is_refused(partial(load_weights, network(), path))
    ran = "code ran" if canary.exists() else "none runs code"
    yield "hostile checkpoint files read", str(tried), f"{refused} refused, {ran}", f"{tried}, none runs code"


def _is_refused(read: Callable[[], object]) -> bool:
    try:
        read()
    except StoreError:
        return True
    return False


def overhead(folder: Path, options: dict[str, Any]) -> Iterator[Row]:
    """The share of training's time that checkpoints take: ResNet-56 on the digits, one an epoch and one in five minutes."""
    spent = 0.0

    class Timed(Checkpoints):
        def save(self, state: dict[str, Any]) -> Path:
            nonlocal spent
            started = time.perf_counter()
            path = super().save(state)
            spent += time.perf_counter() - started
            return path

    splits = load(
        digits,
        dict(num_classes=10, channels=1, image_size=16, test_share=0.2, score_share=0.5, mean=(0.3,), std=(0.35,), seed=0),
    )
    model: nn.Module = cifar_resnet(depth=56, num_classes=10, in_channels=1)
    recipe = Recipe(options["epochs"], 128, 0.1, 1e-4, partial(schedule.cosine, warmup_epochs=0), False)
    started = time.perf_counter()
    settings: dict[str, Any] = {"optimizer": partial(SGD, momentum=0.9), "engine": Engine("fp32"), "seed": 0, "label": "train"}
    fit(model, splits, Timed(folder / "unfinished"), recipe=recipe, **settings)
    share = 100 * spent / (time.perf_counter() - started)
    yield "checkpoints, share of training's time", f"{options['epochs']} epochs", f"{share:.2f} %", "at most 2 %"


SECTIONS = (flips, hostile, crowd, kills, overhead)


def _script(name: str, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """The JSON lines that a script of `tests/drills` prints."""
    folder.mkdir()
    command = [sys.executable, str(ROOT / "tests" / "drills" / name), str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    """Breaks, counts and prints."""
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    options = OPTIONS | {name: value if name == "data_root" else int(value) for name, value in given.items()}
    torch.set_num_threads(1)
    print(f"# torch {torch.__version__}, Python {sys.version.split()[0]}, one thread, seed {SEED}\n")
    print("| what | tried | survived or noticed | goal |\n| --- | --- | --- | --- |")
    for section in SECTIONS:
        with tempfile.TemporaryDirectory() as folder:
            for row in section(Path(folder), options):
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
