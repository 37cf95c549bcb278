"""BatchNorm, sum and ReLU as one operation: against float64, against PyTorch's own, and in whole trainings."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from models.cifar_resnet import cifar_resnet
from models.cifar_vgg import cifar_vgg_bn, cifar_vgg_rethink
from runners.data.fake import fake
from runners.data.splits import Splits, load
from runners.process.errors import ConfigError
from runners.process.interruption import Preempted
from runners.pruning.zero import zero
from runners.storage.resume import Checkpoints
from runners.tracing.channels import trace_channels
from runners.training import schedule, state
from runners.training.engine import Engine, gains_from_fusing
from runners.training.fit import Fitted, fit
from runners.training.fused.kernels import (
    compile_all,
    gradient,
    masked_sums,
    moments,
    narrow,
    normalised,
    normalised_sum,
    slopes,
    sums,
    wide,
)
from runners.training.fused.network import fused
from runners.training.fused.norm_relu import NormRelu, is_plain
from runners.training.recipe import Recipe
from support import Command

CPU = torch.device("cpu")
HALF_STEP = 2.0**-8  # rounding to bf16 moves a number by at most this share of it


def drawn(*shape: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + mean
    return values.bfloat16().contiguous(memory_format=torch.channels_last)


def batchnorm(channels: int, seed: int = 5) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean):
            assert values is not None
            values.copy_(torch.randn(channels, generator=generator))
    return norm


def in_float64(norm: nn.BatchNorm2d, x: Tensor, shortcut: Tensor | None, grad: Tensor, y: Tensor) -> dict[str, Tensor]:
    """What the operation and its gradients are, by autograd in float64; ReLU lets through what it let through in `y`."""
    exact = nn.BatchNorm2d(x.shape[1], eps=norm.eps, dtype=torch.float64)
    exact.load_state_dict(norm.state_dict())
    given = {name: value.double().requires_grad_() for name, value in (("x", x), ("shortcut", shortcut)) if value is not None}
    total = exact(given["x"]) + given.get("shortcut", 0)
    (total * (y > 0)).backward(grad.double())
    return {"y": total.detach().relu()} | results(exact, given)


def by_kernels(norm: nn.BatchNorm2d, x: Tensor, shortcut: Tensor | None, grad: Tensor) -> dict[str, Tensor]:
    given = {name: value.clone().requires_grad_() for name, value in (("x", x), ("shortcut", shortcut)) if value is not None}
    y = NormRelu(norm)(*given.values())
    y.backward(grad)
    return {"y": y.detach()} | results(norm, given)


def results(norm: nn.BatchNorm2d, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients and running statistics."""
    found = {name: value.grad for name, value in {**given, "weight": norm.weight, "bias": norm.bias}.items()}
    found |= {"running_mean": norm.running_mean, "running_var": norm.running_var}
    return {name: value for name, value in found.items() if value is not None}


SHAPES = [
    (128, 16, 8, 8),
    (2, 1, 1, 1),
    (3, 7, 5, 5),
    (1, 64, 1, 2),
    (2, 600, 3, 1),
    (101, 3, 1, 1),
    (13, 512, 2, 2),
    (80, 10, 16, 16),
]


@pytest.mark.parametrize("mean", [0.0, 30.0], ids=["centred", "far from zero"])
@pytest.mark.parametrize("with_shortcut", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_float64(shape: tuple[int, ...], with_shortcut: bool, mean: float) -> None:
    x, grad = drawn(*shape, mean=mean), drawn(*shape, seed=1)
    shortcut = drawn(*shape, seed=2) if with_shortcut else None
    norm = batchnorm(shape[1])
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    found = by_kernels(norm, x, shortcut, grad)
    reference = nn.BatchNorm2d(shape[1])
    reference.load_state_dict(before)
    expected = in_float64(reference, x, shortcut, grad, found["y"])
    assert found.keys() == expected.keys()
    spread = 1 + x.float().std().item()
    for name, value in expected.items():
        rounding = HALF_STEP * value.abs() if found[name].dtype == torch.bfloat16 else 0
        # Beyond rounding the result: float32 sums of as many terms, each of the size of the largest.
        slack = 2e-6 * spread * (1 + value.abs().max())
        assert ((found[name].double() - value).abs() <= rounding * 1.001 + slack).all(), name
    assert norm.num_batches_tracked == 1


def test_rounding_to_bf16_is_that_of_pytorch() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    special = [0, 1 << 31, 1, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x3F808000, 0x3F818000, 0x7FC00000, 0xFFC00000]
    values = np.concatenate([bits, np.array(special, np.uint32)]).view(np.float32)
    values = values[~np.isnan(values) | (values.view(np.uint32) & 0xFFFF == 0)]
    found = np.array([narrow(value) for value in values], np.uint16)
    expected = torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(found[numbers], expected[numbers])
    assert all(np.isnan(wide(each)) for each in found[~numbers])
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16)
    again = np.array([wide(each) for each in every.numpy()], np.float32)
    np.testing.assert_array_equal(again, every.view(torch.bfloat16).float().numpy())


def test_what_is_compiled_beforehand_is_all_that_a_training_needs() -> None:
    compile_all()
    loops = [sums, moments, normalised, normalised_sum, masked_sums, slopes, gradient]
    before = [len(loop.signatures) for loop in loops]  # pyright: ignore[reportFunctionMemberAccess]
    for shortcut in (None, drawn(3, 7, 5, 5, seed=2)):
        by_kernels(batchnorm(7), drawn(3, 7, 5, 5), shortcut, drawn(3, 7, 5, 5, seed=1))
    assert [len(loop.signatures) for loop in loops] == before == [1] * len(loops)  # pyright: ignore[reportFunctionMemberAccess]


def test_what_is_not_a_number_comes_through_and_zero_lets_nothing_back() -> None:
    x = drawn(4, 3, 2, 2)
    x[0, 1, 0, 0] = float("nan")
    grad = torch.full_like(x, float("inf"))
    found = by_kernels(batchnorm(3), x, None, grad)
    assert found["y"][:, 1].isnan().all() and not found["y"][:, [0, 2]].isnan().any()
    dead = nn.BatchNorm2d(2)
    nn.init.constant_(dead.bias, -100.0)
    found = by_kernels(dead, drawn(4, 2, 3, 3), drawn(4, 2, 3, 3, seed=1), torch.full((4, 2, 3, 3), float("nan")).bfloat16())
    assert all((found[name] == 0).all() for name in ("y", "x", "shortcut", "weight", "bias"))


@pytest.mark.parametrize(
    "x",
    [torch.randn(4, 3, 5, 5), drawn(4, 3, 5, 5).contiguous(), drawn(4, 3, 5, 5)[:, :, ::2]],
    ids=["float32", "channels first", "every second row"],
)
def test_what_the_kernels_cannot_read_goes_through_pytorch(x: Tensor) -> None:
    ours, theirs = batchnorm(3), batchnorm(3)
    assert torch.equal(NormRelu(ours)(x), F.relu(theirs(x)))
    assert torch.equal(NormRelu(ours)(x, x), F.relu(theirs(x) + x))
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    with pytest.raises(ValueError, match="more than 1 value"):
        NormRelu(batchnorm(3))(drawn(1, 3, 1, 1))
    y = NormRelu(ours.eval())(drawn(4, 3, 5, 5))
    assert torch.equal(y, F.relu(theirs.eval()(drawn(4, 3, 5, 5))))


def test_a_shortcut_of_another_shape_goes_through_pytorch() -> None:
    x, wide_one = drawn(4, 3, 5, 5), drawn(4, 1, 5, 5)
    assert torch.equal(NormRelu(batchnorm(3))(x, wide_one), F.relu(batchnorm(3)(x) + wide_one))


NETWORKS: dict[str, tuple[Callable[..., nn.Module], int]] = {
    # BatchNorms that are joined: with shortcut=conv those of the two shortcuts are not.
    "pad": (partial(cifar_resnet, depth=20), 19),
    "pad_end": (partial(cifar_resnet, depth=20, shortcut="pad_end"), 19),
    "conv": (partial(cifar_resnet, depth=20, shortcut="conv"), 19),
    "vgg": (partial(cifar_vgg_bn, depth=16), 13),
    "vgg_rethink": (partial(cifar_vgg_rethink, depth=16), 13),
}


def gradients(run: Callable[[Tensor], Tensor], network: nn.Module, precision: str) -> Tensor:
    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(3)).contiguous(memory_format=torch.channels_last)
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = F.cross_entropy(run(x), torch.arange(16) % 10)
    loss.backward()
    return torch.cat([value.grad.flatten() for value in network.parameters() if value.grad is not None])


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_a_network_are_no_further_from_fp32_than_pytorchs(name: str) -> None:
    make, n_joined = NETWORKS[name]
    torch.manual_seed(0)
    network = make(num_classes=10).train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    run = fused(network)
    assert sum(isinstance(module, NormRelu) for module in run.modules()) == n_joined
    exact = gradients(network, network, "fp32")
    ours, theirs = ((gradients(each, network, "bf16") - exact).norm() / exact.norm() for each in (run, network))
    assert ours < 1.05 * theirs, (ours, theirs)
    assert ours != theirs, "the kernels ran"


class Reads(nn.Module):
    """One BatchNorm read in some way."""

    def __init__(self, how: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.how = nn.BatchNorm2d(3), how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.norm(x), x)


def _added(y: Tensor, x: Tensor) -> Tensor:
    y += x
    return F.relu(y)


def _added_to_what_is_read_again(y: Tensor, x: Tensor) -> Tensor:
    kept = x * 1
    kept += y
    return F.relu(kept) * kept


def _rectified_in_place(y: Tensor, x: Tensor) -> Tensor:
    F.relu(y, inplace=True)
    return y


def _doubled_in_place(y: Tensor, x: Tensor) -> Tensor:
    found = F.relu(y)
    found.mul_(2)
    return found


def _changed_after_the_sum(y: Tensor, x: Tensor) -> Tensor:
    shortcut = x * 1
    total = y + shortcut
    shortcut.add_(1)
    return F.relu(total)


@pytest.mark.parametrize(
    ("how", "joined"),
    [
        (lambda y, x: torch.relu(y), True),
        (lambda y, x: F.relu(x + y, inplace=True), True),
        (lambda y, x: F.relu(torch.add(y, x)), True),
        (_added, True),
        (_doubled_in_place, True),
        (_added_to_what_is_read_again, False),
        (_rectified_in_place, False),
        (_changed_after_the_sum, False),
        (lambda y, x: x, False),
        (lambda y, x: F.relu(torch.add(y, x, alpha=2)), False),
        (lambda y, x: F.relu(y) + y, False),
        (lambda y, x: F.relu(y + y), False),
        (lambda y, x: F.relu(y + 1), False),
        (lambda y, x: F.relu(input=y), True),
        (lambda y, x: F.relu6(y), False),
        (lambda y, x: F.relu(y * x), False),
        (lambda y, x: F.relu(y.flatten(1)), False),
    ],
)
def test_only_what_means_the_same_is_joined(how: Callable[[Tensor, Tensor], Tensor], joined: bool) -> None:
    network = Reads(how).train()
    run = fused(network)
    assert any(isinstance(module, NormRelu) for module in run.modules()) == joined
    x = torch.randn(6, 3, 4, 4)
    ours = run(x)
    moved = {name: value.clone() for name, value in network.state_dict().items()}
    again = Reads(how).train()
    assert torch.equal(ours, again(x)), "in fp32 the same bits"
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in moved.items())


class Names(nn.Module):
    """A network that names what it gives its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(input=self.norm(input=x))


def test_named_inputs_are_left_alone() -> None:
    x = torch.randn(6, 3, 4, 4)
    assert torch.equal(fused(Names())(x), Names()(x))


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(3, momentum=None),
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.BatchNorm2d(3, dtype=torch.float64),
        nn.SyncBatchNorm(3),
        nn.InstanceNorm2d(3, affine=True),
    ],
    ids=repr,
)
def test_other_normalisations_are_left_alone(norm: nn.Module) -> None:
    assert not is_plain(norm) and is_plain(nn.BatchNorm2d(3))


HOOKS = ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook", "register_full_backward_pre_hook")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("module", ["bn1", "relu", "layer1.0.bn2", "layer1.0.relu2"])
def test_what_is_watched_is_not_joined(module: str, hook: str) -> None:
    network = cifar_resnet(depth=8, num_classes=4).train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    seen: list[nn.Module] = []
    getattr(network.get_submodule(module), hook)(lambda which, *_: seen.append(which))
    run = fused(network)
    assert sum(isinstance(each, NormRelu) for each in run.modules()) == 6
    with torch.autocast("cpu", torch.bfloat16):
        run(torch.randn(4, 3, 8, 8)).sum().backward()
    assert seen == [network.get_submodule(module)]


def test_a_network_that_is_watched_as_a_whole_is_left_as_it_is() -> None:
    network = cifar_resnet(depth=8, num_classes=4)
    network.register_forward_hook(lambda *_: None)
    assert fused(network) is network


def test_a_network_that_depends_on_its_input_is_one_line() -> None:
    with pytest.raises(ConfigError, match="Reads says fixed_graph = True, .*; take fixed_graph out of its class") as caught:
        fused(Reads(lambda y, x: y if x.sum() > 0 else x))
    assert "\n" not in str(caught.value)


class Drops(nn.Module):
    """Nearly all is dropped in training, by a function that is told the mode."""

    fixed_graph = True

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(F.relu(self.norm(self.conv(x))), 0.9, self.training).mean((2, 3))


def test_a_network_is_traced_as_it_trains(tmp_path: Path) -> None:
    network = Drops().eval()
    losses = [
        train(tmp_path / str(engine.fused), engine=engine, network=network)[1]["train_loss_nats"].to_numpy()
        for engine in (FUSED, Engine("bf16"))
    ]
    np.testing.assert_allclose(*losses, rtol=0.02)


def data() -> Splits:
    shape = {"num_images": 50, "channels": 3, "image_size": 16, "num_classes": 4}
    return load(
        fake, {**shape, "score_share": 0.5, "mean": (0.5,) * 3, "std": (0.2,) * 3, "seed": 0, "crop_padding": 1, "flip": True}
    )


FUSED = Engine("bf16", fused=True)
original = Engine.forward


def train(folder: Path, *, engine: Engine = FUSED, network: nn.Module | None = None) -> Fitted:
    torch.manual_seed(0)
    recipe = Recipe(2, 16, 0.05, 1e-3, schedule.constant)
    settings = {"recipe": recipe, "optimizer": partial(SGD, momentum=0.9), "engine": engine, "seed": 0, "label": "train"}
    return fit(network or cifar_resnet(depth=8, num_classes=4), data(), Checkpoints(folder), **settings)


def same(a: Fitted, b: Fitted) -> bool:
    theirs = b[0].state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a[0].state_dict().items()) and a[1].equals(b[1])


def test_a_training_repeats_to_the_bit_and_differs_from_one_by_pytorch_by_rounding(tmp_path: Path) -> None:
    first, plain = train(tmp_path / "first"), train(tmp_path / "plain", engine=Engine("bf16"))
    assert same(first, train(tmp_path / "again"))
    assert not same(first, plain)
    losses = [history["train_loss_nats"].to_numpy() for _, history in (first, plain)]
    np.testing.assert_allclose(*losses, rtol=0.02)
    assert type(first[0]) is type(plain[0]) and list(first[0].state_dict()) == list(plain[0].state_dict())


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = train(tmp_path / "undisturbed")
    steps = 0

    def stop() -> str | None:
        nonlocal steps
        steps += 1
        return "SIGTERM" if steps == 3 else None

    monkeypatch.setattr(state, "requested", stop)
    with pytest.raises(Preempted):
        train(tmp_path / "stopped")
    assert same(undisturbed, train(tmp_path / "stopped"))


def test_masked_filters_stay_zero(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = cifar_resnet(depth=8, num_classes=4).eval()
    masked = zero(network, trace_channels(network, data().example), {"layer1.0.conv2": (0, 5), "layer2.0.conv1": (1,)})
    trained = train(tmp_path, network=masked)[0]
    n_joined = sum(isinstance(module, NormRelu) for module in fused(masked).modules())
    assert n_joined == 5, "all but the two that are masked"
    for layer, norm, filters in (("layer1.0.conv2", "layer1.0.bn2", [0, 5]), ("layer2.0.conv1", "layer2.0.bn1", [1])):
        for name in (layer, norm):
            values = trained.get_parameter(f"{name}.weight")
            assert (values[filters] == 0).all() and (values != 0).any()


def test_who_gains_from_fusing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = cifar_resnet(depth=8, num_classes=4), nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    for threads in (1, 2, 8):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert gains_from_fusing(ours, CPU, "bf16") == (threads == 1)
        assert not gains_from_fusing(ours, CPU, "fp32")
        assert not gains_from_fusing(theirs, CPU, "bf16")
        assert not gains_from_fusing(ours, torch.device("cuda"), "bf16")


@pytest.mark.parametrize(
    ("precision", "compiled", "says"),
    [
        ("bf16", "false", True),
        pytest.param("fp32", "false", False, marks=pytest.mark.slow),
        pytest.param("bf16", "true", False, marks=pytest.mark.slow),
    ],
)
def test_a_run_says_whether_it_was_fused(
    precision: str, compiled: str, says: bool, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The number of threads is what the run reads; the kernels ask nobody.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(Engine, "forward", lambda self, network: network if self.compiled else original(self, network))
    options = ("dataset=fake", "dataset.num_images=40", "dataset.image_size=16", "model=resnet20", "recipe.epochs=1")
    ended = command(*options, "recipe.batch_size=20", "finetune.epochs=0", f"precision={precision}", f"compile={compiled}")
    assert ended.code == 0, ended.err
    [facts] = tmp_path.glob("outputs/fake-*/run.json")
    found = json.loads(facts.read_text())
    assert found["fused"] is says
    assert all(each.endswith(", fused") is says for made in found["made_on"].values() for each in made)
    assert (f"{precision}, BatchNorm and ReLU fused," in ended.out) == says
