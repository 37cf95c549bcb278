"""A training that is killed goes on to the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from torch.optim import SGD

from runners.data.fake import fake
from runners.data.splits import Splits, load
from runners.process import interruption
from runners.process.errors import NumericalError, ResourceError, StoreError
from runners.process.interruption import Preempted
from runners.storage import files, resume
from runners.storage.resume import Checkpoints
from runners.training import schedule, state
from runners.training.engine import Engine
from runners.training.fit import fit
from runners.training.recipe import Recipe
from support import ROOT, Command, Ended, check_refused, gone_on_from, raises_line

ZYGOTE = ROOT / "tests" / "drills" / "zygote.py"
CRASHES = ROOT / "tests" / "drills" / "crashes.py"
RECIPE = Recipe(3, 8, 0.05, 1e-3, partial(schedule.cosine, warmup_epochs=1))


class Killed(Exception):
    """Stands in for SIGKILL where the process must live on."""


def data() -> Splits:
    return load(
        fake,
        dict(
            num_images=30,
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


def blank() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.4), nn.Flatten(), nn.Linear(96, 3))
    return nn.Sequential(*layers)


def train(folder: Path, recipe: Recipe = RECIPE) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
    optimizer = partial(SGD, momentum=0.9)
    network, history = fit(
        blank(), data(), Checkpoints(folder), recipe=recipe, optimizer=optimizer, engine=Engine("fp32"), seed=3, label="train"
    )
    return network.state_dict(), history


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Trains with a checkpoint after every step, until `step` steps are done."""
    done = 0
    original = state.Keeper.after_step

    def after_step(self: state.Keeper) -> None:
        nonlocal done
        original(self)
        done += 1
        if done == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(state, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(state.Keeper, "after_step", after_step)
        with pytest.raises(Killed):
            train(folder)


@pytest.mark.parametrize("step", [1, 3, 4, 5, 8, 11, 12])  # four steps an epoch, the last of six images
def test_a_training_goes_on_to_the_same_bits_from_any_step(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, history = train(tmp_path / "whole")
    kill_at(step, monkeypatch, tmp_path / "killed")
    assert Checkpoints(tmp_path / "killed").load() is not None
    resumed, rows = train(tmp_path / "killed")
    assert same(whole, resumed)
    pd.testing.assert_frame_equal(history, rows, check_exact=True)


@pytest.mark.parametrize("forgotten", ["generators", "optimizers", "totals"])
def test_without_any_part_of_the_state_it_would_not(forgotten: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, history = train(tmp_path / "whole")
    kill_at(6, monkeypatch, tmp_path / "killed")
    fresh: dict[str, object] = {}
    original = state.Training.restore

    def restore(self: state.Training, saved: dict[str, object]) -> None:
        fresh.update(self.state())
        original(self, {**saved, forgotten: fresh[forgotten]})

    monkeypatch.setattr(state.Training, "restore", restore)
    resumed, rows = train(tmp_path / "killed")
    assert not (same(whole, resumed) and history.equals(rows))


def test_two_generations_of_which_one_may_be_broken(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "unfinished")
    assert checkpoints.load() is None
    paths = [checkpoints.save({"step": step, "weights": torch.full((50,), float(step))}) for step in (1, 2, 3)]
    assert paths[0] == paths[2] != paths[1]
    found = checkpoints.load()
    assert found is not None and found["step"] == 3 and found["weights"][0] == 3
    generator = random.Random(0)
    whole = paths[2].read_bytes()
    for attempt in range(160):  # one flipped bit anywhere, or a cut
        broken = bytearray(whole)
        broken[generator.randrange(len(broken))] ^= 1 << generator.randrange(8)
        paths[2].write_bytes(broken if attempt < 60 else whole[: generator.randrange(len(whole))])
        found = checkpoints.load()
        assert found is not None and found["step"] == 2, "falls back to the generation before"
    checkpoints.clear()
    assert not (tmp_path / "unfinished").exists()
    checkpoints.clear()


@pytest.mark.parametrize("content", [b"", bytes(500), b"just text\n" * 20, b"<!DOCTYPE html>", b"[]\n", b"{}\n", b"null\nrest"])
def test_when_no_generation_is_whole_nobody_starts_anew_in_silence(content: bytes, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "unfinished")
    paths = [checkpoints.save({"step": step}) for step in (1, 2)]
    for path in paths:
        path.write_bytes(content)
    with raises_line(StoreError, *paths):
        checkpoints.load()
    checkpoints.save({"step": 3})
    found = checkpoints.load()
    assert found is not None and found["step"] == 3, "one whole generation is enough"
    checkpoints.clear()
    assert checkpoints.load() is None


def test_a_state_of_another_training_is_not_taken(tmp_path: Path) -> None:
    ours, theirs = Checkpoints(tmp_path / "ours"), Checkpoints(tmp_path / "theirs")
    path = theirs.save({"step": 7})
    ours.folder.mkdir()
    (ours.folder / path.name).write_bytes(path.read_bytes())
    with raises_line(StoreError, ours.folder / path.name):
        ours.load()
    ours.save({"step": 1})
    found = ours.load()
    assert found is not None and found["step"] == 1


def test_a_state_of_a_newer_version_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "unfinished")
    with monkeypatch.context() as patch:
        patch.setattr(resume, "VERSION", 3)
        checkpoints.save({"step": 1})
    with raises_line(StoreError, "version 3", 2):
        checkpoints.load()


def test_a_state_that_would_run_code_does_not(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "canary"),)

    checkpoints = Checkpoints(tmp_path / "unfinished")
    checkpoints.save({"step": 1, "trap": Trap()})  # as someone who may write to the store could: its hash is right
    with raises_line(StoreError, checkpoints.folder):
        checkpoints.load()
    assert not (tmp_path / "canary").exists()


def test_a_folder_that_vanishes_under_a_reader_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "unfinished")
    checkpoints.save({"step": 1})

    def cleared(self: Path) -> bytes:
        checkpoints.clear()
        return original(self)

    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", cleared)
    assert checkpoints.load() is None


@pytest.mark.parametrize("call", ["fsync", "rename", "sync"])
def test_a_folder_that_vanishes_under_a_writer_is_made_again(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path / "unfinished")
    checkpoints.save({"step": 1})
    cleared = 0

    def clearing(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal cleared
            if cleared == 0:
                cleared += 1
                checkpoints.clear()  # the process that was first has finished the same training
            return original(*arguments, **options)

        return wrapped

    owner, name = {"fsync": (os, "fsync"), "rename": (Path, "rename"), "sync": (files, "sync_folder")}[call]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, clearing(getattr(owner, name)))
        checkpoints.save({"step": 2})
    found = checkpoints.load()
    assert cleared == 1 and found is not None and found["step"] == 2
    with monkeypatch.context() as patch:  # the control: without another try the training ends
        cleared = 0
        patch.setattr(resume, "CLEARERS", 1)
        patch.setattr(owner, name, clearing(getattr(owner, name)))
        with pytest.raises(ResourceError):
            checkpoints.save({"step": 3})


@pytest.mark.parametrize("at", ["load", "fsync", "rename"])
def test_two_writers_in_each_other_s_steps_leave_whole_states(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Checkpoints(tmp_path / "unfinished"), Checkpoints(tmp_path / "unfinished")
    steps = iter(range(100, 200))
    busy = False

    def between(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal busy
            if not busy:
                busy = True
                two.save({"step": next(steps)})
                if next(steps) % 3 == 0:
                    two.clear()
                busy = False
            return original(*arguments, **options)

        return wrapped

    owner, name = {"load": (Checkpoints, "_packed"), "fsync": (os, "fsync"), "rename": (Path, "rename")}[at]
    monkeypatch.setattr(owner, name, between(getattr(owner, name)))
    saved = set()
    for step in range(10):
        one.save({"step": step})
        busy = True
        found = one.load()
        assert found is not None
        saved.add(found["step"])
        assert all(generation is not None for generation in one._generations().values()), "never one that is not whole"
        busy = False
    assert len(saved) == 10, "it went on from step to step"


def test_a_full_disk_leaves_the_older_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save({"step": step})

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with raises_line(ResourceError, os.strerror(28)):
            checkpoints.save({"step": 3})
    found = checkpoints.load()
    assert found is not None and found["step"] == 2


def test_a_state_that_is_no_number_is_never_saved(tmp_path: Path) -> None:
    recipe = Recipe(5, 8, 1e6, 0.0, lambda time, epochs: 1e-6 if time < 2 else 1e30, False)
    with raises_line(NumericalError, "epoch 3", "'train'", "1e+36", "epoch 3, step 0"):
        train(tmp_path, recipe)
    found = Checkpoints(tmp_path).load()
    assert found is not None and found["epoch"] == 2
    assert all(value.isfinite().all() for value in found["networks"]["network"].values())


@pytest.mark.parametrize(
    "raised",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")],
)
def test_out_of_memory_is_explained(raised: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        raise raised

    monkeypatch.setattr(nn.Flatten, "forward", forward)
    with raises_line(ResourceError, "cpu", "epoch 1", "step 0", "'train'", "batch 8", "GB", "recipe.batch_size"):
        train(tmp_path)


def test_other_errors_of_a_step_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Flatten, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "divided")
    monkeypatch.setattr(nn.Flatten, "forward", lambda self, x: x.view(-1, 7))
    with pytest.raises(RuntimeError, match=r"\[-1, 7\]"):
        train(tmp_path / "viewed")


def test_a_signal_ends_training_after_the_step(tmp_path: Path) -> None:
    previous = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    try:
        interruption.listen()
        os.kill(os.getpid(), signal.SIGUSR1)
        with raises_line(Preempted, "SIGUSR1", "epoch 1", "step 1", "'train'"):
            train(tmp_path / "stopped")
        interruption.listen()
        resumed, _ = train(tmp_path / "stopped")
        assert same(train(tmp_path / "whole")[0], resumed)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


TINY = ("dataset=fake", "model=resnet20", "recipe.batch_size=32", "finetune.epochs=1")


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGUSR2", marks=pytest.mark.slow)])
def test_a_signal_exits_with_75_and_the_same_command_goes_on(name: str, tmp_path: Path, command: Command) -> None:
    arguments = [*TINY, "recipe.epochs=15", f"outputs={tmp_path / 'outputs'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("train: epoch 1/"):
            break
    process.send_signal(signal.Signals[name])
    _, err = process.communicate(timeout=60)
    check_refused(Ended(process.returncode, "", err), 75, name, "epoch")
    [status] = (tmp_path / "outputs").glob("fake-*/status.json")
    assert json.loads(status.read_text())["state"] == "stopped"
    resumed = command(*TINY, "recipe.epochs=15")
    assert len(gone_on_from(resumed.out)) == 1 and resumed.code == 0
    assert not list((tmp_path / "outputs" / "store" / "unfinished").iterdir())
    whole = command(*TINY, "recipe.epochs=15", outputs=str(tmp_path / "whole"))
    for name_of in ("accuracy", "history", "scores"):
        ours, theirs = (
            pd.read_csv(run.folder / f"{name_of}.csv").drop(columns="latency_ms", errors="ignore") for run in (resumed, whole)
        )
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def killed_everywhere(folder: Path, *options: str) -> dict[str, list[int]]:
    done = subprocess.run([sys.executable, str(ZYGOTE), str(folder), *options], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failed"] == [] and found["points"] > 3
    return found


def crashes(folder: Path, *options: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(CRASHES), str(folder), *options], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_five_steps_killed_at_every_third_durable_write_and_at_random_end_in_the_same_bits(tmp_path: Path) -> None:
    found = crashes(tmp_path, "calls=fsync,rename", "every=3", "random=5")
    assert found["lost"] == [] and found["killed"] == ceil(found["calls"] / 3) + 5 and found["calls"] > 40


@pytest.mark.slow
def test_a_thousand_random_kills_and_every_call_end_in_the_same_bits(tmp_path: Path) -> None:
    found = crashes(tmp_path, "every=1", "random=1000")
    assert found["lost"] == [] and found["killed"] == found["calls"] + 1000 and found["calls"] > 100


@pytest.mark.slow
def test_results_written_where_they_are_read_and_believed_unread_are_lost(tmp_path: Path) -> None:
    assert crashes(tmp_path, "calls=fsync", "every=1", "careless=1")["lost"]


@pytest.mark.slow
def test_a_run_killed_at_a_durable_write_ends_with_the_same_tables(tmp_path: Path) -> None:
    assert killed_everywhere(tmp_path, "first=7", "every=25")["different"] == []


@pytest.mark.slow
def test_a_run_killed_at_every_durable_write_ends_with_the_same_tables(tmp_path: Path) -> None:
    assert killed_everywhere(tmp_path, "every=1")["different"] == []


@pytest.mark.slow
def test_also_with_a_checkpoint_at_every_step_and_not_without_the_generators(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "forgetful").mkdir()
    assert killed_everywhere(tmp_path / "whole", "save_every_step=1", "every=9")["different"] == []
    assert killed_everywhere(tmp_path / "forgetful", "save_every_step=1", "every=25", "forget=generators")["different"]
