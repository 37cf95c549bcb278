"""The convolutions in weights files of unknown networks, of PyTorch and Keras."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.cifar_resnet import cifar_resnet
from runners.process.errors import StoreError
from runners.storage.convolutions import Convolutions, read_convolutions
from runners.storage.weight_sets import natural
from support import raises_line


def plain() -> dict[str, Tensor]:
    """Tensors of a network with two convolutions."""
    torch.manual_seed(0)
    found = {"stem.weight": torch.randn(4, 3, 3, 3), "bn.weight": torch.randn(4), "bn.num_batches_tracked": torch.tensor(3)}
    return found | {"body.conv.weight": torch.randn(2, 4, 1, 1), "head.weight": torch.randn(5, 2), "head.bias": torch.randn(5)}


PLAIN, AVERAGE = plain(), {name: value * 2 if value.is_floating_point() else value for name, value in plain().items()}
LAYERS = {"stem": "stem.weight", "body.conv": "body.conv.weight"}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def check(found: Convolutions, tensors: Mapping[str, Tensor]) -> None:
    """Fail unless these are the two convolutions of `tensors`, in order."""
    assert list(found.weights) == list(LAYERS)
    for layer, name in LAYERS.items():
        assert torch.equal(found.weights[layer], tensors[name])


def averaged() -> dict[str, Tensor]:
    """What torch's averaging of a network saves."""
    network = nn.Sequential()
    network.stem, network.body = nn.Conv2d(3, 4, 3, bias=False), nn.Sequential()
    network.body.conv = nn.Conv2d(4, 2, 1, bias=False)
    found: dict[str, Tensor] = AveragedModel(network).state_dict()
    return found | {f"module.{name}": value for name, value in AVERAGE.items()}


# content of the file; name of the plain set; other sets, and one that is asked for; what is left out
FILES: dict[str, tuple[Callable[[], Any], str, tuple[str, ...], tuple[str, ...]]] = {
    "alone": (lambda: PLAIN, "", (), ()),
    "wrapped": (lambda: {"state_dict": under("module.", PLAIN), "epoch": 3}, "state_dict", (), ("epoch",)),
    "prefixed": (lambda: {"state_dict": under("model.", PLAIN)}, "state_dict.model", (), ()),
    "with a loss": (
        lambda: {"state_dict": under("model.", PLAIN) | {"loss.vgg.weight": torch.ones(8, 8, 3, 3)}},
        "state_dict.model",
        (),
        ("loss.vgg.weight",),
    ),
    "two mappings": (lambda: {"model_ema": AVERAGE, "model": PLAIN}, "model", ("model_ema",), ()),
    "one mapping": (
        lambda: {"state_dict": under("model.", PLAIN) | under("ema_model.module.", AVERAGE)},
        "state_dict.model",
        ("state_dict.ema_model",),
        (),
    ),
    "swa": (lambda: {"swa_model": averaged(), "model": PLAIN}, "model", ("swa_model",), ()),
    "an optimizer": (
        lambda: {"model": PLAIN, "optimizer": {"exp_avg": {"stem.weight": torch.ones(4, 3, 3, 3)}}},
        "model",
        (),
        ("optimizer",),
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_plain_set_is_read_and_others_can_be_asked_for(kind: str, tmp_path: Path) -> None:
    content, name, others, left_out = FILES[kind]
    path = saved(content(), tmp_path / "weights.pt")
    found = read_convolutions(path)
    check(found, PLAIN)
    assert (found.taken.name, found.taken.others, found.ordered) == (name, others, True)
    assert {each.split(".")[0] for each in found.taken.left_out} == {each.split(".")[0] for each in left_out}
    for other in others:
        check(asked := read_convolutions(path, other.rpartition(".")[2]), AVERAGE)
        assert asked.taken.averaged and asked.taken.name == other


def test_two_networks_in_a_file_are_not_mixed(tmp_path: Path) -> None:
    content = {"generator": PLAIN, "discriminator": {"other.weight": torch.ones(2, 2, 5, 5)}}
    path = saved(content, tmp_path / "gan.pt")
    with raises_line(StoreError, path, "generator", "discriminator", "weights_set=generator"):
        read_convolutions(path)
    check(read_convolutions(path, "generator"), PLAIN)
    assert list(read_convolutions(path, "discriminator").weights) == ["other"]


def test_names_and_numbers_are_those_of_the_network(tmp_path: Path) -> None:
    network = cifar_resnet(depth=20, num_classes=10)
    path = saved({"state_dict": under("module.", network.state_dict())}, tmp_path / "resnet20.th")
    found = read_convolutions(path)
    expected = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    assert list(found.weights) == list(expected) and found.n_tensors == len(network.state_dict())
    assert all(torch.equal(found.weights[name], module.weight) for name, module in expected.items())


def test_half_precision_is_read_as_a_network_reads_it_and_other_kinds_are_no_convolutions(tmp_path: Path) -> None:
    halves = {"a.weight": torch.randn(2, 2, 3, 3).half(), "b": torch.randn(3, 2, 1, 1).double()}
    others = {"c": torch.ones(2, 2, 2, 2, dtype=torch.int8), "d": torch.ones(2, 2, 2, 2, 2), "e": torch.ones(0, 2, 3, 3)}
    found = read_convolutions(saved(halves | others, tmp_path / "weights.pt"))
    assert list(found.weights) == ["a", "b"] and {each.dtype for each in found.weights.values()} == {torch.float32}
    assert torch.equal(found.weights["a"], halves["a.weight"].float())


def test_safetensors_are_in_the_order_of_their_names_as_numbers(tmp_path: Path) -> None:
    tensors = {f"block{number}.weight": torch.full((1, 1, 1, 1), float(number)) for number in (2, 10, 1)}
    save_file(tensors, tmp_path / "weights.safetensors")
    found = read_convolutions(tmp_path / "weights.safetensors")
    assert list(found.weights) == ["block1", "block2", "block10"] and not found.ordered
    assert list(read_convolutions(saved(tensors, tmp_path / "a.pt")).weights) == ["block2", "block10", "block1"]
    assert sorted(["conv_10", "conv", "conv_2", "9", "b"], key=natural) == ["9", "b", "conv", "conv_2", "conv_10"]


def test_files_that_hold_none_are_refused(tmp_path: Path) -> None:
    linear = {"head.weight": torch.ones(2, 2)}
    for content in (linear, {"state_dict": linear}, [torch.ones(1, 1, 1, 1)], torch.ones(1, 1, 1, 1), {}):
        with raises_line(StoreError, path := saved(content, tmp_path / "none.pt"), "four dimensions"):
            read_convolutions(path)
    path = saved({"a.weight": torch.full((1, 1, 1, 1), float("nan"))}, tmp_path / "nan.pt")
    with raises_line(StoreError, path, "a.weight", "finite"):
        read_convolutions(path)
    with raises_line(StoreError, tmp_path / "no.h5", ".safetensors"):
        read_convolutions(tmp_path / "no.h5")


def keras(path: Path, arrays: Mapping[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=np.asarray(array, dtype=np.float32))
    return path


@pytest.mark.parametrize("form", ["{}/vars/0", "model_weights/{0}/{0}/kernel:0"])
def test_kernels_of_keras_are_turned_and_named(form: str, tmp_path: Path) -> None:
    kernels = {name: np.random.default_rng(0).normal(size=(3, 2, 5, 7)) for name in ("conv_10", "conv", "conv_2")}
    arrays = {form.format(name): kernel for name, kernel in kernels.items()}
    momentum = {"optimizer/vars/1": np.ones((3, 2, 5, 7)), "optimizer_weights/m": np.ones((3, 2, 5, 7))}
    found = read_convolutions(keras(tmp_path / "a.weights.h5", arrays | momentum | {"bias": np.ones(7)}))
    assert [layer.rpartition(".")[2] for layer in found.weights] == ["conv", "conv_2", "conv_10"] and not found.ordered
    for layer, weight in found.weights.items():
        kernel = kernels[layer.rpartition(".")[2]].astype(np.float32)
        assert weight.shape == (7, 5, 3, 2)
        for place in np.ndindex(3, 2, 5, 7):
            h, w, i, o = place
            assert weight[o, i, h, w] == kernel[place]


def test_a_depthwise_kernel_has_one_channel_a_filter(tmp_path: Path) -> None:
    kernel = np.arange(3 * 3 * 4 * 2).reshape(3, 3, 4, 2)
    found = read_convolutions(keras(tmp_path / "a.h5", {"layers/depthwise_conv2d/vars/0": kernel}))
    [weight] = found.weights.values()
    assert weight.shape == (8, 1, 3, 3)
    for channel in range(4):
        for time in range(2):  # Keras: output channel = input channel * multiplier + its number
            assert np.array_equal(weight[channel * 2 + time, 0].numpy(), kernel[:, :, channel, time])


def test_separable_kernels_keep_apart(tmp_path: Path) -> None:
    arrays = {"sep/vars/0": np.ones((3, 3, 4, 1)), "sep/vars/1": np.ones((1, 1, 4, 6))}
    assert list(read_convolutions(keras(tmp_path / "a.h5", arrays)).weights) == ["sep", "sep.vars.1"]


def test_hdf5_files_that_lie_are_refused(tmp_path: Path) -> None:
    whole = keras(tmp_path / "whole.h5", {"conv/vars/0": np.ones((3, 3, 2, 2))})
    cut = tmp_path / "cut.h5"
    cut.write_bytes(whole.read_bytes()[:900])
    with raises_line(StoreError, cut, "whole"):
        read_convolutions(cut)
    bomb, outside, linked = (tmp_path / f"{name}.h5" for name in ("bomb", "outside", "linked"))
    with h5py.File(bomb, "w") as file:  # 4 TB of zeros in a kilobyte
        file.create_dataset("conv/vars/0", shape=(1000, 1000, 1000, 1000), dtype="f4", chunks=(1, 1, 100, 100))
    with raises_line(StoreError, bomb, "conv/vars/0"):
        read_convolutions(bomb)
    with h5py.File(outside, "w") as file:
        file.create_dataset("conv/vars/0", shape=(1, 1, 2, 2), dtype="f4", external=[(str(whole), 0, 16)])
    with raises_line(StoreError, outside, "other files"):
        read_convolutions(outside)
    with h5py.File(linked, "w") as file:
        file["conv"] = h5py.ExternalLink(str(whole), "/conv")
    with raises_line(StoreError, linked, "four dimensions"):
        read_convolutions(linked)


def test_without_h5py_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = keras(tmp_path / "a.h5", {"conv/vars/0": np.ones((3, 3, 2, 2))})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with raises_line(StoreError, path, "prunescope[keras]"):
        read_convolutions(path)
