"""A pruned network in a folder comes back as it was, anywhere, or is refused in one line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision.models as tv
from safetensors.torch import load_file
from torch import nn

from exactness import images, output, randomised, share_of_free_groups
from models.cifar_resnet import cifar_resnet
from runners.process.errors import StoreError
from runners.pruning.remove import remove
from runners.pruning.saved import PLAN, WEIGHTS, Pruned, factories, load_pruned, save_pruned
from runners.storage.keys import digest
from runners.tracing.channels import trace_channels
from support import ROOT, raises_line

RESNET = {"_target_": "models.cifar_resnet.cifar_resnet", "depth": 20, "num_classes": 10, "in_channels": 3, "shortcut": "pad"}
# What makes the network, and how a config says so.
MADE: Mapping[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "ours": (lambda: cifar_resnet(depth=20, num_classes=10), RESNET),
    "torchvision": (
        lambda: tv.mobilenet_v2(num_classes=7, width_mult=0.25),
        {"_target_": "torchvision.models.get_model", "name": "mobilenet_v2", "num_classes": 7, "width_mult": 0.25},
    ),
    "timm": (
        lambda: timm.create_model("regnetx_002", num_classes=5),
        {"_target_": "timm.create_model", "model_name": "regnetx_002", "pretrained": True, "num_classes": 5, "in_chans": 3},
    ),
}


def saved(folder: Path, name: str = "ours") -> nn.Module:
    """Writes a folder; the network that is in it."""
    torch.manual_seed(0)
    build, model = MADE[name]
    network, example = randomised(build()), images(32, torch.float32, n=1)
    channels = trace_channels(network, example)
    removed = share_of_free_groups(channels)
    smaller = remove(network, channels, removed)
    save_pruned(folder, Pruned(smaller, channels, removed, example), model)
    return smaller


@pytest.mark.parametrize("name", MADE)
def test_what_is_read_is_what_was_written(name: str, tmp_path: Path) -> None:
    smaller = saved(tmp_path / "pruned", name)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    read = load_pruned(str(tmp_path / "pruned"))
    assert torch.equal(torch.get_rng_state(), state) and not read.training
    assert read.state_dict().keys() == smaller.state_dict().keys()
    assert all(torch.equal(value, smaller.state_dict()[key]) for key, value in read.state_dict().items())
    x = images(32, torch.float32)
    assert torch.equal(output(read, x), output(smaller, x))


def test_the_folder_is_two_files_and_the_plan_names_what_is_kept(tmp_path: Path) -> None:
    saved(tmp_path, "timm")
    assert sorted(path.name for path in tmp_path.iterdir()) == [PLAN, WEIGHTS]
    plan = json.loads((tmp_path / PLAN).read_text())
    assert plan["model"]["pretrained"] is False, "nothing is downloaded to read it"
    weights = load_file(tmp_path / WEIGHTS)
    for layer, kept in plan["kept"].items():
        assert len(kept["filters"]) == len(weights[f"{layer}.weight"]) and set(kept["filters"]) <= set(range(kept["of"])), layer
    assert any(len(kept["filters"]) < kept["of"] for kept in plan["kept"].values())


def test_a_fresh_process_elsewhere_reads_it(tmp_path: Path) -> None:
    smaller = saved(tmp_path / "pruned")
    code = (
        "import sys, torch; torch.set_num_threads(1); from runners.pruning.saved import load_pruned; "
        "print(load_pruned(sys.argv[1])(torch.ones(1, 3, 16, 16)).detach().sum().item())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "pruned")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) == pytest.approx(output(smaller, torch.ones(1, 3, 16, 16)).sum().item(), rel=1e-6)


def test_it_replaces_what_was_there(tmp_path: Path) -> None:
    saved(tmp_path, "timm")
    smaller = saved(tmp_path, "ours")
    assert torch.equal(output(load_pruned(tmp_path), images(16, torch.float32)), output(smaller, images(16, torch.float32)))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def rewrite(folder: Path, **changes: Any) -> None:
    """A plan with other values, and the digest of these."""
    plan = json.loads((folder / PLAN).read_text()) | changes
    plan.pop("plan_digest")
    (folder / PLAN).write_text(json.dumps(plan | {"plan_digest": digest(plan)}))


def exchange(folder: Path) -> None:
    saved(folder / "other", "timm")
    (folder / "other" / WEIGHTS).replace(folder / WEIGHTS)


def edit(folder: Path) -> None:
    (folder / PLAN).write_text((folder / PLAN).read_text().replace('"of": 16', '"of": 17', 1))


FAULTS: Mapping[str, tuple[Callable[[Path], object], list[str]]] = {
    "a flipped bit of the weights": (lambda folder: flip(folder / WEIGHTS), [WEIGHTS, "changed"]),
    "weights of another network": (exchange, [WEIGHTS, "changed"]),
    "an edited plan": (edit, [PLAN, "changed"]),
    "half a plan": (lambda folder: os.truncate(folder / PLAN, 100), [PLAN, "changed"]),
    "a plan that is a list": (lambda folder: (folder / PLAN).write_text("[]"), [PLAN, "changed"]),
    "no plan": (lambda folder: (folder / PLAN).unlink(), [PLAN, "not there"]),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), [WEIGHTS, "not there"]),
    "a later format": (lambda folder: rewrite(folder, format=2), ["format 2", "1"]),
    "a foreign factory": (
        lambda folder: rewrite(folder, model={"_target_": "os.system", "command": f"touch {folder}/ran"}),
        ["'os.system'"],
    ),
    "an argument too many": (lambda folder: rewrite(folder, model=RESNET | {"mode": 1}), ["mode"]),
    "a factory with other layers": (lambda folder: rewrite(folder, model=RESNET | {"depth": 32}), ["layers or widths"]),
    "other widths": (lambda folder: rewrite(folder, model=RESNET | {"num_classes": 9}), ["layers or widths"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_folder_that_is_not_as_it_was_written_is_one_line(name: str, tmp_path: Path) -> None:
    saved(tmp_path)
    damage, told = FAULTS[name]
    damage(tmp_path)
    with raises_line(StoreError, tmp_path, *told):
        load_pruned(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_the_factories_are_those_of_the_configs() -> None:
    assert {
        "models.cifar_resnet.cifar_resnet",
        "models.attention.squeeze_excite",
        "timm.create_model",
        "torchvision.models.get_model",
    } <= factories()
    assert all(name.startswith(("models.", "timm.", "torchvision.")) for name in factories())


# The exporter of PyTorch 2.11 warns of its own calls.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning")
@pytest.mark.parametrize(
    "name", ["ours", pytest.param("torchvision", marks=pytest.mark.slow), pytest.param("timm", marks=pytest.mark.slow)]
)
def test_onnx_computes_the_same(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    saved(tmp_path, name)
    network, x = load_pruned(tmp_path), images(32, torch.float32)
    torch.onnx.export(network, (x,), tmp_path / "network.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "network.onnx")
    [found] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert found.shape == network(x).shape
    torch.testing.assert_close(torch.from_numpy(found).flatten(), output(network, x), rtol=1e-4, atol=1e-4)
