"""Bad input: one line on stderr, the right exit code, nothing written, no torch."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.cifar_resnet import cifar_resnet
from support import ROOT, Command, Ended, check_refused, names

TINY = ("dataset=fake", "model=resnet20", "recipe.epochs=1", "finetune.epochs=1")

# overrides, and tokens of the line: the option, its value, the way out
COMPOSITION: tuple[tuple[list[str], tuple[object, ...]], ...] = (
    (["model=resnt56"], ("model=resnt56", "resnet110", "model=resnet56")),
    (["dataset=cifar"], ("dataset=cifar", "dataset=cifar10")),
    (["criterion=l3"], ("criterion=l3", "gm, hrank, l1, l2")),
    (["runner=oneshot"], ("runner=one_shot",)),
    (["experiment=nothing"], ("experiment=nothing",)),
    (["preset=resnet56_c"], ("preset=resnet56_c", "preset=resnet56_a")),
    (["hydra/launcher=nothing"], ("hydra/launcher=nothing", "basic")),
    (["budget=params"], ("budget", "ratio_of=...")),
    (["ratoi=0.3"], ("ratoi", "mean ratio or")),
    (["recipe.epoch=3"], ("recipe.epoch", "mean recipe.epochs?")),
    (["recipe.momentum=3"], ("recipe.momentum", "batch_size", "optimizer.momentum")),
    (["epochs=3"], ("epochs", "recipe.epochs or finetune.epochs")),
    (["criterion=apoz", "criterion.zone=hello"], ("criterion.zone", "threshold, site; check")),
    (["criterion.zone=hello"], ("criterion.zone", "criterion takes none; check")),
    (["runner.foo=1"], ("runner.foo", "runner takes none; check")),
    (["--multirun", "criterion=apoz,l1", "criterion.zone=1"], ("criterion.zone", "threshold, site")),
    (["recipe.schedule=cosine"], ("recipe.schedule=cosine", "schedule@recipe.schedule=cosine")),
    (["finetune=digits"], ("finetune=digits", "recipe@finetune=digits")),
    (["model.attention=se"], ("model.attention", "iebn, se, sge", "model/attention=cbam")),
    (["+model.activation=leaky_relu"], ("model.activation=leaky_relu", "try model/activation=leaky_relu")),
    (["model/attention=se", "model.attention=null"], ("model.attention", "try model/attention=NAME")),
    (["criterion@criteria.mine=l1"], ("try +criterion@criteria.mine=NAME",)),
    (["recipe@foo=cifar"], ("try +recipe@foo=NAME",)),
    (["model=timm", "model.model_name=resnet18", "model/attention=se"], ("model/attention", "model=resnet56")),
    (["foo/bar=x"], ("foo/bar",)),
    (["+model/attention=se", "ratio=2"], ("ratio=2", "ratio=0.5")),
    (["+foo=1"], ("foo", "+foo")),
    (["hydra.run.dirr=3"], ("hydra.run.dirr",)),
    (["foo"], ("foo", "key=value")),
    (["ratio=["], ("'['", "key=value")),
    (["--foo"], ("--foo",)),
    (["ratio=0,5"], ("ratio", "0.5", "--multirun")),
    (["preset=resnet56_b", "scope=global"], ("scope=global", "scope=layer")),
    (["preset=resnet56_b", "ratio_of=macs"], ("ratio_of=params or macs", "ratio_of=filters")),
    (["coupled=mask", "ratio_of=params"], ("coupled=mask", "ratio_of=params or macs", "coupled=group")),
    (["runner.ratios=[0.5]"], ("runner.ratios",)),
    (["names.model=x"], ("names.model",)),
    (["criterion="], ("criterion=''", "gm, hrank, l1, l2")),
    (["criterion=null"], ("criterion=null", "gm, hrank, l1, l2")),
    (["criterion=3"], ("criterion=3", "gm, hrank, l1, l2")),
    (["criterion=[l1,l2]"], ("criterion=['l1', 'l2']", "gm, hrank, l1, l2")),
    (["preset=null"], ("preset=null", "resnet56_b")),
    (["schedule@recipe.schedule="], ("schedule=''", "cosine")),
    (["--multirun", "preset=null,resnet56_b"], ("preset=null", "resnet56_b")),
    (["criterion=../../x"], ("criterion='../../x'",)),
    (["criterion=/etc/passwd"], ("criterion='/etc/passwd'",)),
    (["+experiment=a\\b"], (r"experiment='a\\b'",)),
    (["model.depth=${nope:1}"], ("model.depth",)),
    (["dataset.num_classes=???"], ("dataset.num_classes",)),
    (["--multirun", "ratio=0.3,2"], ("ratio=2",)),
    (["ratio=0.3,2", "-m"], ("ratio=2",)),
    (["--multirun", "model=resnet20,resnt"], ("model=resnt",)),
    (["--multirun", "criterion=l1,../../x"], ("criterion='../../x'",)),
    (["--multirun", "hydra.sweeper.params={criterion:'l1,../../x'}"], ("criterion='../../x'",)),
    (["--multirun", "hydra.sweeper.params=1"], ("hydra.sweeper.params=1", "hydra.sweeper.params.ratio='0.1,0.2'")),
    (["criterion=choice(l1,../../x)"], ("criterion='../../x'",)),
    (["+criterion@criteria.x=../../x"], ("criterion='../../x'",)),
    (["+foo/bar=../../x"], ("foo/bar='../../x'", "foo/bar has none")),
    (["criterion='" + 65 * "x" + "'"], (65 * "x",)),
    (["criterion=l\x001"], ("criterion=l\\x001",)),
    (["criterion='\x1b[31m'"], (r"criterion='\x1b[31m'",)),
    (["criterion='l\n1'"], (r"criterion='l\n1'",)),
    (["data_root=\u00e9"], ("data_root=\u00e9", "data_root='\u00e9'")),
    (["~ratio"], ("ratio", "~ratio")),
    (["~criterion"], ("criterion", "~criterion")),
    (["~names"], ("names", "~names")),
    (["+model.foo=1"], ("model.foo", "depth", "+model.foo")),
    (["+optimizer.lr=1"], ("optimizer.lr", "recipe.lr=0.1")),
    (["+recipe.schedule.foo=1"], ("recipe.schedule.foo", "warmup_epochs")),
    (["recipe.schedule={_target_:x.y}"], ("recipe.schedule", "schedule@recipe.schedule=NAME")),
    (["schedule@recipe.schedule=steps"], ("recipe.schedule.milestones",)),
    (["--multirun", "ratio=.1,.2", "hydra.launcher.per_device=0"], ("hydra.launcher.per_device=0", 1)),
    (["--multirun", "ratio=.1,.2", "hydra/launcher=slurm", "hydra.launcher.setup=3"], ("hydra.launcher.setup=3",)),
    (["+runner.foo=1"], ("runner.foo",)),
    *((["+runner.name_after=[" + name + "]"], (f"'{name}'", "runner.name_after=")) for name in ("foo", "recipe", "outputs")),
    (["reports=3"], ("reports=3", "reports.NAME=...")),
    (["+reports.x=layer_means"], ("reports.x=layer_means", "_target_", "_partial_: true", "reports.x=null")),
    (["+reports={../x:{a:1}}"], ("reports", "'../x'")),
    (["+criteria={.x:{a:1}}"], ("criteria", "'.x'")),
    (["hydra.run.dir=../escaped"], ("hydra.run.dir=../escaped", "outputs=DIR")),
    (["hydra.run.dir=${store}/trained"], ("outputs=DIR",)),
    (["hydra.run.dir=${outputs}/" + 256 * "x"], (256, 255)),
    (["~hydra.callbacks.gate", "ratio=2"], ("hydra.callbacks.gate", "~hydra.callbacks.gate")),
    (["hydra.callbacks.gate._target_=builtins.print", "ratio=2"], ("hydra.callbacks.gate._target_",)),
    (["+criterion@hydra.callbacks.gate=l1"], ("criterion@hydra.callbacks.gate",)),
    (["hydra.searchpath=[file:///tmp]"], ("hydra.searchpath",)),
    (["hydra.sweep.dir=/tmp/x"], ("hydra.sweep.dir",)),
    (["hydra.job.env_set.X=1"], ("hydra.job.env_set.X",)),
    (["hydra.launcher._target_=os.system"], ("hydra.launcher._target_",)),
    (["hydra.launcher={_target_:os.system}"], ("hydra.launcher",)),
    (["hydra.launcher.per_device=2"], ("hydra.launcher.per_device=2", "--multirun")),
    (["hydra/launcher=slurm"], ("hydra/launcher=slurm", "--multirun")),
    (["detach=true"], ("detach=true", "--multirun")),
    (["runner=status", "detach=true"], ("detach=true", "leave detach=true")),
    (["hydra/help=../../x"], ("hydra/help",)),
    (["hydra/launcher=submitit_local"], ("hydra/launcher=submitit_local", "basic, slots, slurm")),
    (["--experimental-rerun=x.pickle"], ("--experimental-rerun=x.pickle",)),
    (["weights=${oc.env:AWS_SECRET_ACCESS_KEY}"], ("AWS_SECRET_ACCESS_KEY",)),
    (["hydra.run.dir=${oc.env:HF_TOKEN,x}"], ("HF_TOKEN",)),
    (["data_root=${oc.env:NO_SUCH_ROOT}"], ("NO_SUCH_ROOT",)),
    (["--multirun", "weights=${oc.env:HF_TOKEN,x},null"], ("HF_TOKEN",)),
)

# Runs every case in one process that must never import torch, and says how each ended.
RUNNER = """
import contextlib, io, json, sys, time
sys.path.insert(0, sys.argv[1])
import run
run.use_own_packages()
from hydra.core.global_hydra import GlobalHydra
from pathlib import Path
from runners.command import cli
ended = []
for overrides in json.loads(sys.stdin.read()):
    GlobalHydra.instance().clear()
    sys.argv[1:] = overrides
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(Path(run.ROOT))
        except SystemExit as stop:
            code = stop.code
    ended.append([code, out.getvalue(), err.getvalue(), "torch" in sys.modules])
print(json.dumps(ended))
"""


def test_composition_errors_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    cases = [[*overrides[:1], f"outputs={outputs}", *overrides[1:]] for overrides, _ in COMPOSITION]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(ROOT)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    ends = json.loads(done.stdout.splitlines()[-1])
    for (overrides, tokens), (code, out, err, torch_loaded) in zip(COMPOSITION, ends, strict=True):
        check_refused(Ended(code, out, err), 2, *tokens)
        assert out == "" and err.count(";") >= 2, f"given; allowed; fix: {err}"
        assert not torch_loaded, overrides
    assert list(tmp_path.iterdir()) == []


def test_content_errors_come_before_training(tmp_path: Path, command: Command) -> None:
    published = "experiment=published_resnet56"
    whole = tmp_path / "whole.pt"
    torch.save(cifar_resnet(depth=20, num_classes=10).state_dict(), whole)
    files = {
        name: tmp_path / name for name in ("cut.pt", "page.pth", "nan.pt", "evil.pt", "evil_zip.pt", "wrong.txt", "empty.th")
    }
    files["cut.pt"].write_bytes(whole.read_bytes()[:10_000])
    files["page.pth"].write_text("<!DOCTYPE html><html>404</html>")
    files["empty.th"].touch()
    files["wrong.txt"].touch()
    broken = cifar_resnet(depth=20, num_classes=10)
    torch.nn.init.constant_(broken.conv1.weight, float("nan"))
    torch.save(broken.state_dict(), files["nan.pt"])
    canary = tmp_path / "canary"
    files["evil.pt"].write_bytes(pickle.dumps(_Evil(f"touch {canary}")))
    torch.save({"state_dict": _Evil(f"touch {canary}")}, files["evil_zip.pt"])
    a_file = tmp_path / "a_file"
    a_file.touch()
    cifar = tmp_path / "cifar"
    (cifar / "cifar-10-batches-py").mkdir(parents=True)
    (cifar / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(_Evil(f"touch {canary}")))

    for overrides, code, tokens in (
        (["device=cuda:63"], 2, ["device=cuda:63", "device=cpu"]),
        (["model.depth=57"], 2, ["depth=57", "6n + 2"]),
        (["optimizer.nesterov=true", "optimizer.momentum=0"], 2, ["optimizer", "Nesterov"]),
        (["model.num_classes=7"], 2, [7, "dataset.num_classes=10", "model.num_classes=10"]),
        (["skip=[layr1.0.conv1]"], 2, ["skip", "layr1.0.conv1", "layer1.0.conv1"]),
        (["preset=resnet56_b"], 2, ["skip", "layer1.7.conv1"]),
        (["ratio={layer1.0.conv1:0.5}"], 2, ["ratio", "layer1.1.conv1", "'*'"]),
        (["ratio=0.9", "ratio_of=params", "min_keep=0.5"], 2, ["269,722", "242,749", "ratio=0.4966"]),
        (["runner=sensitivity", "scope=global"], 2, ["scope=global", "scope=layer"]),
        (["dataset.score_share=0.02"], 3, ["dataset.score_share=0.02"]),
        (["finetune.batch_size=63"], 2, ["finetune.batch_size=63", "finetune.batch_size=64"]),
        (["dataset=digits", "dataset.num_classes=5"], 3, ["labels", 0, 9]),
        (["dataset.mean=[0.5]"], 3, ["dataset.mean has 1", "dataset.std 3"]),
        ([published, f"data_root={tmp_path}"], 3, [f"data_root={tmp_path}", "'cifar-10-batches-py'"]),
        ([published, f"data_root={cifar}"], 3, ["cifar-10-batches-py/batches.meta"]),
        ([f"weights={tmp_path / 'none.pt'}"], 4, [tmp_path / "none.pt"]),
        ([f"weights={files['wrong.txt']}"], 4, ["'.txt'", ".safetensors"]),
        ([f"weights={files['cut.pt']}"], 4, [files["cut.pt"]]),
        ([f"weights={files['empty.th']}"], 4, [files["empty.th"]]),
        ([f"weights={files['page.pth']}"], 4, [files["page.pth"], "page"]),
        ([f"weights={files['nan.pt']}"], 4, ["conv1.weight"]),
        ([f"weights={files['evil.pt']}"], 4, [files["evil.pt"], "pickle", "state_dict()"]),
        ([f"weights={files['evil_zip.pt']}"], 4, [files["evil_zip.pt"], "pickle", "state_dict()"]),
        ([f"weights={whole}", "model=resnet32"], 4, ["layer1.3.conv1.weight", "model="]),
        ([f"store={a_file}"], 6, [f"store={a_file}", "store=DIR"]),
        ([f"outputs={a_file}"], 6, [f"outputs={a_file}", "outputs=DIR"]),
        ([f"outputs={a_file}/below"], 6, [f"outputs={a_file}/below", "outputs=DIR"]),
    ):
        trained = [] if any(override.startswith("experiment") for override in overrides) else list(TINY)
        ended = command(*trained, *overrides, outputs=_last(overrides, "outputs="))
        check_refused(ended, code, *tokens)
        assert "epoch 1/" not in ended.out, "nothing is trained before the error"
    assert not canary.exists()


def _last(overrides: list[str], prefix: str) -> str | None:
    found = [override.removeprefix(prefix) for override in overrides if override.startswith(prefix)]
    return found[-1] if found else None


class _Evil:
    """A pickle that runs a command when it is read."""

    def __init__(self, line: str) -> None:
        self.line = line

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.line,)


def test_a_fault_of_ours_is_one_line_and_a_log(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runners.one_shot.trace_channels", lambda model, example: 1 / 0)
    ended = command(*TINY)
    [folder] = [path.parent for path in tmp_path.rglob("error.log")]
    check_refused(ended, 1, "ZeroDivisionError", folder / "error.log")
    assert "Traceback" in (folder / "error.log").read_text()
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 1)


def test_a_fault_of_ours_in_the_gate_is_no_wrong_config(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runners.command.gate.check_config", lambda values: values["no_such"])
    check_refused(command(*TINY), 1, "KeyError: 'no_such'", "debug=true")
    ended = command(*TINY, "debug=true")
    assert ended.code == 1 and ended.err.startswith("Traceback") and names(ended.err, 'values["no_such"]')
    monkeypatch.setattr("runners.command.gate.check_config", lambda values: Path("/no_such").read_text())
    check_refused(command(*TINY), 6, "/no_such", "outputs=DIR")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("can't allocate memory: 9 bytes")]
)
def test_out_of_memory_is_no_fault_of_ours(error: Exception, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(model: object, example: object) -> None:
        raise error

    monkeypatch.setattr("runners.one_shot.trace_channels", full)
    check_refused(command(*TINY), 6, "memory", "recipe.batch_size=64")


def test_interruption_by_hand_is_one_line(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(model: object, example: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("runners.one_shot.trace_channels", stop)
    check_refused(command(*TINY), 130)
    [status] = tmp_path.rglob("status.json")
    assert json.loads(status.read_text())["state"] == "stopped"


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    line = f"{sys.executable} {ROOT / 'run.py'} outputs={tmp_path} {' '.join(TINY)} runner=score_only"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line} | head -1"], capture_output=True, text=True)
    assert done.stdout.startswith("dataset=fake") and "error" not in done.stderr


@pytest.mark.parametrize("flags", (["--help"], ["--cfg", "job"], ["--cfg", "job", "--resolve"], ["-sc", "query=bash"]))
def test_questions_are_answered_without_torch(flags: list[str], tmp_path: Path) -> None:
    """In a third of a second; importing torch alone takes ten times as long."""
    environment = {**os.environ, "COMP_LINE": "python run.py criterion=f", "COMP_POINT": "25", "PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *flags], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    imported = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert "hydra" in imported and "torch" not in imported
    assert done.returncode == 0 and "fermat" in done.stdout and len(imported) == len(done.stderr.splitlines())
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_package_on_the_path_is_refused_by_name(tmp_path: Path) -> None:
    foreign = tmp_path / "models"
    foreign.mkdir()
    (foreign / "__init__.py").touch()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "--cfg", "job"], capture_output=True, text=True, env=environment
    )
    check_refused(Ended(done.returncode, done.stdout, done.stderr), 2, foreign)


def test_run_works_from_another_folder_and_as_a_module(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()  # harmless: the script's own folder comes first, and the current one is not on the path
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), "--cfg", "job"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "ratio: 0.5" in done.stdout
