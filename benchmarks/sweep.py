"""A sweep on one trained network against the same sweep with nothing shared, and what the start of a job costs.

    python benchmarks/sweep.py [finetune=1] [per_device=1] [ratios=9]

3 criteria x 9 ratios (or fewer) x 2 scopes, ResNet-20 on the embedded digits, `finetune` epochs each. The peer is the same
command with a store for every job, so that nothing is shared and the network is trained once a run. Images trained on are
counted from the histories of the stages that were not taken from the store. Prints a table and leaves nothing.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from engine import options  # noqa: E402

CRITERIA, SCOPES = ("l1", "l2", "gm"), ("layer", "global")
RATIOS = tuple(f"0.{tenth}" for tenth in range(1, 10))
IMAGES = 1437  # of the digits, to train on


def run(*arguments: str) -> float:
    """Seconds of one command of a user."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit {done.returncode}: {done.stderr}")
    return time.perf_counter() - started


def images_trained_on(outputs: Path) -> int:
    """Images that went through a training step, in all runs below a folder."""
    total = 0
    for facts in outputs.rglob("run.json"):
        reused = json.loads(facts.read_text())["reused"]
        history = pd.read_csv(facts.parent / "history.csv")
        total += IMAGES * int((~history["stage"].isin(reused)).sum())
    return total


def sweep_rows(given: dict[str, int], folder: Path) -> list[str]:
    """Both sweeps."""
    common = ["model=resnet20", f"finetune.epochs={given['finetune']}", f"hydra.launcher.per_device={given['per_device']}"]
    grid = _grid(given["ratios"])
    ours = run("--multirun", *common, f"outputs={folder / 'shared'}", *grid)
    again = run("--multirun", *common, f"outputs={folder / 'shared'}", *grid)
    own_store = "store=${outputs}/stores/${criterion._target_}-${ratio}-${scope}"
    theirs = run("--multirun", *common, f"outputs={folder / 'alone'}", own_store, *grid)
    counts = [images_trained_on(folder / name) for name in ("alone", "shared")]
    n_runs = len(CRITERIA) * given["ratios"] * len(SCOPES)
    what = f"{n_runs} runs, {given['finetune']} epochs of fine-tuning each"
    fewer = f"{counts[0] / counts[1]:.1f}x fewer"
    return [
        f"| images trained on: {what} | a store for every run | {counts[0]:,} | {counts[1]:,} | {fewer} |",
        f"| time: {what} | a store for every run | {theirs:.0f} s | {ours:.0f} s | {theirs / ours:.1f}x |",
        f"| the finished sweep once more | | | {again:.1f} s | nothing trained |",
    ]


def start_row(folder: Path) -> str:
    """Seconds that a job takes which has nothing left to train: its start, and tables from the store."""
    tiny = ["model=resnet20", "finetune.epochs=0", "recipe.epochs=1", f"store={folder / 'store'}"]
    run(*tiny, f"outputs={folder / 'first'}")
    seconds = {}
    for warm in ("false", "true"):
        outputs = f"outputs={folder / warm}"
        seconds[warm] = run("--multirun", *tiny, outputs, "ratio=0.1,0.2,0.3,0.4,0.5,0.6", f"hydra.launcher.warm={warm}") / 6
    gain = seconds["false"] / seconds["true"]
    return f"| a job that trains nothing | a fresh process | {seconds['false']:.1f} s | {seconds['true']:.1f} s | {gain:.1f}x |"


def _grid(n_ratios: int) -> list[str]:
    return [f"criterion={','.join(CRITERIA)}", f"ratio={','.join(RATIOS[:n_ratios])}", f"scope={','.join(SCOPES)}"]


def main() -> None:
    """Measures and prints."""
    given = options({"finetune": 1, "per_device": 1, "ratios": 9})
    print("| what | peer | peer's | ours | ratio |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        print(start_row(Path(folder) / "start"), flush=True)
        print("\n".join(sweep_rows(given, Path(folder) / "sweep")))


if __name__ == "__main__":
    main()
