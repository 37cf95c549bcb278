"""Tests that need a GPU: `pytest -m gpu`. `test_engine.py` holds the tests of its graphs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from models.cifar_resnet import cifar_resnet
from runners.data.fake import fake
from runners.data.splits import Splits, load
from runners.measuring.evaluate import evaluate
from runners.measuring.recalibrate import recalibrate
from runners.process.counter import fold, permutation, random_integers
from runners.process.errors import ConfigError, ResourceError
from runners.storage.resume import Checkpoints
from runners.tracing.channels import trace_channels
from runners.training import schedule
from runners.training.engine import Engine, cuda_graph
from runners.training.fit import fit
from runners.training.recipe import Recipe
from support import Command, augmented_epochs, raises_line

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True, scope="module")
def needs_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")


def data(num_images: int = 64, size: int = 8) -> Splits:
    shape = {"num_images": num_images, "channels": 3, "image_size": size, "num_classes": 4}
    return load(
        fake, {**shape, "score_share": 0.5, "mean": (0.5,) * 3, "std": (0.25,) * 3, "seed": 0, "crop_padding": 1, "flip": True}
    )


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(depth=8, num_classes=4).eval()


def train(network: nn.Module, splits: Splits, folder: Path, batch_size: int = 16) -> tuple[nn.Module, pd.DataFrame]:
    recipe = Recipe(2, batch_size, 0.05, 1e-3, schedule.constant)
    optimizer = partial(SGD, momentum=0.9, fused=True)
    engine = Engine("fp32", capture=cuda_graph)
    return fit(network, splits, Checkpoints(folder), recipe=recipe, optimizer=optimizer, engine=engine, seed=0, label="train")


def test_random_numbers_are_those_of_the_cpu() -> None:
    index = torch.arange(10_000)
    words = torch.tensor([fold(1, 2)])
    assert torch.equal(random_integers(index.cuda(), 81, words.cuda()[0]).cpu(), random_integers(index, 81, fold(1, 2)))
    assert torch.equal(permutation(50_000, 3, device="cuda").cpu(), permutation(50_000, 3))


def test_batches_are_those_of_the_cpu() -> None:
    splits = data()
    for (x, labels), (on_cpu, labels_on_cpu) in zip(
        *(
            augmented_epochs(images, batch_size=10, crop_padding=2, flip=True)(0, 1)
            for images in (splits.to(torch.device("cuda")).train, splits.train)
        ),
        strict=True,
    ):
        assert torch.equal(labels.cpu(), labels_on_cpu) and torch.allclose(x.cpu(), on_cpu, atol=1e-6)


def test_a_network_measures_and_recalibrates_as_on_the_cpu() -> None:
    splits, network = data(500), resnet()
    found = evaluate(resnet().cuda(), splits.to(torch.device("cuda")).test)
    expected = evaluate(network, splits.test)
    assert found["n_correct"] == expected["n_correct"] and found["loss_nats"] == pytest.approx(expected["loss_nats"], rel=1e-5)
    on_gpu = recalibrate(resnet().cuda(), splits.to(torch.device("cuda")).score).state_dict()
    for name, value in recalibrate(network, splits.score).state_dict().items():
        assert torch.allclose(on_gpu[name].cpu(), value, rtol=1e-4, atol=1e-5), name


def test_channels_are_those_of_the_cpu() -> None:
    example = data().example
    on_gpu, on_cpu = trace_channels(resnet().cuda(), example.cuda()), trace_channels(resnet(), example)
    assert all((on_gpu.writes[layer] == groups).all() for layer, groups in on_cpu.writes.items())
    assert on_gpu.fixed == on_cpu.fixed


class Stumbles(nn.Module):
    """A network whose forward pass does `what` to the images before it looks at them."""

    def __init__(self, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.what, self.inner = what, resnet()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.what(x))


@pytest.mark.parametrize(
    "what",
    [lambda x: x * float(x.mean()), lambda x: x * torch.rand(1), lambda x: x + torch.tensor([1.0]).cuda()],
    ids=["waits for the device", "draws on the CPU", "copies from the host"],
)
def test_a_network_that_cannot_be_captured_is_one_line(what: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    with raises_line(ConfigError, "cuda_graph=false"):
        train(Stumbles(what).cuda(), data().to(torch.device("cuda")), tmp_path)


def test_out_of_memory_names_the_batch(tmp_path: Path) -> None:
    splits = data(4096, size=64).to(torch.device("cuda"))
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1e9 / total)
    try:
        with raises_line(ResourceError, "batch 2048", "GB"):
            train(cifar_resnet(depth=56, num_classes=4).cuda(), splits, tmp_path, batch_size=2048)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_the_whole_command_twice_gives_the_same_tables(command: Command) -> None:
    options = ("model=resnet20", "device=cuda", "recipe.epochs=2", "finetune.epochs=1", "ratio=0.5")
    first = command(*options)
    assert first.code == 0, first.err
    tables = {path.name: path.read_bytes() for path in first.folder.glob("*.csv")}
    again = command(*options, "rerun=true", "cuda_graph=false")
    assert again.code == 0, again.err
    for name in ("scores", "spearman", "selection", "history"):
        assert (again.folder / f"{name}.csv").read_bytes() == tables[f"{name}.csv"], name
