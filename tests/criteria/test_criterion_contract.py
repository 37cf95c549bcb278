"""Every criterion in conf/criterion keeps the rules; a new file is taken in by itself."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from torch import Tensor, nn

from analysis.ensemble import Ensemble
from criteria.activation import APoZ, FisherRatio
from criteria.criterion import BATCH_VIEWS, LAYER_VIEWS, Criterion, DataCriterion, MeanOverImages, needs, needs_of_layer
from criteria.inputs import Wanda
from criteria.layer import Activations, BatchGradients, BatchNorm, Gates, Gradients, Inputs, Label, Scores, Weights
from criteria.norm import l1
from runners.data.resident import Images
from runners.scoring.score import score
from runners.tracing.channels import trace_channels
from support import ROOT, raises_line


def noise(images: int, channels: int, seed: int) -> Tensor:
    return torch.randn(images, channels, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def input_of(weight: Tensor, seed: int, images: int) -> Tensor:
    """Feature maps that go into a layer, of two groups if it can have them: these have the same maps, so that filters of
    different groups may change places.
    """
    return noise(images, weight.shape[1], seed).repeat(1, 2 if len(weight) % 2 == 0 else 1, 1, 1).to(weight.dtype)


def output_of(weight: Tensor, seed: int, images: int) -> Tensor:
    """The output of a layer with these filters and a ReLU for random patches; a filter of zeros puts out zeros."""
    filters = weight.detach().flatten(1).double()
    return torch.einsum("of,ifhw->iohw", filters, noise(images, filters.shape[1], seed)).relu().to(weight.dtype)


def labels_of(images: int) -> Tensor:
    return torch.arange(images) % 2


# How this test shows a weight tensor to a criterion of each kind; a filter of zeros has zeros everywhere.
SHOW: dict[type, Callable[[Tensor], Any]] = {
    Label: lambda weight: Label("conv", len(weight)),
    Weights: Weights,
    BatchNorm: lambda weight: BatchNorm(weight.detach().flatten(1).mean(1), weight.detach().flatten(1).amin(1)),
    Gradients: lambda weight: Gradients(weight.detach(), weight.detach().cos()),
}
SHOW_BATCH: dict[type, Callable[[Tensor, int, int], Any]] = {
    Inputs: lambda weight, seed, images: Inputs(input_of(weight, seed, images), labels=labels_of(images)),
    Activations: lambda weight, seed, images: Activations(output_of(weight, seed, images), labels=labels_of(images)),
    Gates: lambda weight, seed, images: Gates(
        output_of(weight, seed, images), output_of(weight, seed, images).cos(), labels=labels_of(images)
    ),
    BatchGradients: lambda weight, seed, images: BatchGradients(weight.detach(), (weight.detach() + seed).cos(), images),
}
# A filter that does nothing scores lowest by every criterion but these: one looks at angles alone, one at nothing.
NOT_BY_SIZE = {"repr", "random"}


def scores_of(criterion: Criterion, weight: Tensor) -> Tensor:
    kind = needs_of_layer(criterion)
    layer = [] if kind is None else [SHOW[kind](weight)]
    if not isinstance(criterion, DataCriterion):
        return criterion(*layer)
    batches = [SHOW_BATCH[needs(criterion)](weight, seed, images) for seed, images in ((1, 5), (2, 3))]
    states = [criterion.reduce(batch) for batch in batches]
    return criterion.finish(torch.cat(states) if criterion.joins else states[0] + states[1], *layer)


# Each makes a layer; the shape of its filters (number, length) is worked by hand.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "conv": (lambda: nn.Conv2d(16, 32, 3), (32, 144)),
    "channels last": (lambda: nn.Conv2d(16, 32, 3).to(memory_format=torch.channels_last), (32, 144)),  # pyright: ignore[reportCallIssue]
    "pointwise": (lambda: nn.Conv2d(16, 24, 1), (24, 16)),
    # Specification, section 10, item 44.
    "grouped": (lambda: nn.Conv2d(32, 64, 3, groups=4), (64, 72)),
    "depthwise": (lambda: nn.Conv2d(64, 64, 3, groups=64), (64, 9)),
    "depthwise pointwise": (lambda: nn.Conv2d(8, 8, 1, groups=8), (8, 1)),
    "one filter": (lambda: nn.Conv2d(3, 1, 3), (1, 27)),
    "two filters": (lambda: nn.Conv2d(3, 2, 3), (2, 27)),
    "conv1d": (lambda: nn.Conv1d(4, 8, 5), (8, 20)),
    "linear": (lambda: nn.Linear(64, 10), (10, 64)),
}


@cache
def criterion_of(name: str) -> Any:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return instantiate(compose("config", [f"criterion={name}", "dataset=fake"]).criterion, _convert_="object")


# An ensemble is made of the score table, which tests/analysis/test_ensemble.py is about.
NAMES = [path.stem for path in sorted((ROOT / "conf" / "criterion").glob("*.yaml")) if path.stem != "ensemble"]


@cache
def weight_of(layer: str) -> nn.Parameter:
    torch.manual_seed(0)
    weight = LAYERS[layer][0]().weight
    assert isinstance(weight, nn.Parameter)
    return weight


def test_there_are_criteria_and_every_view_can_be_shown() -> None:
    assert {"l1", "l2", "gm", "fermat", "apoz", "taylor_gate"} <= set(NAMES)
    assert (tuple(SHOW), tuple(SHOW_BATCH)) == (LAYER_VIEWS, BATCH_VIEWS), "teach this test to show the new view"
    assert isinstance(criterion_of("ensemble"), Ensemble)


@pytest.mark.parametrize("layer", LAYERS)
def test_filters_are_rows_of_the_output_channels(layer: str) -> None:
    assert tuple(Weights(weight_of(layer)).filters.shape) == LAYERS[layer][1]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_scores(name: str, layer: str) -> None:
    criterion, weight = criterion_of(name), weight_of(layer)
    before = weight.detach().clone()
    scores = scores_of(criterion, weight)
    assert scores.shape == (len(weight),) and scores.dtype == torch.float64 and scores.isfinite().all()
    assert scores.device == weight.device and not scores.requires_grad
    assert torch.equal(scores, scores_of(criterion, weight)), "the same input, the same scores"
    assert torch.equal(weight, before) and weight.grad is None, "the input stays as it is"


@pytest.mark.parametrize("name", NAMES)
def test_reducing_a_batch_leaves_it_as_it_is(name: str) -> None:
    criterion = criterion_of(name)
    if isinstance(criterion, DataCriterion):
        batch = SHOW_BATCH[needs(criterion)](weight_of("conv"), 1, 4)
        before = {key: value.clone() for key, value in vars(batch).items() if isinstance(value, Tensor)}
        criterion.reduce(batch)
        assert before and all(torch.equal(value, vars(batch)[key]) for key, value in before.items())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_permuting_filters_permutes_scores(name: str, layer: str) -> None:
    criterion, weight = criterion_of(name), weight_of(layer).detach()
    scores = scores_of(criterion, weight)
    orders = [torch.arange(len(weight)).flip(0), torch.randperm(len(weight), generator=torch.Generator().manual_seed(1))]
    for order in orders:
        # A criterion that sees only a name and a number cannot know of the permutation.
        expected = scores if needs(criterion) is Label else scores[order]
        # Sums in another order round otherwise, iterations stop at a residual of 1e-9, nuclear norms at 1e-8.
        torch.testing.assert_close(scores_of(criterion, weight[order]), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("layer", ("conv", "pointwise", "depthwise", "linear"))
@pytest.mark.parametrize("name", sorted(set(NAMES) - NOT_BY_SIZE))
def test_higher_means_keep(name: str, layer: str) -> None:
    weight = weight_of(layer).detach().clone()
    weight[3] = 0
    scores = scores_of(criterion_of(name), weight)
    assert scores.argmin() == 3 and (scores > scores[3]).sum() >= len(weight) // 2, "a filter that does nothing goes first"


DEGENERATE: dict[str, Callable[[Tensor], Tensor]] = {
    "all zero": torch.zeros_like,
    "all the same": lambda weight: weight[:1].expand_as(weight).clone(),
    "constant": lambda weight: torch.full_like(weight, 0.1),
    "two the same": lambda weight: torch.cat([weight[:1], weight[:-1]]),
    "one zero": lambda weight: torch.cat([torch.zeros_like(weight[:1]), weight[1:]]),
    "huge": lambda weight: weight * 1e15,
    "tiny": lambda weight: weight * 1e-15,
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("name", NAMES)
def test_degenerate_layers(name: str, case: str) -> None:
    criterion = criterion_of(name)
    for layer in ("conv", "depthwise pointwise", "one filter", "two filters"):
        weight = DEGENERATE[case](weight_of(layer).detach())
        scores = scores_of(criterion, weight)
        assert scores.shape == (len(weight),) and scores.isfinite().all(), layer
        if case in ("all zero", "all the same", "constant") and needs(criterion) is not Label:
            torch.testing.assert_close(scores, scores[:1].expand_as(scores), rtol=1e-7, atol=1e-7 * float(scores.abs().max()))


@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16))
@pytest.mark.parametrize("name", NAMES)
def test_any_precision(name: str, dtype: torch.dtype) -> None:
    scores = scores_of(criterion_of(name), weight_of("conv").detach().to(dtype))
    assert scores.dtype == torch.float64 and scores.isfinite().all()


def with_another_view(layer: Tensor) -> Scores:
    return layer.flatten(1).sum(1)


def without_layer(weights: Weights) -> Scores:
    return weights.filters.sum(1)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """The scores of all criteria on layers of every kind, by the pass that runs use."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.ConvTranspose2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2), nn.BatchNorm2d(4)),
        *(nn.Flatten(), nn.Linear(64, 10)),
    )
    pixels = torch.randint(0, 256, (12, 3, 6, 6), dtype=torch.uint8)
    images = Images(pixels, torch.arange(12) % 4, (0.5,) * 3, (0.25,) * 3)
    channels = trace_channels(network, images.normalise(pixels[:1]))
    criteria = {name: criterion_of(name) for name in NAMES}
    return score(network, channels, criteria, images, batch_size=5)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_serves_it(name: str, table: pd.DataFrame) -> None:
    assert table[table["criterion"] == name].groupby("layer").size().to_dict() == {"0": 6, "3": 6, "6": 4}


class WithoutBatch(DataCriterion):
    def reduce(self, output: Activations) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return output.averages

    def finish(self, state: Tensor) -> Scores:
        return state.double().mean(0)


class ScoreWithoutBatch(MeanOverImages):
    def score(self, output: Activations) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return output.averages


class FinishWithAnotherView(FisherRatio):
    def finish(self, state: Tensor, layer: Tensor) -> Scores:  # pyright: ignore[reportIncompatibleMethodOverride]
        return state.double().mean(0) + layer


class AtAnotherSite(MeanOverImages):
    site: Any = "relu"

    def score(self, batch: Activations) -> Tensor:
        return batch.averages


def test_needs() -> None:
    with raises_line(TypeError, "WithoutBatch.reduce", "'batch'", "'Inputs'"):
        needs(WithoutBatch())
    with raises_line(TypeError, "ScoreWithoutBatch.score", "'batch'", "'Activations'"):
        needs(ScoreWithoutBatch())
    with raises_line(TypeError, "FinishWithAnotherView.finish", "'layer'", "'Weights'"):
        needs_of_layer(FinishWithAnotherView())
    assert needs(l1) is Weights and needs(partial(l1)) is Weights and needs_of_layer(partial(l1)) is Weights
    assert (needs(Wanda()), needs_of_layer(Wanda())) == (Inputs, Weights)
    assert (needs(APoZ()), needs_of_layer(APoZ())) == (Activations, None)
    with raises_line(TypeError, "l1", ["p"]):
        needs(partial(l1, p=1))  # pyright: ignore[reportCallIssue]
    with raises_line(TypeError, "'relu'", "'post_act'", "'conv_out'"):
        needs(AtAnotherSite())
    with raises_line(TypeError, "APoZ", "_partial_"):
        needs(partial(APoZ, threshold=1))  # pyright: ignore[reportArgumentType]
    for wrong in (lambda layer: layer.filters.sum(1), with_another_view, without_layer):
        for criterion in (wrong, partial(wrong)):
            with raises_line(TypeError, wrong.__name__, "'layer'", "'Weights'"):
                needs(criterion)
