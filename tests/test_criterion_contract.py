"""Every criterion in conf/criterion keeps the rules; a new file is taken in by itself."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from torch import Tensor, nn

from criteria.layer import VIEWS, Criterion, Scores, Weights, needs
from criteria.norm import l1
from support import ROOT

NAMES = sorted(path.stem for path in (ROOT / "conf" / "criterion").glob("*.yaml"))

# How this test shows a weight tensor to a criterion of each kind.
SHOW: dict[type, Callable[[Tensor], Any]] = {Weights: Weights}

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
def criterion_of(name: str) -> Criterion:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return instantiate(compose("config", [f"criterion={name}", "dataset=fake"]).criterion)


@cache
def weight_of(layer: str) -> nn.Parameter:
    torch.manual_seed(0)
    weight = LAYERS[layer][0]().weight
    assert isinstance(weight, nn.Parameter)
    return weight


def test_there_are_criteria_and_every_view_can_be_shown() -> None:
    assert {"l1", "l2", "gm", "fermat"} <= set(NAMES)
    assert set(SHOW) == set(VIEWS), "teach this test to show the new view"


@pytest.mark.parametrize("layer", LAYERS)
def test_filters_are_rows_of_the_output_channels(layer: str) -> None:
    assert tuple(Weights(weight_of(layer)).filters.shape) == LAYERS[layer][1]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_scores(name: str, layer: str) -> None:
    criterion, weight = criterion_of(name), weight_of(layer)
    show = SHOW[needs(criterion)]
    before = weight.detach().clone()
    scores = criterion(show(weight))
    assert scores.shape == (len(weight),) and scores.dtype == torch.float64 and scores.isfinite().all()
    assert scores.device == weight.device and not scores.requires_grad
    assert torch.equal(scores, criterion(show(weight))), "the same input, the same scores"
    assert torch.equal(weight, before) and weight.grad is None, "the input stays as it is"


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_permuting_filters_permutes_scores(name: str, layer: str) -> None:
    criterion, weight = criterion_of(name), weight_of(layer).detach()
    show = SHOW[needs(criterion)]
    scores = criterion(show(weight))
    orders = [torch.arange(len(weight)).flip(0), torch.randperm(len(weight), generator=torch.Generator().manual_seed(1))]
    for order in orders:
        # Sums in another order round otherwise, and iterations stop at a residual of 1e-9.
        torch.testing.assert_close(criterion(show(weight[order])), scores[order], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16))
@pytest.mark.parametrize("name", NAMES)
def test_any_precision(name: str, dtype: torch.dtype) -> None:
    criterion = criterion_of(name)
    scores = criterion(SHOW[needs(criterion)](weight_of("conv").detach().to(dtype)))
    assert scores.dtype == torch.float64 and scores.isfinite().all()


def with_another_view(layer: Tensor) -> Scores:
    return layer.flatten(1).sum(1)


def without_layer(weights: Weights) -> Scores:
    return weights.filters.sum(1)


def test_needs() -> None:
    assert needs(l1) is Weights and needs(partial(l1)) is Weights
    with pytest.raises(TypeError, match=r"l1 takes no keyword \['p'\]; it takes \[\]"):
        needs(partial(l1, p=1))  # pyright: ignore[reportCallIssue]
    for wrong in (lambda layer: layer.filters.sum(1), with_another_view, without_layer):
        for criterion in (wrong, partial(wrong)):
            with pytest.raises(TypeError, match=f"{wrong.__name__} must annotate its argument 'layer' with one of"):
                needs(criterion)
