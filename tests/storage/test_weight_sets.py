"""Weights files as others write them: their endings, wrappers, averages, and what lies beside the weights."""

import argparse
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.cifar_resnet import cifar_resnet
from runners.process.errors import StoreError
from runners.storage.weight_sets import counted, weight_sets
from runners.storage.weights import Taken, load_weights, told
from support import Command, check_line, raises_line

State = dict[str, Tensor]


def resnet(num_classes: int = 10, depth: int = 20) -> nn.Module:
    return cifar_resnet(depth=depth, num_classes=num_classes)


torch.manual_seed(0)
NETWORK = resnet()
PLAIN: State = NETWORK.state_dict()
AVERAGE: State = {name: value + 1 if value.is_floating_point() else value for name, value in PLAIN.items()}
OTHER: State = {name: value + 2 if value.is_floating_point() else value for name, value in PLAIN.items()}


def behind(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + name: value for name, value in state.items()}


def averaged_model() -> State:
    averaged = AveragedModel(resnet())
    averaged.module.load_state_dict(AVERAGE)
    averaged.n_averaged += 3
    return averaged.state_dict()


def load(content: Any, path: Path, weights_set: str | None = None) -> tuple[State, Taken]:
    torch.save(content, path)
    network = resnet()
    return network.state_dict(), load_weights(network, path, weights_set)


def is_equal(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(value, expected[name]) for name, value in found.items())


def refused(content: Any, path: Path, *tokens: object, weights_set: str | None = None) -> None:
    with raises_line(StoreError, *tokens) as caught:
        load(content, path, weights_set)
    assert str(caught.value).count(";") >= 2, "given; allowed; fix"


@pytest.mark.parametrize(
    "name", ["a.pth.tar", "a.ckpt", "a.bin", "a.tar", "a", "resnet20_v1.5", "A.PTH", "a.safetensors", "a.pt"]
)
def test_the_content_of_a_file_tells_its_format_and_not_its_name(name: str, tmp_path: Path) -> None:
    def as_safetensors(path: Path) -> None:
        save_file(PLAIN, path)

    def as_legacy(path: Path) -> None:
        torch.save(PLAIN, path, _use_new_zipfile_serialization=False)

    for save in (as_safetensors, as_legacy, lambda path: torch.save(PLAIN, path)):
        save(tmp_path / name)
        network = resnet()
        taken = load_weights(network, tmp_path / name)
        assert is_equal(network.state_dict(), PLAIN) and taken == Taken("", False, (), ())


@pytest.mark.parametrize("name", ["a.txt", "a.zip", "a.npz", "a.v1x"])
def test_an_ending_of_other_files_is_refused(name: str, tmp_path: Path) -> None:
    refused(PLAIN, tmp_path / name, f"'{Path(name).suffix}'", ".ckpt, .bin, .tar or no ending")


@pytest.mark.parametrize(
    ("start", "token"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"\x1f\x8b\x08" + bytes(99), "compressed"),
        (b"\x93NUMPY\x01\x00" + bytes(99), "NumPy"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
        (b"<!DOCTYPE html>", "web page"),
    ],
)
def test_other_content_is_named(start: bytes, token: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(start)
    with raises_line(StoreError, token):
        load_weights(resnet(), tmp_path / "a.bin")


def test_a_real_tar_archive_is_named(tmp_path: Path) -> None:
    torch.save(PLAIN, tmp_path / "a.pt")
    with tarfile.open(tmp_path / "a.pth.tar", "w") as archive:
        archive.add(tmp_path / "a.pt", "a.pt")
    with raises_line(StoreError, "tar archive", "torch.save"):
        load_weights(resnet(), tmp_path / "a.pth.tar")


# name -> what a file holds, the set that is read of it, and all that is left out
FORMS: Mapping[str, tuple[Callable[[], Any], str, tuple[str, ...]]] = {
    "wrapped inside": (
        lambda: {
            name.replace("layer1.", "layer1.module.").replace(".conv1.", "._orig_mod.conv1."): value
            for name, value in PLAIN.items()
        },
        "",
        (),
    ),
    "wrapped inside and outside": (
        lambda: {"state_dict": behind("module._orig_mod.", {name.replace("0.", "0.module."): PLAIN[name] for name in PLAIN})},
        "state_dict",
        (),
    ),
    "lightning": (
        lambda: {
            "epoch": 3,
            "global_step": 300,
            "pytorch-lightning_version": "2.5",
            "state_dict": behind("backbone.", PLAIN) | {"criterion.weight": torch.ones(10)},
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
            "optimizer_states": [{"state": {0: {"momentum_buffer": PLAIN["conv1.weight"]}}, "param_groups": []}],
            "lr_schedulers": [],
        },
        "state_dict.backbone",
        (
            *("epoch", "global_step", "pytorch-lightning_version", "loops", "callbacks", "optimizer_states", "lr_schedulers"),
            "criterion.weight",
        ),
    ),
    "any prefix": (lambda: {"state_dict": behind("encoder.net_q.", PLAIN)}, "state_dict.encoder.net_q", ()),
    "net": (lambda: {"net": behind("module.", PLAIN), "acc": 93.5, "epoch": 7}, "net", ("acc", "epoch")),
    "in two mappings": (lambda: {"checkpoint": {"model": PLAIN, "step": 3}}, "checkpoint.model", ("checkpoint.step",)),
    "optimizer": (
        lambda: {
            "model": PLAIN,
            "optimizer": {"state": {0: {"momentum_buffer": PLAIN["conv1.weight"]}}, "param_groups": [{"lr": 0.1}]},
            "loss": torch.tensor(0.1),
        },
        "model",
        ("optimizer", "loss"),
    ),
    "losses and counters among the weights": (
        lambda: PLAIN | {"loss_fn.weight": torch.ones(10), "step": torch.tensor(7), "conv1.total_ops": torch.zeros(1)},
        "",
        ("loss_fn.weight", "step", "conv1.total_ops"),
    ),
    "counters of every layer": (
        lambda: PLAIN | {f"layer1.{block}.total_ops": torch.zeros(1) for block in range(3)},
        "",
        ("total_ops (3)",),
    ),
    "plain values among the weights": (lambda: {**PLAIN, "epoch": 3}, "", ("epoch",)),
    "another module": (
        lambda: behind("net.", PLAIN) | {"head.weight": torch.ones(2, 2), "head.bias": torch.ones(2)},
        "net",
        ("head.* (2)",),
    ),
    "the same under two names": (lambda: {"model": PLAIN, "best": PLAIN}, "model", ("best",)),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_and_the_rest_is_listed(form: str, tmp_path: Path) -> None:
    content, name, left_out = FORMS[form]
    state, taken = load(content(), tmp_path / "a.ckpt")
    assert is_equal(state, PLAIN)
    assert taken == Taken(name, False, (), left_out)


# name -> what a file holds; the set that is read without weights_set, if it is an average; the others
SETS: Mapping[str, tuple[Callable[[], Any], tuple[str, bool], tuple[str, ...]]] = {
    "timm": (lambda: {"state_dict_ema": AVERAGE, "state_dict": PLAIN}, ("state_dict", False), ("state_dict_ema",)),
    "model_ema": (lambda: {"model": PLAIN, "model_ema": AVERAGE, "epoch": 1}, ("model", False), ("model_ema",)),
    "ema": (lambda: {"ema": {"module": AVERAGE}, "net": behind("module.", PLAIN)}, ("net", False), ("ema",)),
    "swa": (lambda: {"swa_model": averaged_model(), "model": PLAIN}, ("model", False), ("swa_model",)),
    "by its counter": (lambda: {"best": averaged_model(), "last": PLAIN}, ("last", False), ("best",)),
    "by prefix": (
        lambda: {"state_dict": behind("ema_model.module.", AVERAGE) | behind("online_model.", PLAIN)},
        ("state_dict.online_model", False),
        ("state_dict.ema_model",),
    ),
    "beside plain names": (lambda: behind("ema.", AVERAGE) | PLAIN, ("", False), ("ema",)),
    "lightning's callback": (
        lambda: {
            "state_dict": behind("model.", AVERAGE),
            "current_model_state": behind("model.", PLAIN),
            "averaging_state": {"n_averaged": torch.tensor(3)},
        },
        ("current_model_state.model", False),
        ("state_dict.model",),
    ),
}


@pytest.mark.parametrize("form", SETS)
def test_of_several_sets_the_plain_one_is_read_and_the_average_by_its_name(form: str, tmp_path: Path) -> None:
    content, (name, averaged), others = SETS[form]
    state, taken = load(content(), tmp_path / "a.pt")
    assert is_equal(state, PLAIN)
    assert (taken.name, taken.averaged, taken.others) == (name, averaged, others)
    check_line(told(taken)[0], others[0], f"weights_set={others[0]}")
    state, taken = load(content(), tmp_path / "a.pt", others[0])
    assert is_equal(state, AVERAGE)
    assert (taken.name, taken.averaged, taken.others) == (others[0], True, (name,))


@pytest.mark.parametrize("content", [lambda: {"ema": AVERAGE}, averaged_model, lambda: {"state_dict": averaged_model()}])
def test_an_average_alone_is_read_and_said_to_be_one(content: Callable[[], Any], tmp_path: Path) -> None:
    state, taken = load(content(), tmp_path / "a.pt")
    assert is_equal(state, AVERAGE) and taken.averaged
    assert "average" in told(taken)[0]


def test_a_word_of_its_name_chooses_a_set(tmp_path: Path) -> None:
    content = {"state_dict": PLAIN, "state_dict_ema": AVERAGE, "state_dict_swa": OTHER}
    assert is_equal(load(content, tmp_path / "a.pt", "ema")[0], AVERAGE)
    assert is_equal(load(content, tmp_path / "a.pt", "swa")[0], OTHER)
    assert is_equal(load(content, tmp_path / "a.pt", "state_dict")[0], PLAIN)
    refused(content, tmp_path / "a.pt", "weights_set=dict", "state_dict_ema, state_dict_swa", weights_set="dict")


def test_a_set_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    refused({"model": PLAIN, "model_ema": AVERAGE}, path, "weights_set=foo", path, "model, model_ema", weights_set="foo")
    refused(PLAIN, path, "weights_set=ema", "leave weights_set out", weights_set="ema")


def test_plain_sets_without_a_usual_name_are_the_user_s_choice(tmp_path: Path) -> None:
    content = {"student": PLAIN, "teacher": OTHER}
    refused(content, tmp_path / "a.pt", "student, teacher", "weights_set=student")
    assert is_equal(load(content, tmp_path / "a.pt", "teacher")[0], OTHER)
    usual = {"best": OTHER, "model": PLAIN}
    assert is_equal(load(usual, tmp_path / "a.pt")[0], PLAIN)


def test_the_first_mismatch_is_that_of_the_set_behind_its_prefix(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    deeper, wider = resnet(depth=32).state_dict(), resnet(num_classes=100).state_dict()
    # Two more blocks in each of three stages, of two convolutions and two BatchNorms: 6 x (2 + 2 x 4) tensors, three shown.
    refused({"state_dict": behind("model.", deeper), "epoch": 1}, path, "state_dict.model", "model.layer1.3.conv1.weight", 57)
    refused({"net": behind("module.", wider)}, path, "linear.weight", "100x64")
    refused({"net": behind("module.", wider)}, path, "model.num_classes=100", "dataset=")
    without = {name: value for name, value in PLAIN.items() if name != "layer2.0.bn1.bias"}
    refused({"state_dict": behind("model.", without)}, path, "layer2.0.bn1.bias is missing", "model=")
    refused({"model": PLAIN | {"layer9.weight": torch.ones(2)}}, path, "layer9.weight is unknown")
    refused(
        {"model": PLAIN | {"conv1.weight": torch.ones(16, 1, 3, 3)}}, path, "conv1.weight", "16x1x3x3", "16x3x3x3", "model="
    )
    refused({"model": without, "model_ema": PLAIN | {"conv1.weight": torch.ones(1)}}, path, "conv1.weight", weights_set="ema")


def test_counters_of_another_shape_are_left_out(tmp_path: Path) -> None:
    state = {name: value.view(1) if name.endswith("num_batches_tracked") else value for name, value in PLAIN.items()}
    network, taken = load(state, tmp_path / "a.pt")
    assert is_equal(network, PLAIN)
    assert taken.left_out == (f"num_batches_tracked ({sum(value.shape == (1,) for value in state.values())})",)


# Objects beside the weights, none of them made.
BESIDE: Mapping[str, Any] = {
    "best_acc": np.float64(93.5),
    "lr": np.float32(0.1),
    "epoch": np.int64(3),
    "is_best": np.bool_(True),
    "history": np.arange(3.0),
    "rng_state": np.random.RandomState(0).get_state(),
    "args": argparse.Namespace(lr=0.1, schedule=[1, 2]),
    "path": Path("a/b"),
}


@pytest.mark.parametrize("legacy", [False, True])
def test_numpy_beside_the_weights_is_no_code(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pth.tar"
    torch.save({"state_dict": PLAIN, **BESIDE}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(Exception, match="Unsupported global"):
        torch.load(path, weights_only=True)  # the control
    network, allowed = resnet(), torch.serialization.get_safe_globals()
    taken = load_weights(network, path)
    assert is_equal(network.state_dict(), PLAIN)
    assert taken.left_out == tuple(BESIDE)
    check_line(told(taken)[0], "left out", *BESIDE)
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["in numpy's place", "in an array", "in args", "beside a scalar"])
def test_code_beside_the_weights_is_refused_and_not_run(place: str, legacy: bool, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "a.ckpt"

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(canary),)

    values: dict[str, Any] = {
        "in numpy's place": Runs(),
        "in an array": np.array([Runs()], dtype=object),
        "in args": argparse.Namespace(a=Runs()),
        "beside a scalar": [np.float64(1), Runs()],
    }
    torch.save({"state_dict": PLAIN, "best_acc": values[place]}, path, _use_new_zipfile_serialization=not legacy)
    with raises_line(StoreError, "pickle", "state_dict()"):
        load_weights(resnet(), path)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists()  # the control


def test_a_mapping_in_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {"model": PLAIN}
    content |= {f"self{number}": content for number in range(100)}
    state, taken = load(content, tmp_path / "a.pt")
    assert is_equal(state, PLAIN) and taken.name == "model"


def test_networks_with_a_part_called_module_keep_it() -> None:
    names = ["module.weight", "weight"]
    [found] = weight_sets({name: torch.ones(1) for name in names}, names)
    assert found.complete and list(found.values) == names and not found.unknown
    [found] = weight_sets(
        {"net.module.weight": torch.ones(1), "net.module.bias": torch.ones(1)}, ["module.weight", "module.bias"]
    )
    assert found.complete and found.name == "net"


def test_names_with_a_common_part_are_counted() -> None:
    assert counted(["a.b", "c.d", "c.e", "x.n_averaged", "y.n_averaged", "z"]) == ["a.b", "c.* (2)", "n_averaged (2)", "z"]


def test_a_run_tells_which_set_it_read(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "a.ckpt"
    average = {name: value * 1.5 if name.endswith("conv1.weight") else value for name, value in PLAIN.items()}
    torch.save({"model": PLAIN, "model_ema": average, "epoch": 3}, path)
    small = ("dataset=fake", "dataset.image_size=8", "model=resnet20", "criteria=norms", "runner=score_only")
    ended = command(*small, f"weights={path}", "weights_set=ema")
    assert ended.facts["weights_set"] == "model_ema"
    told = [line for line in ended.out.splitlines() if line.startswith(f"weights={path}: ") and "normalised" not in line]
    first, second = told[:2]
    check_line(first, "model_ema", "model", "weights_set=model")
    check_line(second, "left out: epoch")
    scores = pd.read_csv(ended.folder / "scores.csv").query("criterion == 'l1' and layer == 'conv1'")
    expected = average["conv1.weight"].abs().sum((1, 2, 3)).tolist()
    assert scores["score"].tolist() == pytest.approx(expected, rel=1e-5)
