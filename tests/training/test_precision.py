"""bf16 only where its gradients are defined: elsewhere the same command would not give the same numbers."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from models.cifar_resnet import cifar_resnet
from models.cifar_vgg import cifar_vgg_bn
from runners.process.errors import ConfigError
from runners.training.precision import has_bf16, precision, undefined_in_bf16
from support import Command, check_refused, raises_line

TINY = ("dataset=fake", "dataset.num_images=32", "dataset.image_size=8", "model=timm", "model.model_name=resnet10t")
SHORT = ("recipe.epochs=1", "recipe.batch_size=8", "finetune.epochs=0")


def image(size: int) -> torch.Tensor:
    return torch.zeros(1, 3, size, size)


def test_convolutions_that_step_over_their_input_are_named() -> None:
    resnet18 = timm.create_model("resnet18", num_classes=10).eval()
    # Stem, pooling and two stages halve 32 pixels to 2 before layer4; of 16 pixels one is left.
    assert undefined_in_bf16(resnet18, image(32)) == []
    assert undefined_in_bf16(resnet18, image(16)) == ["layer4.0.conv1"]


@pytest.mark.parametrize("size", [16, 32])
def test_our_own_networks_have_none(size: int) -> None:
    assert undefined_in_bf16(cifar_resnet(depth=20, num_classes=10).eval(), image(size)) == []
    assert undefined_in_bf16(cifar_vgg_bn(depth=16, num_classes=10).eval(), image(32)) == []


def test_auto_takes_fp32_there_and_bf16_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1))
    assert precision("auto", network, image(1)) == "fp32"
    assert precision("auto", network, image(2)) == ("bf16" if has_bf16(torch.device("cpu")) else "fp32")
    assert precision("bf16", network, image(2)) == "bf16"
    with raises_line(ConfigError, 0, "precision=fp32"):
        precision("bf16", network, image(1))


def test_a_run_says_what_it_took(command: Command, tmp_path: Path) -> None:
    assert command(*TINY, *SHORT).code == 0
    [facts] = tmp_path.glob("outputs/fake-*/run.json")
    assert json.loads(facts.read_text())["precision"] == "fp32"
    check_refused(command(*TINY, *SHORT, "precision=bf16"), 2, "precision=fp32")


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this CPU has no bf16")
@pytest.mark.parametrize(("pixels", "kernel", "stride"), [(2, 3, 2), (1, 3, 1), (4, 3, 2), (1, 1, 2), (8, 5, 2), (3, 7, 3)])
def test_what_is_let_through_does_not_depend_on_unwritten_memory(pixels: int, kernel: int, stride: int) -> None:
    """Weight gradients are the same whatever lies in memory that was freed: nan would show."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(16, 32, kernel, stride=stride, padding=kernel // 2).to(torch.bfloat16)
    layer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = torch.randn(8, 16, pixels, pixels, generator=generator).to(torch.bfloat16, memory_format=torch.channels_last)
    found = []
    for size in range(1, 9):
        junk = [torch.full((size * length,), float("nan"), dtype=torch.bfloat16) for length in (7, 500, 4000, 30000)]
        del junk
        layer.weight.grad = None
        layer(x).sum().backward()
        assert layer.weight.grad is not None
        found.append(layer.weight.grad.clone())
    assert all(torch.equal(one, found[0]) and one.isfinite().all() for one in found)
