"""Bad input: one line on stderr, the right exit code, nothing written, no torch."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.cifar_resnet import cifar_resnet
from support import ROOT, Command, Ended, check_refused

TINY = ("dataset=fake", "model=resnet20", "recipe.epochs=1", "finetune.epochs=1")

# overrides, and what the line must say
COMPOSITION = (
    (["model=resnt56"], "model=resnt56 is unknown; .*resnet110, .*did you mean model=resnet56"),
    (["dataset=cifar"], "dataset=cifar is unknown; .*did you mean dataset=cifar10"),
    (["criterion=l3"], "criterion=l3 is unknown; .*gm, hrank, l1, l2"),
    (["criteria=norm"], "did you mean criteria=norms"),
    (["runner=oneshot"], "did you mean runner=one_shot"),
    (["experiment=nothing"], "experiment=nothing is unknown"),
    (["hydra/launcher=nothing"], "hydra/launcher=nothing is unknown; hydra/launcher is one of basic"),
    (["budget=params"], "budget is no option any more; .*try ratio_of="),
    (["ratoi=0.3"], "ratoi is no option; .*did you mean ratio"),
    (["recipe.epoch=3"], "recipe.epoch is no option; .*did you mean recipe.epochs"),
    (["criterion=apoz", "criterion.zone=hello"], "criterion.zone is no option; criterion takes threshold, site;"),
    (["criterion.zone=hello"], "criterion.zone is no option; criterion takes none;"),
    (["--multirun", "criterion=apoz,l1", "criterion.zone=1"], "criterion takes threshold, site;"),
    (["recipe.schedule=cosine"], "a group is needed; .*try schedule@recipe.schedule=cosine"),
    (["model.attention=se"], "model.attention is a group.*try model/attention=se"),
    (["+model/attention=se", "ratio=2"], "ratio=2 cannot be used"),
    (["epochs=3"], "epochs is no option; .*recipe.epochs or finetune.epochs"),
    (["+foo=1"], "foo is no option"),
    (["hydra.run.dirr=3"], "hydra.run.dirr is no option"),
    (["foo"], "overrides look like key=value"),
    (["ratio=["], "overrides look like key=value"),
    (["--foo"], "unrecognized arguments: --foo"),
    *(
        (["ratio=" + bad], r"ratio=.* cannot be used; it is a share .* from 0")
        for bad in "-0.1 1 1.0 1.5 nan inf abc true".split()
    ),
    (["ratio="], "ratio= cannot be used; it is a share"),
    (["ratio=0,5"], "ratio=0,5 is a list; one value is allowed here; .*--multirun"),
    (["recipe.epochs=-1"], "recipe.epochs=-1 cannot be used; it is a whole number from 0"),
    (["finetune.epochs=1.5"], "finetune.epochs=1.5 cannot be used"),
    (["recipe.batch_size=0"], "recipe.batch_size=0 cannot be used"),
    (["recipe.batch_size=1"], "recipe.batch_size=1 cannot be used; it is a whole number from 2"),
    (["recipe.lr=0"], "recipe.lr=0 cannot be used; it is a number above 0"),
    (["recipe.lr=nan"], "recipe.lr=nan cannot be used"),
    (["recipe.weight_decay=-1"], "recipe.weight_decay=-1 cannot be used"),
    (["dataset.crop_padding=-1"], "dataset.crop_padding=-1 cannot be used"),
    (["dataset.flip=maybe"], "dataset.flip=maybe cannot be used; it is true or false"),
    (["recipe.augment=1"], "recipe.augment=1 cannot be used; it is true or false"),
    (["dataset.random_labels=2"], "dataset.random_labels=2 cannot be used"),
    (["seed=-1"], "seed=-1 cannot be used; it is a whole number from 0"),
    (["seed=9223372036854775808"], "cannot be used; it is a whole number from 0 to 2"),
    (["seed=0.5"], "seed=0.5 cannot be used"),
    (["min_keep=0"], "min_keep=0 cannot be used; .*never loses its last filter"),
    (["min_keep=1.5"], "min_keep=1.5 cannot be used; .* or a share above 0 and below 1"),
    (["start_layer=-1"], "start_layer=-1 cannot be used; it is a whole number from 0"),
    (["skip=conv1"], "skip=conv1 cannot be used; it is a list of layers by name, pattern or index"),
    (["skip=[0.5]"], "skip=.* cannot be used; it is a list of layers"),
    (["model=timm", "model.model_name=resnet18", "model.pretrained=true"], "model.pretrained=True cannot .*weights=FILE"),
    (["model=torchvision", "model.name=resnet18", "+model.weights=DEFAULT"], "model.weights=DEFAULT cannot .*weights=FILE"),
    (["runner=doctor", "runner.verify=perhaps"], "runner.verify=perhaps cannot be used; it is true or false"),
    (["runner=status", "sweep=3"], "sweep=3 cannot be used; it is the folder of a sweep"),
    (["hang_minutes=0"], "hang_minutes=0 cannot be used; it is a number above 0, or null"),
    (["skip=[0]"], "skip=.* cannot be used; it is a list of layers"),
    (["normalise=l1"], "normalise=l1 cannot be used; it is none, mean, l2"),
    (["ratio_of=flops"], "ratio_of=flops cannot be used; it is filters, params or macs"),
    (["coupled=true"], "coupled=True cannot be used; it is skip, group or mask"),
    (["ratio={conv1:1}"], "ratio=.* cannot be used; .* or layers with their shares"),
    (["ratio={}"], "ratio=.* cannot be used; .* or layers with their shares"),
    (["preset=resnet56_c"], "preset=resnet56_c is unknown; .*did you mean preset=resnet56_"),
    (["preset=resnet56_b", "scope=global"], "ratio by layer with scope=global cannot be used; .*try scope=layer"),
    (
        ["preset=resnet56_b", "ratio_of=macs"],
        "ratio by layer with ratio_of=params or macs cannot be used; .*ratio_of=filters",
    ),
    (
        ["coupled=mask", "ratio_of=params"],
        "coupled=mask with ratio_of=params or macs cannot be used; .*save neither; .*coupled=group",
    ),
    (["runner=sensitivity", "runner.ratios=[1]"], "runner.ratios=.* cannot be used; it is a list"),
    (["runner.ratios=[0.5]"], "runner.ratios is no option"),
    (["scope=lokal"], "scope=lokal cannot be used; it is layer or global"),
    (["rounding=up"], "rounding=up cannot be used; it is floor_pruned, floor_kept or nearest"),
    (["device=gpu"], "device=gpu cannot be used; it is auto, cpu, cuda"),
    (["lock=fcntl"], "lock=fcntl cannot be used; it is auto, flock, lease or none"),
    (["rerun=1"], "rerun=1 cannot be used; it is true or false"),
    (["dataset.score_share=0"], "dataset.score_share=0 cannot be used"),
    (["weights="], "weights= cannot be used; it is a file, or null to train"),
    (["store="], "store= cannot be used; it is text"),
    (["data_root="], "data_root= cannot be used; it is a folder, or null to download"),
    (["model.shortcut=foo"], "model.shortcut=foo cannot be used; it is pad, pad_end or conv"),
    (["optimizer.momentum=-1"], "optimizer.momentum=-1 cannot be used"),
    (["dataset.num_classes=0"], "dataset.num_classes=0 cannot be used; it is a whole number from 2"),
    (["dataset.image_size=0"], "dataset.image_size=0 cannot be used"),
    (["dataset.test_share=2"], "dataset.test_share=2 cannot be used"),
    (["dataset.mean=abc"], "dataset.mean=abc cannot be used; it is a list, each .* a number"),
    (["dataset.std=[0]"], "cannot be used; it is a list, each .* a number above 0"),
    (["+recipe.foo=1"], "recipe.foo is no option; recipe takes augment, batch_size, epochs"),
    (["+dataset.foo=1"], "dataset.foo is no option; dataset takes channels"),
    (["finetune=digits"], "finetune=digits is a value.*; .*recipe@finetune=digits"),
    (["names.model=x"], "names.model cannot be set"),
    (["criterion=../../x"], "criterion='../../x' is no name of an option"),
    (["criterion=/etc/passwd"], "is no name of an option"),
    (["+experiment=a\\b"], "is no name of an option"),
    (["model.depth=${nope:1}"], "model.depth has no value"),
    (["dataset.num_classes=???"], "num_classes has no value"),
    (["--multirun", "ratio=0.3,2"], "ratio=2 cannot be used"),
    (["ratio=0.3,2", "-m"], "ratio=2 cannot be used"),
    (["--multirun", "model=resnet20,resnt"], "model=resnt is unknown"),
    (["--multirun", "criterion=l1,../../x"], "is no name of an option"),
    (["--multirun", "hydra.sweeper.params={criterion:'l1,../../x'}"], "criterion='../../x' is no name of an option"),
    (["criterion=choice(l1,../../x)"], "criterion='../../x' is no name of an option"),
    (["+criterion@criteria.x=../../x"], "criterion='../../x' is no name of an option"),
    (["+foo/bar=../../x"], "foo/bar='../../x' is no name of an option; .*foo/bar has none"),
    (["criterion='" + 65 * "x" + "'"], "is no name of an option"),
    (["criterion=l\x001"], "criterion=.* cannot be read; .*unusual characters stand in quotes"),
    (["criterion='\x1b[31m'"], r"criterion=.*x1b.*is no name of an option"),
    (["criterion='l\n1'"], "is no name of an option"),
    (["data_root=\u00e9"], "data_root=\u00e9 cannot be read; .*try \"data_root='\u00e9'\""),
    (["~ratio"], "ratio was taken out; .*leave ~ratio out"),
    (["~criterion"], "criterion was taken out"),
    (["~names"], "names cannot be set"),
    (["+model.foo=1"], "model.foo is no option; model takes .*depth"),
    (["+criterion.zone=hello"], "criterion.zone is no option; criterion takes none"),
    (["+optimizer.foo=1"], "optimizer.foo is no option; optimizer takes dampening"),
    (["+optimizer.lr=1"], "optimizer.lr .* belong to the recipe; try recipe.lr"),
    (["optimizer.fused=hello"], "optimizer.fused=hello cannot be used; it is true or false, or null"),
    (["+recipe.schedule.foo=1"], "recipe.schedule.foo is no option; recipe.schedule takes .*warmup_epochs"),
    (["recipe.schedule={_target_:x.y}"], "recipe.schedule cannot be set .*try schedule@recipe.schedule=NAME"),
    (["schedule@recipe.schedule=steps"], "recipe.schedule.milestones has no value"),
    (["model/attention=se", "model.attention.reduction=0"], "model.attention.reduction=0 cannot .* whole number from 1"),
    (["model.num_classes=hello"], "model.num_classes=hello cannot be used"),
    (["debug=1"], "debug=1 cannot be used; it is true or false"),
    (["--multirun", "ratio=.1,.2", "hydra.launcher.per_device=0"], "per_device=0 cannot be used; it is a whole number from 1"),
    (["--multirun", "ratio=.1,.2", "hydra/launcher=slurm", "hydra.launcher.setup=3"], "setup=3 cannot be used; it is a list"),
    (["+runner.foo=1"], "runner.foo is no option"),
    (["reports=3"], "reports=3 cannot be used; it maps names to functions"),
    (["+reports={../x:{a:1}}"], "reports has the name '../x'"),
    (["+criteria={.x:{a:1}}"], "criteria has the name '.x'"),
    (["model=timm", "model.model_name=../../x"], r"model.model_name=\.\./\.\./x cannot be used; .*a network.s name"),
    (["model=timm", f"model.model_name={'x' * 300}"], "model.model_name=x+ cannot be used"),
    (["hydra.run.dir=../escaped"], r"hydra.run.dir=\.\./escaped cannot be used; run folders lie below outputs="),
    (["hydra.run.dir=${store}/trained"], "hydra.run.dir=.* cannot be used; .*outside the store"),
    (["hydra.run.dir=${outputs}/" + 256 * "x"], "x+... has 256 bytes; 255 are allowed"),
    (["~hydra.callbacks.gate", "ratio=2"], "hydra.callbacks.gate is no option of a run; .*leave ~hydra.callbacks.gate out"),
    (["hydra.callbacks.gate._target_=builtins.print", "ratio=2"], "hydra.callbacks.gate._target_ is no option"),
    (["+criterion@hydra.callbacks.gate=l1"], "criterion@hydra.callbacks.gate is no option"),
    (["hydra.searchpath=[file:///tmp]"], "hydra.searchpath is no option"),
    (["hydra.sweep.dir=/tmp/x"], "hydra.sweep.dir is no option"),
    (["hydra.job.env_set.X=1"], "hydra.job.env_set.X is no option"),
    (["hydra.launcher._target_=os.system"], "hydra.launcher._target_ is no option"),
    (["hydra.launcher={_target_:os.system}"], "hydra.launcher is no option"),
    (
        ["hydra.launcher.per_device=2"],
        "hydra.launcher.per_device=2 is of sweeps; this is a single run; add --multirun, or leave",
    ),
    (["hydra/launcher=slurm"], "hydra/launcher=slurm is of sweeps"),
    (["detach=true"], "detach=true is of sweeps"),
    (["runner=status", "detach=true"], "this is a single run; leave detach=true out"),
    (["hydra/help=../../x"], "hydra/help is no option"),
    (["hydra/launcher=submitit_local"], "hydra/launcher=submitit_local is unknown; .* basic, slots, slurm"),
    (["--experimental-rerun=x.pickle"], "--experimental-rerun=x.pickle reads a pickle"),
    (["weights=${oc.env:AWS_SECRET_ACCESS_KEY}"], "environment variable AWS_SECRET_ACCESS_KEY may not be read into a config"),
    (["hydra.run.dir=${oc.env:HF_TOKEN,x}"], "environment variable HF_TOKEN may not be read"),
    (["data_root=${oc.env:NO_SUCH_ROOT}"], "environment variable NO_SUCH_ROOT is not set"),
    (["--multirun", "weights=${oc.env:HF_TOKEN,x},null"], "environment variable HF_TOKEN may not be read"),
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
    for (overrides, expected), (code, out, err, torch_loaded) in zip(
        COMPOSITION, json.loads(done.stdout.splitlines()[-1]), strict=True
    ):
        assert code == 2, (overrides, err)
        assert out == "" and err.count("\n") == 1 and err.startswith("error: "), (overrides, out, err)
        assert re.search(expected, err), (overrides, err)
        assert err.count(";") >= 2, f"given; allowed; fix: {err}"
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

    for overrides, code, expected in (
        (["device=cuda:63"], 2, "device=cuda:63: this machine has"),
        (["model.depth=57"], 2, "depth=57: a CIFAR ResNet has 6n [+] 2 layers"),
        (["optimizer.nesterov=true", "optimizer.momentum=0"], 2, "Nesterov momentum requires a momentum"),
        (["skip=[layr1.0.conv1]"], 2, "skip names layer 'layr1.0.conv1', which .*; did you mean layer1.0.conv1"),
        (["preset=resnet56_b"], 2, "skip names layer 'layer1.7.conv1', which this network has not; .*"),
        (["ratio={layer1.0.conv1:0.5}"], 2, "ratio gives layer1.1.conv1 no share; .*add '[*]' to ratio"),
        (
            ["ratio=0.9", "ratio_of=params", "min_keep=0.5"],
            2,
            "of 269,722 parameters is 242,749; at most .* ratio=0.4",
        ),
        (["runner=sensitivity", "scope=global"], 2, "scope=global ratio_of=filters cannot be used with one layer at a time"),
        (["dataset.score_share=0.02"], 3, "at least two must score"),
        (["model=vgg16_bn", "model/attention=se"], 2, "models.attention.squeeze_excite cannot be built .*no residual block"),
        (["finetune.batch_size=63"], 2, "finetune.batch_size=63 leaves a last batch of one image out of 64; .*=64"),
        (["dataset=digits", "dataset.num_classes=5"], 3, "labels run from 0 to 9"),
        (["dataset.mean=[0.5]"], 3, "dataset.mean has 1 and dataset.std 3 values"),
        ([published, f"data_root={tmp_path}"], 3, "has no folder 'cifar-10-batches-py'"),
        ([published, f"data_root={cifar}"], 3, "do not have the published checksums"),
        ([f"weights={tmp_path / 'none.pt'}"], 4, "is no file"),
        ([f"weights={files['wrong.txt']}"], 4, "ends in '.txt'"),
        ([f"weights={files['cut.pt']}"], 4, "cannot be read .*must be whole"),
        ([f"weights={files['empty.th']}"], 4, "cannot be read"),
        ([f"weights={files['page.pth']}"], 4, "is a web page"),
        ([f"weights={files['nan.pt']}"], 4, "values in conv1.weight that are not finite"),
        ([f"weights={files['evil.pt']}"], 4, "is a pickle that would run code"),
        ([f"weights={files['evil_zip.pt']}"], 4, "is a pickle that would run code"),
        ([f"weights={whole}", "model=resnet32"], 4, r"another network .*layer1.3.conv1.weight is missing.* and \d+ more"),
        ([f"store={a_file}"], 6, "store=.* cannot be written"),
        ([f"outputs={a_file}"], 6, "outputs=.* cannot be written"),
        ([f"outputs={a_file}/below"], 6, "outputs=.* cannot be written"),
    ):
        trained = [] if any(override.startswith("experiment") for override in overrides) else list(TINY)
        ended = command(*trained, *overrides, outputs=_last(overrides, "outputs="))
        assert ended.code == code, (overrides, ended)
        assert ended.err.count("\n") == 1 and ended.err.startswith("error: "), (overrides, ended.err)
        assert re.search(expected, ended.err), (overrides, ended.err)
        assert "epoch 1/" not in ended.out, "nothing is trained before the error"
        assert "Traceback" not in ended.out + ended.err
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
