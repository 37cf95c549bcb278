"""Criteria from images, through the whole pass, against slow literal versions on the network itself."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache, partial

import numpy as np
import pytest
import torch
from scipy.stats import f_oneway
from torch import Tensor, nn
from torch.nn import functional as F

from criteria.activation import CHIP, APoZ, Entropy, FisherRatio, HRank, nuclear_losses
from criteria.criterion import Criterion
from criteria.gradient import TaylorGate, TaylorPerBatch, snip, taylor_l1, taylor_l2
from criteria.inputs import Wanda
from criteria.layer import Activations, Inputs, Weights
from runners.data.resident import Images
from runners.scoring.score import score
from runners.tracing.channels import trace_channels

LAYERS = ("conv1", "conv2", "conv3", "conv4")
Gate = Callable[[str, Tensor], Tensor]


class Net(nn.Module):
    """Every trap at once: one activation used twice, in place; a sum in place right behind a BatchNorm; no BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 12, 3, padding=1, groups=2), nn.BatchNorm2d(12)
        self.conv3, self.bn3 = nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.conv4 = nn.Conv2d(8, 6, 3)
        self.act = nn.ReLU(inplace=True)
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        y = self.act(self.bn2(self.conv2(x)))
        y = self.bn3(self.conv3(y))
        y += x
        z = self.conv4(self.act(y))
        return self.linear(z.mean((2, 3)))


def gated(net: Net, x: Tensor, gate: Gate) -> Tensor:
    """The same network once more, nothing in place, every layer's output passed through `gate`."""
    x = gate("conv1", F.relu(net.bn1(net.conv1(x))))
    y = gate("conv2", F.relu(net.bn2(net.conv2(x))))
    y = gate("conv3", net.bn3(net.conv3(y)))
    z = gate("conv4", net.conv4(F.relu(y + x)))
    return net.linear(z.mean((2, 3)))


@cache
def case() -> tuple[Net, Images]:
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        for norm in (net.bn1, net.bn2, net.bn3):
            norm.running_mean.normal_(0, 0.3)  # pyright: ignore[reportOptionalMemberAccess]
            norm.running_var.uniform_(0.5, 2)  # pyright: ignore[reportOptionalMemberAccess]
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.5)
    pixels = torch.randint(0, 256, (23, 3, 7, 6), dtype=torch.uint8)
    return net.eval(), Images(pixels, torch.arange(23) % 4, (0.5,) * 3, (0.25,) * 3)


def found(criterion: Criterion, batch_size: int = 10) -> dict[str, np.ndarray]:
    net, images = case()
    channels = trace_channels(net, images.normalise(images.pixels[:1]))
    table = score(net, channels, {"it": criterion}, images, batch_size=batch_size)
    return {str(layer): part["score"].to_numpy() for layer, part in table.groupby("layer")}


def compare(fast: Mapping[str, np.ndarray], slow: Mapping[str, np.ndarray | Tensor], rtol: float) -> None:
    assert list(fast) == list(slow) == list(LAYERS)
    for layer in LAYERS:
        expected = np.asarray(slow[layer])
        assert np.ptp(expected) > 0, f"{layer}: scores that are all the same show nothing"
        np.testing.assert_allclose(fast[layer], expected, rtol=rtol, atol=rtol * np.abs(expected).max(), err_msg=layer)


@torch.no_grad()
def outputs(which: slice = slice(None)) -> dict[str, np.ndarray]:
    """Every layer's output behind BatchNorm and activation, all images at once."""
    net, images = case()
    seen: dict[str, np.ndarray] = {}

    def look(layer: str, output: Tensor) -> Tensor:
        seen[layer] = output.double().numpy()
        return output

    gated(net, images.normalise(images.pixels[which]), look)
    return seen


def weight_gradients(which: slice = slice(None)) -> dict[str, tuple[Tensor, Tensor]]:
    """Weights and gradients of the mean loss, by plain backward, in float64."""
    net, images = case()
    net = deepcopy(net).double()
    loss = F.cross_entropy(net(images.normalise(images.pixels[which]).double()), images.labels[which])
    loss.backward()
    weights = {layer: net.get_parameter(f"{layer}.weight") for layer in LAYERS}
    return {layer: (weight.detach(), weight.grad) for layer, weight in weights.items() if weight.grad is not None}


def test_the_two_networks_of_this_file_are_one() -> None:
    net, images = case()
    x = images.normalise(images.pixels)
    torch.testing.assert_close(gated(net, x, lambda _, output: output), net(x))


@pytest.mark.parametrize(("criterion", "p"), ((taylor_l1, 1), (taylor_l2, 2)))
def test_taylor(criterion: Criterion, p: int) -> None:
    slow = {layer: [float((w * g)[j].norm(p=p)) for j in range(len(w))] for layer, (w, g) in weight_gradients().items()}
    compare(found(criterion), {layer: np.array(values) for layer, values in slow.items()}, rtol=1e-4)


@pytest.mark.parametrize("p", (1, 2))
def test_taylor_per_batch(p: int) -> None:
    # Batches of 10, 10 and 3 images count as such.
    parts = [(weight_gradients(slice(start, stop)), stop - start) for start, stop in ((0, 10), (10, 20), (20, 23))]
    slow = {
        layer: sum(n / 23 * (of[layer][0] * of[layer][1]).flatten(1).norm(p=p, dim=1) for of, n in parts) for layer in LAYERS
    }
    fast = found(TaylorPerBatch(norm=p))  # pyright: ignore[reportArgumentType]
    compare(fast, slow, rtol=1e-4)  # pyright: ignore[reportArgumentType]
    mean = found(taylor_l1 if p == 1 else taylor_l2)
    assert any(np.abs(fast[layer] / mean[layer] - 1).max() > 0.1 for layer in LAYERS), "two definitions, two numbers"


def test_snip_is_the_slope_of_the_loss_by_a_filters_size() -> None:
    net, images = case()
    net = deepcopy(net).double()
    x, step = images.normalise(images.pixels).double(), 1e-5

    @torch.no_grad()
    def loss(layer: str, filter: int, factor: float) -> float:
        changed = deepcopy(net)
        changed.get_parameter(f"{layer}.weight")[filter] *= factor
        return float(F.cross_entropy(changed(x), images.labels))

    def slope(layer: str, filter: int) -> float:
        return abs(loss(layer, filter, 1 + step) - loss(layer, filter, 1 - step)) / (2 * step)

    widths = {layer: len(net.get_parameter(f"{layer}.weight")) for layer in LAYERS}
    slow = {layer: np.array([slope(layer, filter) for filter in range(n)]) for layer, n in widths.items()}
    compare(found(snip), slow, rtol=1e-4)


def test_taylor_gate_is_the_square_of_each_images_slope_by_a_gate() -> None:
    net, images = case()
    total: dict[str, Tensor] = {}
    for i in range(len(images)):
        gates: dict[str, Tensor] = {}

        def gate(layer: str, output: Tensor, gates: dict[str, Tensor] = gates) -> Tensor:
            gates[layer] = torch.ones(1, output.shape[1], 1, 1, requires_grad=True)
            return output * gates[layer]

        F.cross_entropy(gated(net, images.normalise(images.pixels[i : i + 1]), gate), images.labels[i : i + 1]).backward()
        for layer, one in gates.items():
            assert one.grad is not None
            total[layer] = total.get(layer, torch.zeros(())) + one.grad.flatten().double() ** 2 / len(images)
    net.zero_grad(set_to_none=True)
    compare(found(TaylorGate()), {layer: value.numpy() for layer, value in total.items()}, rtol=1e-4)


def test_apoz_and_its_two_sites() -> None:
    slow = {layer: (np.abs(a) > 0.25).mean((0, 2, 3)) for layer, a in outputs().items()}
    compare(found(APoZ(threshold=0.25)), slow, rtol=1e-12)
    before = found(APoZ(threshold=0.25, site="conv_out"))
    # Nothing follows the last convolution; a ReLU behind the first sets what is negative to zero.
    np.testing.assert_array_equal(before["conv4"], slow["conv4"])
    assert (before["conv1"] != slow["conv1"]).all()


def test_apoz_counts_what_is_above_the_threshold() -> None:
    output = torch.tensor([[[[0.0, 1e-4], [2e-4, -3.0]]], [[[0.0, 0.0], [0.0, 1.0]]]])
    criterion = APoZ()
    assert criterion.finish(criterion.reduce(Activations(output, labels=torch.zeros(2, dtype=torch.int64)))).tolist() == [3 / 8]


def slow_entropy(values: np.ndarray, bins: int) -> float:
    counts = np.histogram(values, bins)[0]
    return -sum(n / len(values) * np.log(n / len(values)) for n in counts if n)


def test_entropy() -> None:
    slow = {
        layer: np.array([slow_entropy(a.mean((2, 3))[:, j], 5) for j in range(a.shape[1])]) for layer, a in outputs().items()
    }
    compare(found(Entropy(bins=5)), slow, rtol=1e-9)


def test_golden_entropy() -> None:
    # Specification, section 10, item 41.
    normal = np.random.default_rng(3).standard_normal(1000)
    uniform, constant = np.arange(1000.0), np.full(1000, 0.1)
    state = torch.tensor(np.stack([normal, uniform, constant], axis=1))
    entropy = Entropy().finish(state)
    assert float(entropy[0]) == pytest.approx(4.080612, abs=5e-7)
    assert float(entropy[1]) == pytest.approx(np.log(100), rel=1e-12) and float(entropy[2]) == 0
    assert float(entropy[0]) == pytest.approx(slow_entropy(normal, 100), rel=1e-12)


@pytest.mark.parametrize("images", (None, 12, 10, 4))
def test_hrank_of_the_first_images(images: int | None) -> None:
    slow = {layer: np.linalg.matrix_rank(a).mean(0) for layer, a in outputs(slice(images)).items()}
    fast = found(HRank(images=images))
    for layer in LAYERS:
        np.testing.assert_allclose(fast[layer], slow[layer], rtol=1e-12)
    assert np.ptp(fast["conv2"]) > 0


def slow_nuclear_losses(rows: np.ndarray) -> np.ndarray:
    """As the paper writes it: the nuclear norm with and without row j."""

    def nuclear(matrix: np.ndarray) -> float:
        return np.linalg.svd(matrix, compute_uv=False).sum()

    def without(j: int) -> np.ndarray:
        return np.where(np.arange(len(rows))[:, None] == j, 0, rows)

    return np.array([nuclear(rows) - nuclear(without(j)) for j in range(len(rows))])


@pytest.mark.parametrize("images", (None, 12))
def test_chip(images: int | None) -> None:
    slow = {
        layer: np.mean([slow_nuclear_losses(one.reshape(len(one), -1)) for one in a], axis=0)
        for layer, a in outputs(slice(images)).items()
    }
    compare(found(CHIP(images=images)), slow, rtol=1e-5)


def test_nuclear_losses_of_all_shapes_and_of_rows_that_depend_on_each_other() -> None:
    generator = np.random.default_rng(1)
    for n, positions in ((1, 5), (2, 1), (6, 40), (12, 12), (40, 6)):
        rows = generator.standard_normal((n, positions))
        if n > 4:
            rows[1], rows[2], rows[3] = rows[0], 0, 1e-9 * rows[3]
        for scale in (1.0, 1e-12, 1e12):
            fast = nuclear_losses(torch.tensor(rows[None] * scale))[0].numpy()
            # Eigenvalues of the squares hold half of the digits.
            np.testing.assert_allclose(fast, slow_nuclear_losses(rows * scale), rtol=0, atol=1e-7 * scale * n)
    # Orthogonal rows: each loses its own length.
    rows = np.diag([3.0, 2, 1e-3, 0]) @ np.linalg.qr(generator.standard_normal((9, 4)))[0].T
    np.testing.assert_allclose(nuclear_losses(torch.tensor(rows[None]))[0], [3, 2, 1e-3, 0], rtol=1e-6, atol=1e-7)


def slow_wanda(filters: np.ndarray, x: np.ndarray, groups: int) -> np.ndarray:
    """One weight at a time; `filters` with the output channels first."""
    wide, deep = len(filters) // groups, filters.shape[1]

    def score(j: int) -> float:
        channels = [x[:, j // wide * deep + c] for c in range(deep)]
        return sum(float(np.abs(w).sum()) * np.sqrt(np.square(c).sum()) for w, c in zip(filters[j], channels, strict=True))

    return np.array([score(j) for j in range(len(filters))])


@torch.no_grad()
def inputs(net: nn.Module, x: Tensor, layers: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The tensor that goes into each layer, as it was at that moment."""
    seen: dict[str, np.ndarray] = {}

    def look(module: nn.Module, args: tuple[Tensor]) -> None:
        seen[next(layer for layer in layers if net.get_submodule(layer) is module)] = args[0].double().numpy().copy()

    hooks = [net.get_submodule(layer).register_forward_pre_hook(look) for layer in layers]
    net(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("images", (None, 12))
def test_wanda(images: int | None) -> None:
    net, given = case()
    x = inputs(net, given.normalise(given.pixels[:images]), LAYERS)
    slow = {
        layer: slow_wanda(net.get_parameter(f"{layer}.weight").detach().numpy(), x[layer], net.get_submodule(layer).groups)  # pyright: ignore[reportArgumentType]
        for layer in LAYERS
    }
    compare(found(Wanda(images=images)), slow, rtol=1e-6)
    assert len(net.conv2.weight[0]) == 4, "the second convolution has two groups"


def test_wanda_by_hand() -> None:
    # Input channels (3, 0), (0, 0) and (6, 8), (0, 0) of two images with one position each: norms 3 and 10.
    x = torch.tensor([[3.0, 6.0], [0.0, 8.0]])
    criterion = Wanda()
    state = criterion.reduce(Inputs(x, labels=torch.zeros(2, dtype=torch.int64)))
    assert criterion.finish(state, Weights(torch.tensor([[2.0, 0.0], [0.0, -1.0], [-1.0, 1.0]]))).tolist() == [6, 10, 13]
    # Depthwise: each filter reads a channel of its own.
    assert criterion.finish(state, Weights(torch.tensor([[[1.0, -2.0]], [[0.5, 0.5]]]))).tolist() == [9, 10]


class Tokens(nn.Module):
    """A transposed convolution of groups, and linear layers behind it: over the last dimension, and over features."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.each, self.head = nn.ConvTranspose2d(3, 6, 3, groups=3), nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.each(self.up(x).permute(0, 2, 3, 1)).mean((1, 2)))


def test_wanda_of_transposed_convolutions_and_of_linear_layers() -> None:
    torch.manual_seed(0)
    net, given = Tokens().eval(), case()[1]
    x = inputs(net, given.normalise(given.pixels), ("up", "each", "head"))
    channels = trace_channels(net, given.normalise(given.pixels[:1]))
    parts = [score(net, channels, {"it": Wanda()}, given, layers=layers) for layers in (channels.convolutions, channels.linear)]
    fast = {str(layer): part["score"].to_numpy() for table in parts for layer, part in table.groupby("layer")}
    # Of the transposed one, output channel 2 g + o has the kernel from input channel g.
    up = net.up.weight.detach().numpy().reshape(6, 1, 3, 3)
    np.testing.assert_allclose(fast["up"], slow_wanda(up, x["up"], 3), rtol=1e-6)
    each, head = (layer.weight.detach().numpy()[:, :, None] for layer in (net.each, net.head))
    np.testing.assert_allclose(fast["each"], slow_wanda(each, np.moveaxis(x["each"], -1, 1), 1), rtol=1e-6)
    np.testing.assert_allclose(fast["head"], slow_wanda(head, x["head"], 1), rtol=1e-6)


class Wide(nn.Module):
    """A linear layer over the last dimension, with as many channels as the images have rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.each, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.each(self.conv(x).permute(0, 2, 3, 1)).relu().mean((1, 2)))


def test_activations_and_gates_of_a_linear_layer_have_its_channels_second() -> None:
    torch.manual_seed(0)
    net, given = Wide().eval(), case()[1]
    source = Images(given.pixels[..., :6, :6].contiguous(), given.labels, (0.5,) * 3, (0.25,) * 3)
    x = source.normalise(source.pixels)
    channels = trace_channels(net, x[:1])
    criteria = {"apoz": APoZ(), "fisher": FisherRatio(), "entropy": Entropy(), "gate": TaylorGate()}
    table = score(net, channels, criteria, source, layers=["each"])
    fast = {name: part["score"].to_numpy() for name, part in table.groupby("criterion")}
    # As a 1x1 convolution, whose channels are second.
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    as_conv = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.ReLU(), *pooled)
    parts = {"0": net.conv, "1": net.each, "5": net.head}
    for name, part in parts.items():
        for key, value in part.named_parameters():
            own = as_conv.get_parameter(f"{name}.{key}")
            own.data = value.detach().reshape(own.shape)
    slow = score(as_conv.eval(), trace_channels(as_conv, x[:1]), criteria, source, layers=["1"])
    assert len(table) == 4 * 6
    for name, part in slow.groupby("criterion"):
        np.testing.assert_allclose(fast[name], part["score"].to_numpy(), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("criterion", [FisherRatio(), Entropy()])
def test_an_output_that_is_no_number_is_no_score(criterion: FisherRatio | Entropy, bad: float) -> None:
    values = torch.tensor([[1.0, 1.0], [2.0, bad], [4.0, 3.0]])
    scores = criterion.finish(criterion.reduce(Activations(values, labels=torch.tensor([0, 1, 1]))))
    assert scores[0].isfinite() and not scores[1].isfinite()


def slow_fisher(values: np.ndarray, labels: np.ndarray) -> float:
    parts = [values[labels == label] for label in set(labels)]
    between = sum(len(part) * (part.mean() - values.mean()) ** 2 for part in parts)
    return between / sum(((part - part.mean()) ** 2).sum() for part in parts) if between else 0


@pytest.mark.parametrize("images", (None, 12))
def test_fisher_ratio(images: int | None) -> None:
    labels = case()[1].labels[:images].numpy()
    means = {layer: a.mean((2, 3)) for layer, a in outputs(slice(images)).items()}
    slow = {layer: np.array([slow_fisher(values, labels) for values in a.T]) for layer, a in means.items()}
    fast = found(FisherRatio(images=images))
    compare(fast, slow, rtol=1e-4)
    # SciPy's F statistic, of four classes.
    for layer in LAYERS:
        changes = np.ptp(means[layer], axis=0) > 0
        f = f_oneway(*(means[layer][labels == label][:, changes] for label in range(4))).statistic
        np.testing.assert_allclose(fast[layer][changes] * (len(labels) - 4) / 3, f, rtol=1e-4)
        assert changes.sum() > 4


# Mean outputs and labels of a few images, and the ratio.
FISHER: dict[str, tuple[list[float], list[int], float]] = {
    # Means 2 and 7 about 4.5: between 6.25, within 1.
    "two classes": ([1, 3, 6, 8], [4, 4, 2, 2], 6.25),
    # Means 1 and 5 about 2: between (3 * 1 + 1 * 9) / 4 = 3; within (1 + 0 + 1 + 0) / 4 = 0.5.
    "a class of one image": ([0, 1, 2, 5], [0, 0, 0, 1], 6),
    "equal means": ([1, 3, 0, 4], [0, 0, 1, 1], 0),
    "one class": ([1, 3, 0, 4], [7, 7, 7, 7], 0),
    "never changes": ([0.1] * 7, [0, 0, 0, 1, 1, 1, 1], 0),
    "changes between classes alone": ([0.1, 0.1, 0.1, 0.7], [0, 0, 0, 1], 2.0**52),
    "one image a class": ([1, 3, 0, 4], [0, 1, 2, 3], 2.0**52),
}


@pytest.mark.parametrize("name", FISHER)
def test_fisher_ratio_by_hand(name: str) -> None:
    values, labels, expected = FISHER[name]
    criterion = FisherRatio()
    state = criterion.reduce(Activations(torch.tensor(values, dtype=torch.float64)[:, None], labels=torch.tensor(labels)))
    assert criterion.finish(state).tolist() == [expected]


EXACT: dict[str, Criterion] = {
    "wanda": Wanda(images=15),
    "fisher_ratio": FisherRatio(images=15),
    "taylor_l1": taylor_l1,
    "taylor_l2": taylor_l2,
    "snip": snip,
    "taylor_gate": TaylorGate(),
    "apoz": APoZ(),
    "entropy": Entropy(bins=4),
    "hrank": HRank(images=15),
    "chip": CHIP(images=15),
}


@pytest.mark.parametrize("name", EXACT)
def test_scores_do_not_depend_on_the_batch_size(name: str) -> None:
    one, some, all_ = (found(EXACT[name], batch_size=n) for n in (1, 10, 1000))
    assert any(np.ptp(all_[layer]) > 0 for layer in LAYERS)
    for layer in LAYERS:
        scale = np.abs(all_[layer]).max()
        np.testing.assert_allclose(one[layer], all_[layer], rtol=1e-5, atol=1e-5 * scale, err_msg=layer)
        np.testing.assert_allclose(some[layer], all_[layer], rtol=1e-5, atol=1e-5 * scale, err_msg=layer)


def test_a_partial_criterion_sees_the_same() -> None:
    np.testing.assert_array_equal(found(partial(snip))["conv1"], found(snip)["conv1"])
