"""Faults around a run, row by row of docs/faults.md, those that no other file tests."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf.basecontainer import BaseContainer
from safetensors.torch import save_file
from torch import nn

import models.cifar_resnet
import runners.data.fake
import runners.measuring.accuracy
from runners.command import build, checks
from runners.command.arguments import check_overrides
from runners.command.gate import check_run_folder, check_writable
from runners.command.signatures import Signature
from runners.data import cifar
from runners.data.cifar import cifar10
from runners.data.published import Published
from runners.process.environment import variable
from runners.process.errors import ConfigError, DataError, ResourceError, StoreError, error_line
from runners.process.redaction import REDACTED, redacted, redacted_argument
from runners.storage import code as code_of
from runners.storage import facts as facts_of
from runners.storage.weights import load_weights
from runners.sweeping import local, manifest, pool
from runners.sweeping.job import Job
from runners.training import state
from support import ROOT, Command, Ended, check_line, check_refused, gone_on_from, names, raises_line

TINY = (
    *("dataset=fake", "dataset.num_images=64", "dataset.image_size=8", "model=resnet20", "precision=fp32"),
    *("recipe.epochs=1", "recipe.batch_size=16", "finetune.epochs=1", "finetune.batch_size=16"),
)
ONE = (*TINY, "runner=score_only")
SECRET = "hunter2-planted-8Xq"


@pytest.fixture(autouse=True)
def latency_is_not_measured_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners.measuring.accuracy, "cost", partial(runners.measuring.accuracy.cost, seconds=0.001))


def tables(folder: Path) -> dict[str, str]:
    """Every table, less the measured latency."""
    found = {path.name: pd.read_csv(path).drop(columns="latency_ms", errors="ignore") for path in folder.glob("*.csv")}
    return {name: table.to_csv() for name, table in found.items()}


def holding(folder: Path, text: str) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes())


# A


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("scope: layer\n\tratio: 0.1\n", ["broken.yaml", "line 3", "column 1"]),
        ("ratio: 0.1\nscope: layer\nratio: 0.2\n", ["broken.yaml", "line 4", "column 1", "ratio"]),
        ("ratio: [0.1\n", ["broken.yaml", "line 3", "column 1"]),
        ("scope: no\n", ["scope=False", "layer", "global"]),
    ],
)
def test_a_broken_yaml_is_named_with_line_and_column(content: str, told: list[str], tmp_path: Path, command: Command) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "broken.yaml").write_text(f"# @package _global_\n{content}")
    check_refused(command("experiment=broken", f"--config-dir={tmp_path / 'conf'}"), 2, *told)


def test_a_run_folder_lies_below_outputs_wherever_links_lead(tmp_path: Path) -> None:
    outputs, store = tmp_path / "outputs", tmp_path / "outputs" / "store"
    (tmp_path / "elsewhere").mkdir()
    store.mkdir(parents=True)
    (outputs / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "linked").symlink_to(outputs)  # outputs may be a link itself
    for good in (outputs / "run", tmp_path / "linked" / "run", outputs / "a" / "b"):
        check_run_folder(good, tmp_path / "linked", store)
    for bad in (outputs / "out" / "run", outputs, outputs / "x" / "..", store / "run", outputs / ".." / "run", Path("/etc")):
        with raises_line(ConfigError, f"outputs={outputs}"):
            check_run_folder(bad, outputs, store)
    with raises_line(ResourceError, outputs / "out"):
        check_run_folder(outputs / "out", outputs, store)


@pytest.mark.parametrize("name", ["a b", "a=b,c", "it's", '"x"', "été", "a${b", "a\\b", "[x]", "~$(id)"])
def test_the_folder_of_a_job_may_have_any_name(name: str, tmp_path: Path) -> None:
    job = Job(0, (), {}, "x", tmp_path / name)
    [override] = [part for part in pool.arguments(job, ()) if part.startswith("hydra.run.dir=")]
    [parsed] = OverridesParser.create().parse_overrides([override])
    assert parsed.value() == str(tmp_path / name)


def test_outputs_with_spaces_and_signs_and_letters_of_any_script(tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "a b=c,d été 出"
    ended = command(*ONE, "recipe.epochs=0", outputs=f"'{folder}'")
    assert ended.code == 0 and ended.folder.parent == folder and (ended.folder / "accuracy.csv").is_file()


def test_jobs_that_are_the_same_run_once(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Job] = []
    monkeypatch.setattr(local, "run_all", lambda jobs, *_, **__: started.extend(jobs) or [])
    ended = command("--multirun", *TINY, "criterion=l1,l1,l2", "ratio=0.3,3e-1")
    assert ended.code == 0 and names(ended.out, "4 of 6")
    assert [dict(job.values) for job in started] == [{"criterion": "l1"}, {"criterion": "l2"}]


@pytest.mark.parametrize(("device", "there"), [("cuda", 0), ("cuda:0", 0), ("cuda:7", 2)])
def test_a_gpu_that_is_not_there_is_refused(
    device: str, there: int, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    check_refused(command(*ONE, f"device={device}"), 2, f"device={device}", there, "device=cpu")
    assert not list(tmp_path.rglob("accuracy.csv"))


@pytest.mark.parametrize("reason", ["Read-only file system", "Permission denied"])
def test_outputs_that_cannot_be_written_end_at_once(reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise OSError(30, reason)

    check_writable("outputs", tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Path, "touch", refuse)
    with raises_line(ResourceError, f"outputs={tmp_path}", reason):
        check_writable("outputs", tmp_path)


def test_proc_takes_no_outputs(command: Command) -> None:
    check_refused(command(*ONE, outputs="/proc/nowhere"), 6, "outputs=/proc/nowhere")


# B


def test_one_flipped_bit_of_a_data_file_is_found_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    class Reader:
        base_folder = "cifar-10-batches-py"

        def __init__(self, root: Path, *, train: bool) -> None:
            read.append(root)
            self.data, self.targets = np.zeros((20, 32, 32, 3), np.uint8), list(range(10)) * 2

    contents = {name: os.urandom(500) for name in cifar.CIFAR10.files()}
    pinned = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(cifar, "CIFAR10", Published("", by_hand=pinned))
    monkeypatch.setattr(cifar, "Ten", Reader)
    (tmp_path / Reader.base_folder).mkdir()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)

    def load() -> None:
        cifar10(data_root=str(tmp_path), download_root="")

    load()
    assert len(read) == 2  # the control: right files are read
    for name, content in contents.items():
        flipped = bytearray(content)
        flipped[len(content) // 3] ^= 4
        (tmp_path / name).write_bytes(flipped)
        with raises_line(DataError, name, hashlib.sha256(flipped).hexdigest(), pinned[name]):
            load()
        (tmp_path / name).write_bytes(content)
    assert len(read) == 2


def test_a_run_whose_data_changed_is_refused_and_resumes_nothing(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training is stopped and the data change; with the same data it goes on, and with rerun=true it begins anew."""
    original, after_step = runners.data.fake.fake, state.Keeper.after_step
    stops = {"left": 1}

    def stop_once(self: state.Keeper) -> None:
        if stops["left"]:
            stops["left"] -= 1
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(self)

    @wraps(original)
    def other(*, seed: int, **given: Any) -> Any:
        return original(seed=seed + 1, **given)

    monkeypatch.setattr(state.Keeper, "after_step", stop_once)
    assert command(*ONE).code == 75
    shutil.copytree(tmp_path / "outputs", tmp_path / "same")
    same = command(*ONE, outputs=str(tmp_path / "same"))
    assert same.code == 0 and gone_on_from(same.out) == [(1, 1)]
    monkeypatch.setattr(runners.data.fake, "fake", other)
    refused = [command(*ONE) for _ in range(2)]  # the refusal itself is no first leg
    for ended in refused:
        check_refused(ended, 4, same.folder.name, "rerun=true")
        then, now = re.findall(r"\b[0-9a-f]{10}\b", ended.err.replace(same.folder.name, ""))
        assert then != now
    changed = command(*ONE, "rerun=true")
    assert changed.code == 0 and gone_on_from(changed.out) == []
    facts = [run.facts for run in (same, changed)]
    keys = [each["keys"] for each in facts]
    assert [each["numerics_mixed"] for each in facts] == [False, False]
    assert keys[0].keys() == keys[1].keys() and not set(keys[0].values()) & set(keys[1].values())


# E


def test_a_run_that_another_machine_goes_on_with_is_flagged(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stops = {"left": 1}
    after_step = state.Keeper.after_step

    def stop_once(self: state.Keeper) -> None:
        if stops["left"]:
            stops["left"] -= 1
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(self)

    monkeypatch.setattr(state.Keeper, "after_step", stop_once)
    monkeypatch.setattr("runners.storage.facts.numerics", lambda device, **_: "older")
    assert command(*ONE).code == 75
    monkeypatch.setattr("runners.storage.facts.numerics", lambda device, **_: "newer")
    ended = command(*ONE)
    assert ended.code == 0 and gone_on_from(ended.out) == [(1, 1)]
    assert ended.facts["numerics_mixed"] is True
    made_on = ended.facts["made_on"]
    assert made_on["trained"] == ["newer", "older"] and made_on["scores"] == ["newer"]


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_of, "PACKAGES", ("numpy", "no-such-package"))
    versions = facts_of.facts(ROOT, torch.device("cpu"))["versions"]
    assert versions["numpy"] == np.__version__ and versions["no-such-package"] is None


# D


def test_a_second_sigterm_while_the_state_is_saved_is_nothing(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_step, save = state.Keeper.after_step, state.Keeper.save

    def first(self: state.Keeper) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        after_step(self)

    def second(self: state.Keeper) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        save(self)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(state.Keeper, "after_step", first)
        patch.setattr(state.Keeper, "save", second)
        check_refused(command(*ONE), 75, "SIGTERM", "epoch 1", "step 1", "'train'")
    resumed = command(*ONE)
    assert resumed.code == 0 and gone_on_from(resumed.out) == [(1, 1)]
    assert tables(resumed.folder) == tables(command(*ONE, outputs=str(tmp_path / "whole")).folder)


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_saves_and_twice_ends_at_once(
    presses: int, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_step = state.Keeper.after_step

    def press(self: state.Keeper) -> None:
        for _ in range(presses):
            os.kill(os.getpid(), signal.SIGINT)
        after_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(state.Keeper, "after_step", press)
        ended = command(*ONE)
    hint, error = ended.err.strip().splitlines()
    assert not hint.startswith("error: ")
    check_refused(replace(ended, err=error), 130)
    assert names(error, "SIGINT") is names(error, "epoch 1, step 1") is (presses == 1)
    [status] = (tmp_path / "outputs").glob("fake-*/status.json")
    assert json.loads(status.read_text())["state"] == "stopped"
    resumed = command(*ONE)
    assert resumed.code == 0 and gone_on_from(resumed.out) == ([(1, 1)] if presses == 1 else [])
    assert tables(resumed.folder) == tables(command(*ONE, outputs=str(tmp_path / "whole")).folder)


# Writes through streams that are closed, full or unread, and into a file that must not get a stream's number.
STREAMS = """
import sys
sys.path.insert(0, sys.argv[1])
from runners.process import streams
if sys.argv[2] == "settle":
    streams.settle()
with open("file", "w") as file:
    for stream in (sys.stdout, sys.stderr):
        for _ in range(3):
            stream.write("x" * 100_000)
            stream.flush()
    assert file.fileno() > 2
    file.write("whole")
assert open("file").read() == "whole"
"""


@pytest.mark.parametrize("redirection", [">&- 2>&- <&-", ">/dev/full 2>&1", "2>&1 | true", "2>/dev/null >&-", "</dev/null"])
def test_streams_that_are_closed_full_or_unread_end_nothing(redirection: str, tmp_path: Path) -> None:
    def ended(how: str) -> int:
        line = f"{sys.executable} -c '{STREAMS}' {ROOT} {how} {redirection}; exit ${{PIPESTATUS[0]}}"
        return subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True).returncode

    assert ended("settle") == 0
    assert redirection == "</dev/null" or ended("leave") != 0  # the control


@pytest.mark.slow
@pytest.mark.parametrize(
    "around",
    ["{} >&- 2>&- <&-", "LANG=C LC_ALL=C {}", "PYTHONIOENCODING=ascii {}", "umask 077; {}", "env -u HOME {}", "{} >/dev/full"],
)
def test_a_run_in_odd_surroundings_is_done(around: str, tmp_path: Path) -> None:
    line = around.format(f"{sys.executable} {ROOT / 'run.py'} outputs={tmp_path / 'outputs'} {' '.join(ONE)}")
    assert subprocess.run(["bash", "-c", line], capture_output=True, cwd=tmp_path).returncode == 0
    [status] = tmp_path.glob("outputs/fake-*/status.json")
    assert json.loads(status.read_text())["state"] == "done"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_images_that_do_not_fit_are_no_wrong_config(
    error: Exception, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    @wraps(runners.data.fake.fake)
    def full(**given: Any) -> None:
        raise error

    monkeypatch.setattr(runners.data.fake, "fake", full)
    check_refused(command(*ONE), 6, "memory")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux")
def test_a_limit_on_memory_is_told(tmp_path: Path) -> None:
    """Imports first; then there is room for 200 MB more, and the images need 790."""
    arguments = [f"outputs={tmp_path}", *ONE, "dataset.num_images=1000", "dataset.image_size=512"]
    program = (
        f"import sys, resource, re, pathlib\nsys.path.insert(0, {str(ROOT)!r})\nimport torch, runners.command.build\n"
        "import runners.score_only\nfrom runners.command import cli\ntorch.set_num_threads(1)\n"
        "now = int(re.search(r'VmSize:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now + 200_000_000,) * 2)\n"
        f"sys.argv = ['run.py', *{arguments!r}]\nsys.exit(cli.main(pathlib.Path({str(ROOT)!r})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    # torch, imported before the log is set up, may say that there is no GPU.
    check_refused(Ended(done.returncode, done.stderr, done.stderr.splitlines()[-1]), 6, "memory")


# F


def test_a_network_whose_outputs_are_no_numbers_has_no_accuracy(tmp_path: Path, command: Command) -> None:
    """One step at this rate leaves weights that are finite, and outputs that are not."""
    ended = command(*ONE, "recipe.batch_size=64", "recipe.lr=1e30")
    check_refused(ended, 5, "loss", "64 images", "nan")
    assert not list(tmp_path.rglob("accuracy.csv"))
    [status] = (tmp_path / "outputs").glob("fake-*/status.json")
    assert json.loads(status.read_text())["exit_code"] == 5


def test_a_device_out_of_memory_names_the_batch_and_changes_none(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def full(logits: torch.Tensor, labels: torch.Tensor, **_: object) -> torch.Tensor:
        asked.append(len(labels))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", full)
    check_refused(command(*ONE), 6, "memory", "cpu", "epoch 1", "step 0", "'train'", "recipe.batch_size")
    assert asked == [16]


# G


class Runs:
    """A pickle that makes a folder when it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def bomb(path: Path, canary: Path) -> None:
    """64 MB of zeros in 64 kB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(64 << 20))
        archive.writestr("a/version", b"3\n")


def objects(path: Path, canary: Path) -> None:
    torch.save({"weight": np.array([Runs(canary)], dtype=object)}, path)


def setitem(path: Path, canary: Path) -> None:
    """SETITEM on what is no dict (CVE-2026-24747): a tensor in its place."""
    torch.save(torch.zeros(2), path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content[:-1] + b"K\x00K\x01s." if name.endswith("data.pkl") else content)


def header(path: Path, canary: Path) -> None:
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")


HOSTILE: dict[str, Callable[[Path, Path], None]] = {
    "bomb.pt": bomb,
    "objects.pt": objects,
    "setitem.pt": setitem,
    "header.safetensors": header,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_weights_run_nothing(name: str, tmp_path: Path) -> None:
    """More in test_store.py; the control is there too."""
    path, canary = tmp_path / name, tmp_path / "canary"
    HOSTILE[name](path, canary)
    with pytest.raises(StoreError) as caught:
        load_weights(nn.Linear(2, 2), path)
    assert "\n" not in str(caught.value) and not canary.exists()


def test_names_from_files_do_not_steer_the_terminal(tmp_path: Path, command: Command) -> None:
    weights = models.cifar_resnet.cifar_resnet(depth=20, num_classes=10).state_dict()
    save_file({**weights, "\x1b[2Jconv1\x07": torch.zeros(2)}, tmp_path / "a.safetensors")
    ended = command(*ONE, f"weights={tmp_path / 'a.safetensors'}")
    check_refused(ended, 4, "\\x1b[2Jconv1\\x07")
    assert "\x1b" not in ended.err + ended.out


def test_an_error_is_one_printable_line() -> None:
    assert error_line("a\n\tb\x1b[31m\u202ec été 出") == "error: a b\\x1b[31m\\u202ec été 出\n"


def test_what_may_be_set_of_hydras_own_part_may_be_set() -> None:
    check_overrides(
        [
            *("hydra.mode=RUN", "hydra.verbose=true", "hydra.run.dir=${outputs}/x", "hydra/job_logging=job"),
            *("hydra/launcher=slurm", "hydra.launcher.per_device=2", "+hydra.launcher.additional_parameters.gres=gpu:1"),
            *("hydra.sweeper.params.ratio='0.1,0.2'", "hydra.sweeper.params={ratio:'0.1,0.2'}"),
            *("criterion=choice(l1,gm)", "criterion=glob(*)", "+criterion@criteria.mine=l1"),
        ]
    )


@pytest.mark.parametrize("name", ["DATA_ROOT", "MY_DATA_DIR", "SCRATCH", "TMPDIR", "SLURM_JOB_ID", "SLURM_CPUS_PER_TASK"])
def test_places_and_what_slurm_says_may_be_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "/data")
    assert variable(name) == "/data"
    monkeypatch.delenv(name)
    assert variable(name, "other") == "other"
    with raises_line(ConfigError, name):
        variable(name)


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "SLURM_JWT", "PATH", "USER", "SECRET_DIR", "KUBECONFIG"])
def test_nothing_else_of_the_environment_may_be_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, SECRET)
    with raises_line(ConfigError, name) as caught:
        variable(name, "default")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("+model.token=abc", f"+model.token={REDACTED}"),
        ("+a.API_KEY='a b'", f"+a.API_KEY={REDACTED}"),
        ("+a.credentials={user: x, pin: 2}", f"+a.credentials={REDACTED}"),
        ("+a={db_password: x, b: 1}", f"+a={{db_password: {REDACTED}, b: 1}}"),
        ("weights=https://me:p@ss@host/a.pt", f"weights=https://{REDACTED}@host/a.pt"),
        ("weights=https:/me:pass@host/a@b.pt", f"weights=https:/{REDACTED}@host/a@b.pt"),
        ("ratio=0.5", "ratio=0.5"),
        ("+model.reg_tokens=4", "+model.reg_tokens=4"),
        ("skip=[a@b,c]", "skip=[a@b,c]"),
    ],
)
def test_secrets_in_arguments_are_not_written(argument: str, shown: str) -> None:
    assert redacted_argument(argument) == shown


def test_secrets_in_configs_are_not_written() -> None:
    given = {"a": [{"hf_token": "x", "class_token": True, "secret": None}], "credentials": {"user": "x"}, "seed": 3}
    assert redacted(given) == {
        "a": [{"hf_token": REDACTED, "class_token": True, "secret": None}],
        "credentials": REDACTED,
        "seed": 3,
    }


@pytest.mark.parametrize("guarded", [True, False])
def test_a_planted_secret_is_nowhere_in_outputs(
    guarded: bool, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given as an option of a network, in the environment, and in a sweep's command; the control writes what it is given."""
    original = models.cifar_resnet.cifar_resnet
    monkeypatch.setattr(models.cifar_resnet, "cifar_resnet", lambda access_token, **given: original(**given))
    monkeypatch.setattr(checks, "signature", lambda target: Signature({}, takes_any=True))  # the gate reads sources
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    if not guarded:
        for module in (build, manifest):
            monkeypatch.setattr(module, "redacted", lambda value: value)
            monkeypatch.setattr(module, "redacted_argument", lambda argument: argument)
    secret = f"+model.access_token={SECRET}"
    assert command(*TINY, "recipe.epochs=0", "finetune.epochs=0", secret).code == 0
    assert command(*TINY, secret, "recipe.batch_size=63").code == 2
    assert command(*ONE, "weights=${oc.env:WANDB_API_KEY}").code == 2
    job = Job(0, (secret,), {"model.access_token": SECRET}, "job", tmp_path / "outputs" / "job")
    manifest.begin(tmp_path / "outputs" / "sweeps" / "one", [job], command=["run.py", secret], code={})
    found = holding(tmp_path / "outputs", SECRET)
    assert (found == []) is guarded
    if not guarded:
        assert {Path(path).name for path in found} == {"config.yaml", "run.json", "plan.json", "sweep.json"}


def test_the_password_of_an_address_is_written_nowhere(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that is no file ends the run; the same words as a path that is there do not."""
    address = f"weights=https://me:p@{SECRET}@host.invalid/a.pt"
    ends = [command(*ONE, address, *given) for given in ((), ("debug=true",), (f"names.x={address}",))]
    assert [ended.code for ended in ends] == [4, 4, 2]
    weights = tmp_path / "https:" / f"me:p@{SECRET}@host.invalid" / "a.pt"
    weights.parent.mkdir(parents=True)
    torch.save(models.cifar_resnet.cifar_resnet(depth=20, num_classes=10).state_dict(), weights)
    monkeypatch.chdir(tmp_path)
    for name in ("headline", "accuracy_text"):
        monkeypatch.setattr(f"runners.score_only.{name}", lambda measured: address)
    ends.append(command(*ONE, address))
    assert ends[-1].code == 0 and ends[-1].out.count("https:/") == 3  # two texts, and its normalisation
    assert [ended for ended in ends if SECRET in ended.out + ended.err] == []
    assert SECRET not in str(Job(0, (), {"weights": address.partition("=")[2]}, "job", tmp_path))
    assert holding(tmp_path / "outputs", SECRET) == [] and list(tmp_path.rglob("error.log"))


def test_resolvers_are_the_known_ones(command: Command) -> None:
    command("ratio=2")
    of_omegaconf = {f"oc.{name}" for name in ("create", "decode", "deprecated", "env", "select", "dict.keys", "dict.values")}
    assert set(BaseContainer._resolvers) == of_omegaconf | {"hydra", "now", "python_version", "root", "run_name"}


def test_a_run_writes_through_no_link(tmp_path: Path, command: Command) -> None:
    first = command(*ONE, "recipe.epochs=0")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (first.folder / "run.log").unlink()
    (first.folder / "run.log").symlink_to(victim)
    check_refused(command(*ONE, "recipe.epochs=0", "rerun=true"), 6, first.folder / "run.log", "link")
    (first.folder / "run.log").unlink()
    shutil.move(first.folder, tmp_path / "moved")
    first.folder.symlink_to(tmp_path / "moved")
    before = {path.name: path.read_bytes() for path in (tmp_path / "moved").iterdir() if path.is_file()}
    check_refused(command(*ONE, "recipe.epochs=0", "rerun=true"), 6, first.folder, "link")
    assert victim.read_text() == "mine"
    assert {path.name: path.read_bytes() for path in (tmp_path / "moved").iterdir() if path.is_file()} == before


def test_a_store_for_everybody_is_warned_of(tmp_path: Path, command: Command) -> None:
    store = tmp_path / "store"
    store.mkdir()
    store.chmod(0o777)
    ended = command(*ONE, "recipe.epochs=0", f"store={store}")
    assert ended.code == 0 and ended.err.startswith("warning: ")
    check_line(ended.err, f"store={store}", "chmod o-w")
    store.chmod(0o770)
    assert command(*ONE, "recipe.epochs=0", "ratio=0.4", f"store={store}").err == ""


def test_a_store_for_everybody_that_is_somebody_elses_is_trusted_only_if_told(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    monkeypatch.setattr("os.geteuid", lambda: store.stat().st_uid + 1)
    assert command(*ONE, "recipe.epochs=0", f"store={store}").code == 0, "somebody's, but not everybody's to write"
    store.chmod(0o777)
    ended = command(*ONE, "recipe.epochs=0", "ratio=0.4", f"store={store}")
    check_refused(ended, 2, f"store={store}", store.stat().st_uid, "shared_store=true")
    trusted = command(*ONE, "recipe.epochs=0", "ratio=0.4", f"store={store}", "shared_store=true")
    assert (trusted.code, trusted.err) == (0, "")


# What fetches things; our own download is the one place that does.
FETCHES = re.compile(
    r"torch\.hub|trust_remote_code|load_state_dict_from_url|hf_hub|snapshot_download|from_pretrained|urlretrieve|\brequests\b|"
    r"\burllib\.request\b|\bdownload=True\b|pretrained[=:] *[Tt]rue"
)


def fetching(text: str) -> list[str]:
    return FETCHES.findall(text)


def test_nothing_is_fetched_but_by_the_download_that_checks() -> None:
    sources = [
        path
        for folder in ("analysis", "conf", "criteria", "hydra_plugins", "models", "runners")
        for path in (ROOT / folder).rglob("*.*")
    ]
    found = {
        path.relative_to(ROOT).as_posix(): fetching(path.read_text()) for path in sources if path.suffix in (".py", ".yaml")
    }
    assert {path for path, calls in found.items() if calls} == {"runners/data/download.py"}
    for line in ("torch.hub.load('a', 'b')", "pretrained: true", "timm.create_model('a', pretrained=True)", "import requests"):
        assert fetching(line), line


def test_the_users_address_of_a_repository_is_not_recorded(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "run.py").write_text("print()")
    git("add", "run.py")
    git("commit", "-q", "-m", "first")
    git("remote", "add", "origin", f"https://somebody:{SECRET}@example.org/a.git")
    (tmp_path / "run.py").write_text("print(1)")
    found = code_of.code(tmp_path)
    assert found["commit"] and found["dirty"] and found["diff_sha256"]
    assert not {SECRET, "somebody", "example.org", str(tmp_path)} & set(re.findall(r"[\w./@:-]+", json.dumps(found)))
    assert SECRET not in json.dumps(found)
